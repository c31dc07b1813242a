"""Blocks as plain text for reading: no marks, no addresses; lists and tables keep their form."""

from __future__ import annotations

import unicodedata
from typing import Final

from cxp2p_node.scrape.blocks import (
    Block,
    Break,
    Close,
    Code,
    Formula,
    Heading,
    InlineCode,
    Line,
    Listing,
    Mark,
    Open,
    Paragraph,
    Quote,
    Rule,
    Table,
)

TABLE_WIDTH_MAX: Final = 120  # wider ones have their cells divided by tabs
COLUMN_WIDTH_MAX: Final = 40

_RAISED: Final = str.maketrans("0123456789+-=()ni", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱ")
_LOWERED: Final = str.maketrans("0123456789+-=()", "₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎")


def plain(blocks: list[Block]) -> str:
    """The blocks with an empty line between them."""
    return "\n\n".join(filter(None, map(_block, blocks)))


def _block(block: Block) -> str:
    match block:
        case Paragraph(line) | Heading(_, line):
            return plain_line(line)
        case Code(text, _):
            return text
        case Quote(blocks):
            return "\n".join(f"> {line}" if line else ">" for line in plain(blocks).split("\n")) if blocks else ""
        case Listing():
            return _listing(block)
        case Table():
            return _table(block)
        case Rule():
            return ""


def plain_line(line: Line, line_break: str = "\n") -> str:
    """One paragraph."""
    out: list[str] = []
    digits: list[dict[int, int]] = []
    for piece in line:
        match piece:
            case str() if digits:
                moved = piece.translate(digits[-1])
                out.append(piece if any(each.isascii() and each != " " for each in moved) else moved)
            case str() | InlineCode():
                out.append(piece if isinstance(piece, str) else piece.text)
            case Formula(tex, _):
                out.append(tex)
            case Break():
                out.append(line_break)
            case Open(Mark.RAISED | Mark.LOWERED as mark):
                digits.append(_RAISED if mark is Mark.RAISED else _LOWERED)
            case Close(Mark.RAISED | Mark.LOWERED) if digits:
                digits.pop()
    return "".join(out).strip()


def _listing(listing: Listing) -> str:
    items: list[str] = []
    number = listing.start
    for item in listing.items:
        lists = [index for index, block in enumerate(item) if isinstance(block, Listing)]
        together = len(item) <= 1 or lists == list(range(1, len(item)))
        body = ("\n" if together else "\n\n").join(filter(None, map(_block, item)))
        if not body:
            continue
        marker = "- " if number is None else f"{number}. "
        indent = " " * len(marker)
        items.append(marker + "\n".join(indent + row if row and at else row for at, row in enumerate(body.split("\n"))))
        number = None if number is None else number + 1
    return "\n".join(items)


def _table(table: Table) -> str:
    rows = [[plain_line(cell, " / ") for cell in row] for row in table.rows]
    widths: list[int] = []
    for row in rows:
        widths.extend([0] * (len(row) - len(widths)))
        for index, cell in enumerate(row):
            widths[index] = max(widths[index], _width(cell))
    if sum(widths) + 2 * len(widths) > TABLE_WIDTH_MAX or max(widths, default=0) > COLUMN_WIDTH_MAX:
        return "\n".join("\t".join(row).rstrip() for row in rows)
    return "\n".join(
        "  ".join(cell + " " * (widths[index] - _width(cell)) for index, cell in enumerate(row)).rstrip()
        for row in rows
    )


def _width(text: str) -> int:
    """In columns of a terminal."""
    if text.isascii():
        return len(text)
    return sum(2 if unicodedata.east_asian_width(each) in "WF" else 1 for each in text)
