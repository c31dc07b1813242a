"""Tables: which hold data and which only place things on the page, and their cells as a grid."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple

from cxp2p_node.scrape.blocks import Align, Line, Table
from cxp2p_node.scrape.tags import CELLS, ROW_GROUPS, names
from cxp2p_node.scrape.tree import Node

COLUMNS_MAX: Final = 64  # that one cell may span
REPEATED_MAX: Final = 20_000  # cells that exist only because others span them
CELL_CHARACTERS_MAX: Final = 1_200  # a longer cell holds a part of the page, not a datum
CELL_CHARACTERS_MEAN_MAX: Final = 160
NAME_CHARACTERS_MAX: Final = 40  # of a column

_ALIGN: Final = re.compile(r"text-align\s*:\s*(left|center|right)")
_PARTS: Final = names("h1 h2 h3 article section form fieldset figure pre")


class Cell(NamedTuple):
    """A <td> or <th>, and how many columns and rows it takes."""

    node: Node
    columns: int
    rows: int


class Row(NamedTuple):
    """A <tr>. `head`: it stands in a <thead>."""

    cells: list[Cell]
    head: bool


def rows_of(table: Node) -> list[Row]:
    """Its own rows, those of tables in it left out; a head first and a foot last, wherever they stand."""
    head: list[Row] = []
    body: list[Row] = []
    foot: list[Row] = []
    for part in table.elements():
        if part.tag in ROW_GROUPS:
            into = {"thead": head, "tfoot": foot}.get(part.tag, body)
            into.extend(_row(row, part.tag == "thead") for row in part.elements() if row.tag == "tr" and not row.gone)
        elif part.tag == "tr" and not part.gone:
            body.append(_row(part, False))
    return [row for row in (*head, *body, *foot) if row.cells]


def _row(node: Node, head: bool) -> Row:
    return Row([_cell(cell) for cell in node.elements() if cell.tag in CELLS and not cell.gone], head)


def _cell(node: Node) -> Cell:
    if "span=" not in node.raw:
        return Cell(node, 1, 1)
    return Cell(node, max(1, min(COLUMNS_MAX, _count(node, "colspan"))), max(1, _count(node, "rowspan")))


def _count(cell: Node, name: str) -> int:
    value = cell.get(name).strip()
    return int(value) if value.isdecimal() and value.isascii() and len(value) < 6 else 1


def holds_data(table: Node) -> bool:
    """Whether it is a table for readers, not one for the page's looks."""
    role = table.get("role")
    if role in ("presentation", "none"):
        return False
    rows = rows_of(table)
    cells = [cell for row in rows for cell in row.cells]
    if len(cells) < 2 or len(rows) < 2 or max(len(row.cells) for row in rows) < 2:
        return False
    sizes = [cell.node.chars for cell in cells]
    said = table.get("summary") or any(part.tag in ("caption", "thead") for part in table.elements())
    headed = said or any(cell.node.tag == "th" for cell in cells)
    if max(sizes) > CELL_CHARACTERS_MAX * (3 if headed else 1):
        return False
    if headed or role in ("grid", "table"):
        return True
    if sum(sizes) > CELL_CHARACTERS_MEAN_MAX * len([size for size in sizes if size]):
        return False
    return not any(inner.tag in _PARTS or (inner.tag == "table" and inner is not table) for inner in table.walk())


def read_table(table: Node, read: Callable[[Node], Line]) -> Table:
    """Its cells as a grid. What spans several rows or columns is repeated in each, but not all across the table."""
    rows = rows_of(table)
    width = max(sum(cell.columns for cell in row.cells) for row in rows)
    grid: list[list[Line]] = []
    below: dict[int, tuple[int, Line]] = {}  # by column: how many more rows a cell above takes
    left = REPEATED_MAX
    for row in rows:
        line: list[Line] = []
        if left <= 0:
            below.clear()
        for cell in row.cells:
            left -= _come_down(line, below)
            content = read(cell.node)
            columns = cell.columns if left > 0 else 1
            across = columns > 1 and columns >= width
            for number in range(columns):
                if cell.rows > 1 and left > 0:
                    below[len(line)] = (cell.rows - 1, content)
                line.append([] if across and number else content)
            left -= columns - 1
        left -= _come_down(line, below)
        grid.append(line)
    headed = _headed(rows, grid)
    return Table(_trimmed(grid, headed), headed, _aligns(rows))


def _come_down(line: list[Line], below: dict[int, tuple[int, Line]]) -> int:
    count = 0
    while (at := below.pop(len(line), None)) is not None:
        if at[0] > 1:
            below[len(line)] = (at[0] - 1, at[1])
        line.append(at[1])
        count += 1
    return count


def _headed(rows: list[Row], grid: list[list[Line]]) -> bool:
    first = rows[0]
    if first.head or all(cell.node.tag == "th" for cell in first.cells):
        return True
    if any(cell.node.tag == "th" for row in rows for cell in row.cells):
        corner = first.cells[0]  # often the corner is a plain cell
        others = first.cells[1:]
        return bool(others) and not corner.node.chars and all(cell.node.tag == "th" for cell in others)
    words = [cell.node.words() for cell in first.cells]
    if not all(0 < len(word) <= NAME_CHARACTERS_MAX and not _number(word) for word in words):
        return False
    return _bold(first) or any(_number(cell.node.words()) for row in rows[1:] for cell in row.cells)


def _number(words: str) -> bool:
    """Whether it is a quantity, in whatever currency or unit of one sign."""
    if not 0 < len(words) <= NAME_CHARACTERS_MAX:
        return False
    return any(each.isdecimal() for each in words) and not any(each.isalpha() for each in words)


def _bold(row: Row) -> bool:
    return all(any(inner.tag in ("b", "strong") for inner in cell.node.walk()) for cell in row.cells)


def _trimmed(grid: list[list[Line]], headed: bool) -> list[list[Line]]:
    """Without rows and last columns that are empty."""
    kept = [line for number, line in enumerate(grid) if any(line) or (headed and not number)]
    width = max((index + 1 for line in kept for index, cell in enumerate(line) if cell), default=0)
    return [line[:width] for line in kept] if width else []


def _aligns(rows: list[Row]) -> list[Align]:
    found: list[Align] = []
    for row in rows[:2]:
        found = []
        for cell in row.cells:
            said = cell.node.get("align").lower()
            styled = _ALIGN.search(cell.node.get("style"))
            align = Align(said) if said in ("left", "center", "right") else Align(styled[1]) if styled else Align.UNSAID
            found.extend([align] * cell.columns)
        if any(align is not Align.UNSAID for align in found):
            break
    return found
