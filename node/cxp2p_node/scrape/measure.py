"""How much text there is in each part of a page, and how much of that people would read.

A block is worth as much as it has text that is not links; a short one, a label or a button perhaps, is worth less.
"""

from __future__ import annotations

import re
from typing import Final

from cxp2p_node.scrape.tags import HEADINGS, names
from cxp2p_node.scrape.tree import Node

PROSE_CHARACTERS: Final = 80  # a block of so much text, not links, is no label and no button
HEADING_WORTH: Final = 5.0
SHORT_WORTH: Final = 0.25  # of each character of a block that is no prose

_SILENT: Final = names("button select textarea input head title option")
_WIDE: Final = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\u0e00-\u0e7f]")


def measure(nodes: list[Node]) -> None:
    """Sets what `Node` has for it, of every element that has lines of its own, of all that is in it."""
    for node in nodes:
        node.chars = node.linked_chars = node.proses = 0
        node.worth = 0.0
        node.gone = node.bare = False
    for node in nodes:
        if node.tag not in _SILENT:
            _count(node)
    for node in nodes:
        if node.chars:
            node.worth = _worth(node)
            node.proses = int(node.worth >= PROSE_CHARACTERS)
    for node in reversed(nodes):
        if node.chars and node.block is node and node.parent is not None:
            above = node.parent.block
            above.chars += node.chars
            above.linked_chars += node.linked_chars
            above.worth += node.worth
            above.proses += node.proses


def _count(node: Node) -> None:
    block = node.block
    for child in node.children:
        if isinstance(child, str):
            text = child.strip()
            size = len(text)
            if size and not text.isascii():
                size += size - len(_WIDE.sub("", text))  # a sign of these scripts says as much as some letters
            block.chars += size
            if node.linked:
                block.linked_chars += size


def _worth(node: Node) -> float:
    """Of the text of a block itself."""
    size, linked = node.chars, node.linked_chars
    if node.tag in ("pre", "code"):
        return float(size)
    if linked * 2 >= size:
        return 0.0
    if node.tag in HEADINGS:
        return HEADING_WORTH
    own = float(size - 2 * linked)
    return own if own >= PROSE_CHARACTERS else SHORT_WORTH * own


def take_out(node: Node) -> None:
    """Marks an element as `gone`, and takes what it holds out of the sums above it."""
    node.gone = True
    if node.block is not node:
        return
    above = node.parent
    while above is not None:
        if above.block is above:
            above.chars -= node.chars
            above.linked_chars -= node.linked_chars
            above.worth -= node.worth
            above.proses -= node.proses
        above = above.parent


def blocks_in(node: Node) -> list[Node]:
    """The elements directly in it that have lines of their own."""
    return [child for child in node.children if isinstance(child, Node) and child.block is child]


def much_linked(node: Node, part: float) -> bool:
    """Whether more than `part` of its text is links."""
    return node.linked_chars > part * node.chars
