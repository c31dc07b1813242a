"""Finds what a page is about.

What surrounds the content is taken out first, as far as it says so. The content is then the innermost element that
holds nearly all that is left. What still stands before or after it, beyond a crowd of links, is taken out last.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from cxp2p_node.scrape.hints import Hint, hint
from cxp2p_node.scrape.measure import PROSE_CHARACTERS, blocks_in, measure, much_linked, take_out
from cxp2p_node.scrape.surroundings import take_out_surroundings, take_out_unshown
from cxp2p_node.scrape.tables import holds_data
from cxp2p_node.scrape.tags import HEADINGS, names
from cxp2p_node.scrape.tree import Node

NEARLY_ALL: Final = 0.88  # of the worth of what is around
MOST: Final = 0.6  # enough if the page itself calls it an article or its content
HALF: Final = 0.5  # enough for <main>
LINKED_SOME: Final = 0.2
LINKED: Final = 0.35
LINKED_MOSTLY: Final = 0.6
PROSES_MIN: Final = 4  # paragraphs of what may be all of the content
PROSES_FEW: Final = 2  # and of what stands beside it
PART_SMALL: Final = 0.3
CROWD: Final = 4  # links in a row, each a block: nobody's prose is interrupted so
RUN_SMALL: Final = 0.12  # a run of prose that is worth so little beside the largest is something else
LABEL_CHARACTERS: Final = 60

_TEXT: Final = names("p li td th pre blockquote dd dt h1 h2 h3 h4 h5 h6 table ul ol dl tr tbody figure figcaption")
_PROSE: Final = names("p blockquote pre h1 h2 h3 h4 li td th dt dd figcaption caption")
_LISTS: Final = names("ul ol div section dl")
_WHOLE: Final = names("table figure pre")
_DATA: Final = names("pre table dl h1")
_AWAY: Final = re.compile(
    r"(?:related|more (?:from|on|in|stories|news|like)|recommended|popular|most (?:read|popular|viewed)|trending|latest"
    r"|top stories|you (?:may|might)|read (?:next|more|also)|share|follow|categories|tags|topics|on this page"
    r"|in this article|table of contents|contents|next up|sponsored|also on|elsewhere"
    r"|mehr zum thema|lesen sie auch|das k\u00f6nnte sie|\u00e0 lire aussi|sur le m\u00eame sujet|voir aussi"
    r"|te puede|lee tambi\u00e9n|relacionad[ao]s|leia tamb\u00e9m|veja tamb\u00e9m|leggi anche|lees ook"
    r"|czytaj tak\u017ce|zobacz te\u017c|ilgili haberler"
    r"|\u0447\u0438\u0442\u0430\u0439\u0442\u0435 \u0442\u0430\u043a\u0436\u0435"  # Russian: read also, similar
    r"|\u043f\u043e\u0445\u043e\u0436\u0438\u0435)\b"
    r"|\u76f8\u5173|\u76f8\u95dc|\u63a8\u8350|\u5ef6\u4f38"  # Chinese: related, recommended, further
    r"|\u95a2\u9023\u8a18\u4e8b|\u304a\u3059\u3059\u3081|\uad00\ub828"  # Japanese, Korean
    r"|\u0627\u0642\u0631\u0623 \u0623\u064a\u0636\u0627|\u0645\u0642\u0627\u0644\u0627\u062a \u0630\u0627\u062a",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Found:
    """The element to read; how much text is in it, and how much there was before it was chosen."""

    root: Node
    characters: int
    characters_around: int


def main_content(nodes: list[Node], article: bool) -> Found:
    """The main content of a page; what does not belong to it is `gone`. `article`: the page says that it is one."""
    body = content_and_around(nodes, article)
    around = body.chars
    top = _named_main(nodes, body)
    inner = _innermost(top)
    _trim(inner)
    characters = inner.chars
    _leave_around(inner, top)
    return Found(top, characters, around)


def content_and_around(nodes: list[Node], article: bool) -> Node:
    """All of a page but what says that it only surrounds the content."""
    body = _body(nodes)
    measure(nodes)
    take_out_surroundings(nodes, body, article)
    return body


def whole_content(nodes: list[Node]) -> Node:
    """All of a page that is shown."""
    body = _body(nodes)
    measure(nodes)
    take_out_unshown(nodes, body)
    return body


def _body(nodes: list[Node]) -> Node:
    return next((node for node in nodes if node.tag == "body"), nodes[0])


def _named_main(nodes: list[Node], body: Node) -> Node:
    """The container that the page itself names, if it holds most of what is left."""
    named = [node for node in nodes if not node.gone and (node.tag == "main" or "main" in node.get("role").split())]
    best = max(named, key=lambda node: node.worth, default=body)
    return best if best.worth >= HALF * body.worth and best.worth > 0 else body


# The innermost element.


def _innermost(root: Node) -> Node:
    """The innermost element that holds nearly all that `root` does."""
    while root.worth > 0:
        inner = max((child for child in root.elements() if not child.gone), key=lambda child: child.worth, default=None)
        if inner is None or Hint.BODY in hint(root) or (inner.tag in _TEXT and not _places(inner)):
            break
        named = inner.tag == "article" or Hint.CONTENT in hint(inner)
        if inner.worth < (MOST if named else NEARLY_ALL) * root.worth and not _alone(root, inner):
            break
        root = inner
    return root


def _places(node: Node) -> bool:
    """Whether it is a table that only places things on the page, or a part of one."""
    return not holds_data(node) if node.tag == "table" else node.tag in ("tbody", "tr", "td")


def _alone(root: Node, inner: Node) -> bool:
    """Whether the other parts of `root` are beside the matter: few words of another kind, or teasers."""
    if inner.worth < MOST * root.worth or inner.proses < PROSES_MIN or root.tag in ("article", "main"):
        return False
    return all(
        _beside(part, inner) for part in root.elements() if part is not inner and part.worth > 0 and not part.gone
    )


def _beside(part: Node, inner: Node) -> bool:
    if much_linked(part, LINKED_SOME):
        return True
    if part.tag in _TEXT or (part.tag, part.get("class")) == (inner.tag, inner.get("class")):
        return False
    few = part.proses <= PROSES_FEW and part.worth < PART_SMALL * inner.worth
    return few and not any(node.tag in _DATA for node in part.walk())


# What stands before and after it.


def _trim(root: Node) -> None:
    """Takes out what stands beyond a crowd of links, and link lists under a heading that says that they lead away."""
    order = [node for node in root.walk() if not node.gone and node.block is node and node is not root]
    if (run := _main_run(order)) is None:
        return
    first, last = run
    crowd = 0
    for index, node in enumerate(order):
        if node.parent is not None and node.parent.gone:
            node.gone = True
            continue
        linked = node.chars > 0 and much_linked(node, LINKED_MOSTLY)
        if first <= index <= last:
            if linked and node.tag in _LISTS and _leads_away(order, index):
                take_out(order[index - 1])
                take_out(node)
            continue
        if linked or not blocks_in(node):
            crowd += linked and index > last
            if (linked and node.tag not in HEADINGS) or node.tag not in _PROSE or crowd >= CROWD:
                take_out(node)
    _take_out_last_headings(order)


def _take_out_last_headings(order: list[Node]) -> None:
    """Headings at the end, of what was taken out."""
    for node in reversed(order):
        if node.gone or (blocks_in(node) and node.tag not in HEADINGS):
            continue
        if node.tag not in HEADINGS:
            break
        take_out(node)


def _main_run(order: list[Node]) -> tuple[int, int] | None:
    """The first and the last block of the largest run of prose, or of several that are not much smaller."""
    runs: list[tuple[int, int, float]] = []
    links = 0
    whole: set[Node] = set()  # tables and the like, and all that is in them
    for index, node in enumerate(order):
        if (node.tag in _WHOLE and not (node.tag == "table" and _places(node))) or node.parent in whole:
            whole.add(node)
        if node in whole or _substance(node):
            worth = 0.0 if blocks_in(node) else node.worth
            if runs and links < CROWD:
                runs[-1] = (runs[-1][0], index, runs[-1][2] + worth)
            else:
                runs.append((index, index, worth))
            links = 0
        elif much_linked(node, LINKED) and not blocks_in(node):
            links += 1
    if not runs:
        return None
    enough = RUN_SMALL * max(worth for _, _, worth in runs)
    large = [run for run in runs if run[2] >= enough]
    return large[0][0], large[-1][1]


def _substance(node: Node) -> bool:
    """Whether it is a block that a page is read for."""
    return node.chars >= PROSE_CHARACTERS // 2 and not much_linked(node, LINKED) and not blocks_in(node)


def _leads_away(order: list[Node], index: int) -> bool:
    """Whether the heading or label before it says that it leads elsewhere."""
    before = order[index - 1] if index else None
    return before is not None and before.chars <= LABEL_CHARACTERS and _AWAY.match(before.words()) is not None


def _leave_around(inner: Node, top: Node) -> None:
    """Takes out what is in `top` but not in `inner`, save the title and a lead before it."""
    titled = any(node.tag == "h1" and not node.gone for node in inner.walk())
    node = inner
    while node is not top and node.parent is not None:
        parent = node.parent
        parent.bare = True
        before = True
        for child in parent.elements():
            if child is node:
                before = False
            elif before and child.block is child and not child.gone:
                titled = _keep_lead(child, titled) or titled
            else:
                child.gone = True
        node = parent


def _keep_lead(part: Node, titled: bool) -> bool:
    """Leaves of a part before the content the title, if there is none yet, and prose. Whether it had the title."""
    found = False
    for node in part.walk():
        if node.parent is not None and node.parent.gone and node is not part:
            node.gone = True
        elif node.gone or node.block is not node:
            continue
        elif node.tag == "h1" and not titled and not found:
            found = True
        elif blocks_in(node):
            node.bare = True
            for child in node.elements():
                child.gone = child.gone or child.block is not child
        elif Hint.LEAD not in hint(node) and (node.worth < PROSE_CHARACTERS or node.tag in ("ul", "ol", "table")):
            node.gone = True
    return found
