"""Blocks as Markdown: CommonMark with the tables of GitHub. A parser reads back the text, the links and the cells."""

from __future__ import annotations

import re
from typing import Final

from cxp2p_node.scrape.blocks import Align, Block, Code, Heading, Line, Listing, Paragraph, Quote, Rule, Table
from cxp2p_node.scrape.inline import markdown_line

NUMBER_MAX: Final = 999_999_999  # of a list item, in CommonMark

_FENCES: Final = re.compile(r"^[ ]{0,3}(`{3,})", re.MULTILINE)
_DELIMITERS: Final = {Align.UNSAID: "---", Align.LEFT: ":--", Align.CENTER: ":-:", Align.RIGHT: "--:"}


def markdown(blocks: list[Block]) -> str:
    """The blocks with an empty line between them."""
    return "\n\n".join(_parts(blocks))


def _parts(blocks: list[Block]) -> list[str]:
    parts: list[str] = []
    other = False  # two lists in a row need different markers, or they are one
    for index, block in enumerate(blocks):
        before = blocks[index - 1] if index else None
        if isinstance(block, Listing):
            same = isinstance(before, Listing) and (before.start is None) == (block.start is None)
            other = same and not other
            text = _listing(block, other)
        else:
            text = _block(block)
        if text:
            parts.append(text)
    return parts


def _block(block: Block) -> str:
    match block:
        case Paragraph(line):
            return markdown_line(line)
        case Heading(level, line):
            text = markdown_line(line, " ").strip()
            return f"{'#' * level} {_not_closing(text)}" if text else ""
        case Code(text, language):
            return _code(text, language)
        case Quote(blocks):
            return "\n".join(f"> {line}" if line else ">" for line in markdown(blocks).split("\n")) if blocks else ""
        case Table():
            return _table(block)
        case Rule():
            return "---"
        case Listing():
            return _listing(block, False)


def _not_closing(text: str) -> str:
    """Number signs at the end of a heading would be taken for its end."""
    return f"{text[:-1]}\\#" if text.endswith("#") else text


def _code(text: str, language: str) -> str:
    longest = max(map(len, _FENCES.findall(text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _listing(listing: Listing, other: bool) -> str:
    items: list[str] = []
    number = listing.start
    loose = any(_loose(item) for item in listing.items)
    for item in listing.items:
        parts = _parts(item)
        if not parts:
            continue
        marker = ("*" if other else "-") if number is None else f"{min(number, NUMBER_MAX)}{')' if other else '.'}"
        body = ("\n\n" if loose else "\n").join(parts)
        indent = " " * (len(marker) + 1)
        items.append(f"{marker} " + _indented(body, indent))
        number = None if number is None else number + 1
    return ("\n\n" if loose else "\n").join(items)


def _loose(item: list[Block]) -> bool:
    """Whether it needs empty lines: all but a paragraph with lists below it does."""
    return any(not isinstance(block, Listing) for block in item[1:]) or not isinstance(
        item[0] if item else None, (Paragraph, Heading, Code, Listing, type(None))
    )


def _indented(text: str, indent: str) -> str:
    return "\n".join(indent + line if line and number else line for number, line in enumerate(text.split("\n")))


def _table(table: Table) -> str:
    if not table.rows:
        return ""
    rows = [[_cell(cell) for cell in row] for row in table.rows]
    width = max(map(len, rows))
    head, body = (rows[0], rows[1:]) if table.headed else ([], rows)
    aligns = (table.aligns + [Align.UNSAID] * width)[:width]
    lines = [_row(head + [""] * (width - len(head))), _row([_DELIMITERS[align] for align in aligns])]
    lines.extend(_row(row) for row in body)
    return "\n".join(lines)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(line: Line) -> str:
    return markdown_line(line, "<br>").replace("|", "\\|").strip()
