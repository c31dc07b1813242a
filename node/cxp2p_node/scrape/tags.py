"""What kinds of elements there are."""

from __future__ import annotations

from typing import Final


def names(text: str) -> frozenset[str]:
    """The words of `text`."""
    return frozenset(text.split())


def in_order(text: str) -> tuple[str, ...]:
    """The words of `text`, the first one first."""
    return tuple(text.split())


VOID: Final = names(
    "area base basefont bgsound br col embed frame hr image img input keygen link meta param source track wbr"
)
FORMATTING: Final = names("a b big code em font i nobr s small strike strong tt u")
BLOCK: Final = names(
    "address article aside blockquote center details dialog dir div dl fieldset figcaption figure footer form h1 h2 h3"
    " h4 h5 h6 header hgroup hr listing main menu nav ol p pre search section summary table ul xmp"
)
HEADINGS: Final = names("h1 h2 h3 h4 h5 h6")
CELLS: Final = names("td th")
ROW_GROUPS: Final = names("tbody thead tfoot")
