"""What a page consists of, once it is read: the vocabulary between the reader of the tree and the writers."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias


class Mark(Enum):
    """What is done to a part of a line: these open and close."""

    STRONG = "strong"
    EMPHASIS = "em"
    STRUCK = "del"
    RAISED = "sup"
    LOWERED = "sub"


@dataclass(frozen=True, slots=True)
class Open:
    """Here a mark begins."""

    mark: Mark


@dataclass(frozen=True, slots=True)
class Close:
    """Here a mark ends."""

    mark: Mark


@dataclass(frozen=True, slots=True)
class LinkStart:
    """Here a link begins. `url` is absolute."""

    url: str


@dataclass(frozen=True, slots=True)
class LinkEnd:
    """Here the link ends."""


@dataclass(frozen=True, slots=True)
class InlineCode:
    """Code within a line."""

    text: str


@dataclass(frozen=True, slots=True)
class Formula:
    """TeX within a line, or on a line of its own."""

    tex: str
    alone: bool


@dataclass(frozen=True, slots=True)
class Image:
    """A picture. `url` is absolute."""

    alt: str
    url: str


@dataclass(frozen=True, slots=True)
class Break:
    """A new line within a paragraph."""


# A str is text, its white space already one space.
Piece: TypeAlias = str | Open | Close | LinkStart | LinkEnd | InlineCode | Formula | Image | Break
Line: TypeAlias = list[Piece]


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Running text."""

    line: Line


@dataclass(frozen=True, slots=True)
class Heading:
    """`level` is 1 to 6."""

    level: int
    line: Line


@dataclass(frozen=True, slots=True)
class Code:
    """Lines of a program. `language` is "" if the page does not say."""

    text: str
    language: str


@dataclass(frozen=True, slots=True)
class Rule:
    """A line across."""


@dataclass(frozen=True, slots=True)
class Quote:
    """Somebody else's words."""

    blocks: list[Block] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Listing:
    """A list. `start` is the number of the first item, None if it is not numbered."""

    start: int | None
    items: list[list[Block]] = field(default_factory=list)


class Align(Enum):
    """How a column stands."""

    UNSAID = ""
    LEFT = "left"
    CENTER = "center"
    RIGHT = "right"


@dataclass(frozen=True, slots=True)
class Table:
    """Cells by rows, all of the same length. `headed`: the first row says what the columns are."""

    rows: list[list[Line]]
    headed: bool
    aligns: list[Align]


Block: TypeAlias = Paragraph | Heading | Code | Rule | Quote | Listing | Table
