"""Finds what a page is about: the part of its tree that is neither navigation nor advertisement nor the like.

Each block is worth as much as it has text that is not links; short ones are worth little, link lists less than nothing.
Elements that say by their tag, role or name that they surround the content are taken out, unless most of the page's
worth is in them. The content is then the innermost element that holds nearly all that is left.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from cxp2p_node.scrape.hints import Hint, hint
from cxp2p_node.scrape.tags import HEADINGS, names
from cxp2p_node.scrape.tree import Node

PROSE_CHARACTERS: Final = 80  # a block of so much text, not links, is no label and no button
GUARD: Final = 0.4  # the part of a page's worth that is never taken out as a whole
NEARLY_ALL: Final = 0.88
SMALL_CHARACTERS: Final = 280
LINKED_MUCH: Final = 0.35
LINKED_MOSTLY: Final = 0.6
CROWD: Final = 4  # links in a row, each a block: nobody's prose is interrupted so
SMALLER: Final = 0.12  # a run of prose of which so little is worth beside the largest is something else
LINKED_SOME: Final = 0.2
PROSES_MIN: Final = 4
PROSES_FEW: Final = 2
PART_SMALL: Final = 0.3
MOST: Final = 0.6  # enough if the page itself calls it an article or its content

_SILENT: Final = names("button select textarea input head title option")
_AROUND: Final = names("nav footer aside menu dialog")
_ASKED: Final = names("email password search tel text")
_PROSE: Final = names("p blockquote pre h1 h2 h3 li td")
_LISTS: Final = names("ul ol div section dl")
_TEXT: Final = names("p li td th pre blockquote dd dt h1 h2 h3 h4 h5 h6 table ul ol dl tr tbody figure figcaption")
_WIDE: Final = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\u0e00-\u0e7f]")
_UNSHOWN: Final = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
_PANEL: Final = re.compile(r"tab|panel|pane|accordion|collaps|toggle|expand|faq|spoiler|answer", re.IGNORECASE)


def measure(nodes: list[Node]) -> None:
    """Sets `chars`, `linked_chars` and `worth` of every element that has lines of its own, of all that is in it."""
    for node in nodes:
        if node.tag in _SILENT:
            continue
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
    for node in nodes:
        if node.chars:
            node.worth = _worth(node)
            node.proses = int(node.worth >= PROSE_CHARACTERS)
    for node in reversed(nodes):
        parent = node.parent
        if parent is not None and node.chars:
            if node.block is not node:
                continue
            above = parent.block
            above.chars += node.chars
            above.linked_chars += node.linked_chars
            above.worth += node.worth
            above.proses += node.proses


def _worth(node: Node) -> float:
    """Of the text of a block itself."""
    size, linked = node.chars, node.linked_chars
    if node.tag in ("pre", "code"):
        return size
    if linked * 2 >= size:
        return 0.0
    if node.tag in HEADINGS:
        return 5.0
    own = size - 2 * linked
    return float(own) if own >= PROSE_CHARACTERS else 0.25 * own


def main_content(nodes: list[Node], comments: bool = False) -> Node:
    """The element that holds the main content. What does not belong to it is `gone`. `nodes` must be measured."""
    body = next((node for node in nodes if node.tag == "body"), nodes[0])
    take_out(nodes, body, comments)
    top = _said(nodes, body)
    root = _innermost(top)
    _trim(root)
    _leave_around(root, top, body)
    return top


def take_out(nodes: list[Node], body: Node, comments: bool) -> None:
    """Marks as `gone` what is hidden, or says that it is not the content."""
    most = max(GUARD * body.worth, 1.0)
    for node in nodes:
        parent = node.parent
        if parent is None or node is body:
            continue
        if parent.gone:
            node.gone = True  # and so is all that is in it
            continue
        if (node.raw or node.tag in _AROUND) and _outside(node, comments) and node.worth <= most:
            node.gone = True
            _leave(node)


def _leave(node: Node) -> None:
    """Takes what `node` holds out of the sums above it."""
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


def _outside(node: Node, comments: bool) -> bool:
    if _unshown(node):
        return True
    said = hint(node)
    tag = node.tag
    if said is Hint.NONE:
        return _outside_by_tag(node, tag)
    if Hint.HIDDEN in said:
        return not _PANEL.search(node.get("class"))
    if Hint.CONTENT in said or tag in ("body", "main", "article"):
        return False
    if tag in _PROSE and node.chars >= PROSE_CHARACTERS and node.linked_chars < LINKED_MUCH * node.chars:
        return Hint.COMMENTS in said and not comments
    if Hint.JUNK in said or (Hint.COMMENTS in said and not comments):
        return True
    if Hint.NOTE in said:
        return False
    if node.block is not node:
        return _outside_by_tag(node, tag)
    if Hint.LINKS in said and node.linked_chars > LINKED_MUCH * node.chars:
        return True
    if Hint.SMALL in said and node.chars < SMALL_CHARACTERS and not _headed(node):
        return True
    return _outside_by_tag(node, tag)


def _outside_by_tag(node: Node, tag: str) -> bool:
    if tag in ("nav", "menu", "dialog"):
        return True
    if tag == "aside":
        return True
    if tag == "footer":
        return node.parent is None or node.parent.tag != "blockquote"
    if tag == "fieldset":
        return any(inner.tag == "input" and inner.get("type") in _ASKED for inner in node.walk())
    if tag == "header":
        return not _within(node, "article", "main", "section") and not _headed(node)
    return tag == "a" and node.get("href").startswith("#") and node.words() in _ANCHORS


_ANCHORS: Final = frozenset(
    {"#", "¶", "§", "🔗", "link", "Permalink", "↑", "^", "↩", "↩︎", "[edit]", "edit", "top", "Top"}
)


def _headed(node: Node) -> bool:
    return any(inner.tag == "h1" for inner in node.walk())


def _within(node: Node, *tags: str) -> bool:
    above = node.parent
    while above is not None:
        if above.tag in tags:
            return True
        above = above.parent
    return False


def _unshown(node: Node) -> bool:
    raw = node.raw
    if "hidden" not in raw and "none" not in raw:
        return False
    attributes = node.attributes
    if (
        "hidden" in attributes
        or attributes.get("aria-hidden") == "true"
        or _UNSHOWN.search(attributes.get("style", ""))
    ):
        panel = attributes.get("role") == "tabpanel" or _PANEL.search(attributes.get("class", ""))
        return not panel
    return False


def _said(nodes: list[Node], body: Node) -> Node:
    """The container that the page itself names, if it holds most of what is left."""
    named = [node for node in nodes if not node.gone and (node.tag == "main" or "main" in node.get("role"))]
    best = max(named, key=lambda node: node.worth, default=body)
    return best if best.worth >= 0.5 * body.worth and best.worth > 0 else body


def _innermost(root: Node) -> Node:
    """The innermost element that holds nearly all that `root` does."""
    while root.worth > 0:
        inner = max((child for child in root.elements() if not child.gone), key=lambda child: child.worth, default=None)
        if inner is None or inner.tag in _TEXT:
            break
        named = inner.tag == "article" or Hint.CONTENT in hint(inner)
        if inner.worth < (MOST if named else NEARLY_ALL) * root.worth and not _alone(root, inner):
            break
        root = inner
    return root


def _alone(root: Node, inner: Node) -> bool:
    """Whether the other parts of `root` are beside the matter: few words of another kind, or teasers."""
    if inner.worth < MOST * root.worth or inner.proses < PROSES_MIN or root.tag in ("article", "main"):
        return False
    return all(
        _beside(part, inner) for part in root.elements() if part is not inner and part.worth > 0 and not part.gone
    )


def _beside(part: Node, inner: Node) -> bool:
    if part.linked_chars > LINKED_SOME * part.chars:
        return True
    if part.tag in _TEXT or (part.tag, part.get("class")) == (inner.tag, inner.get("class")):
        return False
    few = part.proses <= PROSES_FEW and part.worth < PART_SMALL * inner.worth
    return few and not any(node.tag in ("pre", "table", "dl", "h1") for node in part.walk())


def _trim(root: Node) -> None:
    """Takes out what stands beyond a crowd of links, and link lists under a heading that says that they lead elsewhere."""
    order = [node for node in root.walk() if not node.gone and node.block is node and node is not root]
    if not (kept := _main_run(order)):
        return
    first, last = kept
    for index, node in enumerate(order):
        if node.parent is not None and node.parent.gone:
            node.gone = True
            continue
        linked = node.chars and node.linked_chars > LINKED_MOSTLY * node.chars
        inner = index < len(order) - 1 and order[index + 1].parent is node and not linked
        if index > last or (index < first and not inner and node.tag not in HEADINGS):
            node.gone = node.tag not in _PROSE or linked or index > last + 1
        elif linked and node.tag in _LISTS and _announced(order, index):
            node.gone = True
        if node.gone:
            _leave(node)


def _main_run(order: list[Node]) -> tuple[int, int] | None:
    """The first and the last block of the run of prose that is most of it, with the runs that are not much smaller."""
    runs: list[list[float]] = []  # first, last, worth
    links = 0
    for index, node in enumerate(order):
        if _substance(node):
            if runs and links < CROWD:
                runs[-1][1] = index
                runs[-1][2] += node.worth
            else:
                runs.append([index, index, node.worth])
            links = 0
        elif node.linked_chars > LINKED_MUCH * node.chars and not any(True for _ in _blocks(node)):
            links += 1
    if not runs:
        return None
    enough = SMALLER * max(run[2] for run in runs)
    large = [run for run in runs if run[2] >= enough]
    return int(large[0][0]), int(large[-1][1])


def _blocks(node: Node) -> Iterator[Node]:
    return (child for child in node.elements() if child.block is child)


def _substance(node: Node) -> bool:
    """Whether it is a block that a page is read for."""
    if node.tag in ("pre", "table", "figure"):
        return True
    if any(True for _ in _blocks(node)):
        return False
    return node.chars >= PROSE_CHARACTERS // 2 and node.linked_chars < LINKED_MUCH * node.chars


def _announced(order: list[Node], index: int) -> bool:
    """Whether the heading or label before it says that it leads elsewhere."""
    before = order[index - 1] if index else None
    if before is None or before.chars > 60:
        return False
    return _ELSEWHERE.match(before.words()) is not None


_ELSEWHERE: Final = re.compile(
    r"(?:related|more (?:from|on|in|stories|news|like)|recommended|popular|most (?:read|popular|viewed)|trending|latest"
    r"|top stories|you (?:may|might)|see also|read (?:next|more|also)|share|follow|categories|tags|topics|on this page"
    r"|in this article|table of contents|contents|next up|sponsored|also on|elsewhere)\b",
    re.IGNORECASE,
)


def _leave_around(root: Node, top: Node, body: Node) -> None:
    """Takes out what is in `top` but not in `root`, save the title and a lead before it."""
    titled = any(node.tag == "h1" and not node.gone for node in root.walk())
    node = root
    while node is not top and node.parent is not None:
        parent = node.parent
        before = True
        for child in parent.children:
            if child is node:
                before = False
            elif isinstance(child, Node) and not child.gone:
                if before and child.block is child:
                    titled = _keep_lead(child, titled) or titled
                else:
                    child.gone = True
        parent.children = [child for child in parent.children if isinstance(child, Node)]
        node = parent


def _keep_lead(part: Node, titled: bool) -> bool:
    """Leaves of a part before the content the title, if there is none yet, and prose. Whether it had the title."""
    found = False
    for node in part.walk():
        if node.gone:
            for inner in node.elements():
                inner.gone = True
            continue
        if node.tag == "h1" and not titled and not found:
            found = True
        elif any(child.block is child for child in node.elements()):
            node.children = [child for child in node.children if isinstance(child, Node) and child.block is child]
        elif node.block is node and not (node.worth >= PROSE_CHARACTERS and node.tag not in ("ul", "ol", "table")):
            node.gone = True
    return found
