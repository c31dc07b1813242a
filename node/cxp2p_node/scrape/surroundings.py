"""Takes out of a page what says by its tag, role or name that it only surrounds the content, and what is not shown."""

from __future__ import annotations

import re
from typing import Final

from cxp2p_node.scrape.hints import Hint, hint
from cxp2p_node.scrape.measure import PROSE_CHARACTERS, much_linked, take_out
from cxp2p_node.scrape.tags import names
from cxp2p_node.scrape.tree import Node

GUARD: Final = 0.4  # what holds more of a page's worth is never taken out as a whole, whatever it is called
COMMENTS_MOST: Final = 0.6  # a page of which so much is comments is about them: a forum, a discussion
SMALL_CHARACTERS: Final = 280  # a byline, a row of buttons, a notice
LINKED: Final = 0.35

_TELLING: Final = names("nav footer aside menu dialog header fieldset a")
_ASKED: Final = names("email password search tel text")
_PROSE: Final = names("p blockquote pre h1 h2 h3 li td")
_REPLY: Final = re.compile("comment|repl|respon", re.IGNORECASE)  # in all names of comments; quicker than those
_UNSHOWN: Final = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
_PANEL: Final = re.compile(r"\btab|panel|pane|accordion|collaps|toggle|expand|faq|spoiler|answer", re.IGNORECASE)
_ANCHORS: Final = names(
    "# \u00b6 \u00a7 \U0001f517 \u2191 ^ \u21a9 \u21a9\ufe0e link Permalink [edit] edit top Top \u221e"
)


def take_out_unshown(nodes: list[Node], body: Node) -> None:
    """Only what a browser would not show."""
    for node in nodes:
        parent = node.parent
        if parent is None or node is body:
            continue
        if parent.gone:
            node.gone = True
        elif node.raw and _unshown(node):
            take_out(node)


def take_out_surroundings(nodes: list[Node], body: Node, article: bool) -> None:
    """What is not the content by its own account. `article`: the page says that it is one, so comments are not."""
    most = max(GUARD * body.worth, 1.0)
    comments = not article and _worth_of_comments(nodes) > COMMENTS_MOST * body.worth
    for node in nodes:
        parent = node.parent
        if parent is None or node is body:
            continue
        if parent.gone:
            node.gone = True
        elif (node.raw or node.tag in _TELLING) and node.worth <= most and _surrounds(node, comments):
            take_out(node)


def _worth_of_comments(nodes: list[Node]) -> float:
    counted: set[Node] = set()
    worth = 0.0
    for node in nodes:
        if node.parent in counted:
            counted.add(node)
        elif node.worth and node.block is node and _REPLY.search(node.raw) and Hint.COMMENTS in hint(node):
            counted.add(node)
            worth += node.worth
    return worth


def _surrounds(node: Node, comments: bool) -> bool:
    if _unshown(node):
        return True
    said = hint(node)
    tag = node.tag
    if tag == "a" and node.get("href").startswith("#") and node.words() in _ANCHORS:
        return True
    if said is Hint.NONE:
        return _by_tag(node, tag)
    if Hint.HIDDEN in said:
        return not _PANEL.search(node.get("class"))
    if Hint.CONTENT in said or tag in ("body", "main", "article"):
        return Hint.JUNK in said and tag not in ("body", "main")
    if Hint.COMMENTS in said and not comments:
        return True
    if tag in _PROSE and node.chars >= PROSE_CHARACTERS and not much_linked(node, LINKED):
        return False
    if Hint.JUNK in said:
        return node.parent is None or node.parent.tag != "blockquote"
    if Hint.NOTE in said:
        return False
    if node.block is node and _small_or_linked(node, said):
        return True
    return _by_tag(node, tag)


def _small_or_linked(node: Node, said: Hint) -> bool:
    if Hint.LINKS in said and much_linked(node, LINKED):
        return True
    return Hint.SMALL in said and node.chars < SMALL_CHARACTERS and not _titled(node)


def _by_tag(node: Node, tag: str) -> bool:
    if tag in ("nav", "menu", "dialog", "aside"):
        return True
    if tag == "footer":
        return node.parent is None or node.parent.tag != "blockquote"
    if tag == "fieldset":
        return any(inner.tag == "input" and inner.get("type").lower() in _ASKED for inner in node.walk())
    if tag == "header":
        return not _within(node, ("article", "main", "section")) and not _titled(node)
    return False


def _titled(node: Node) -> bool:
    return any(inner.tag == "h1" for inner in node.walk())


def _within(node: Node, tags: tuple[str, ...]) -> bool:
    above = node.parent
    while above is not None:
        if above.tag in tags:
            return True
        above = above.parent
    return False


def _unshown(node: Node) -> bool:
    """Whether a browser hides it. What unfolds, or is one of several tabs, is read."""
    raw = node.raw
    if "hidden" not in raw and "none" not in raw:
        return False
    said = node.attributes
    unseen = "hidden" in said or said.get("aria-hidden") == "true" or _UNSHOWN.search(said.get("style", ""))
    return bool(unseen) and said.get("role") != "tabpanel" and not _PANEL.search(said.get("class", ""))
