"""Program text in a page: its lines as they are, without the numbers and buttons round it, and its language."""

from __future__ import annotations

import re
from typing import Final

from cxp2p_node.scrape.tags import names
from cxp2p_node.scrape.tree import Node

LANGUAGE_CHARACTERS_MAX: Final = 24
ANCESTORS_MAX: Final = 4  # above <pre>, where highlighters write the language

_SAID: Final = re.compile(
    r"(?:language|lang|highlight-source|highlight-text|highlight|brush:|sourcecode|code-block|src)[-:\s]\s*"
    r"([a-z][\w+#.]*)",
    re.IGNORECASE,
)
_BESIDE: Final = re.compile(
    r"(?:^|[\s_-])(?:linenos?|linenumbers?|line-?numbers|lnt?|gutter|blob-num|hljs-ln-n|copy|copybtn|clipboard|toolbar"
    r"|code-header|filename)(?=$|[\s_-])",
    re.IGNORECASE,
)
_NO_LANGUAGE: Final = names(
    "auto block code container copy dark default false hljs highlight inline light line nohighlight none notranslate"
    " numbers overflow plain plaintext pre prettyprint source text theme true txt undefined wrapper"
)
_AROUND: Final = names("div figure td tr tbody table span")
_LINES: Final = names("div p li tr section dd dt h1 h2 h3 h4 h5 h6")
_SKIPPED: Final = names("button select textarea style noscript input")
_SAYING: Final = ("data-lang", "data-language", "data-code-language")


def language(pre: Node) -> str:
    """What the page calls the language of a <pre>, "" if nothing."""
    own = [pre, *(child for child in pre.elements() if child.tag == "code")][:2]
    for node in reversed(own):
        if said := _said(node) or _plausible(node.get("lang")) or _bare(node.get("class")):
            return said
    node = pre
    for _ in range(ANCESTORS_MAX):
        parent = node.parent
        if parent is None or parent.tag not in _AROUND or sum(child.tag == "pre" for child in parent.elements()) > 1:
            break
        if said := _said(parent):
            return said
        node = parent
    return ""


def _said(node: Node) -> str:
    for name in _SAYING:
        if said := _plausible(node.get(name)):
            return said
    return next(filter(None, map(_plausible, _SAID.findall(node.get("class")))), "")


def _bare(kind: str) -> str:
    """A class that is only the language: <code class="python">, <code class="hljs python">."""
    words = [word for word in kind.lower().split() if word not in _NO_LANGUAGE]
    return _plausible(words[0]) if len(words) == 1 and words[0].isalpha() and len(words[0]) <= 12 else ""


def _plausible(word: str) -> str:
    word = word.strip().lower()
    return word if word not in _NO_LANGUAGE and len(word) <= LANGUAGE_CHARACTERS_MAX and " " not in word else ""


def code_text(pre: Node) -> str:
    """The lines in a <pre>, each as it stands, without blank ones at either end."""
    out: list[str] = []
    lines = _unbroken_lines(pre)
    waiting: list[Node | str | int] = list(reversed(pre.children))
    while waiting:
        node = waiting.pop()
        if isinstance(node, str):
            out.append(node)
        elif isinstance(node, int):
            if len(out) == node or not out[-1].endswith("\n"):
                out.append("\n")
        elif node.tag == "br":
            out.append("\n")
        elif node.tag not in _SKIPPED and not ("class" in node.raw and _BESIDE.search(node.get("class"))):
            if node.tag in _LINES or node in lines:
                if out and not out[-1].endswith("\n"):
                    out.append("\n")
                waiting.append(len(out))  # where it began: its end is a new line
            waiting.extend(reversed(node.children))
    text = "".join(out).replace("\r\n", "\n").replace("\r", "\n")
    kept = [line.rstrip() for line in text.split("\n")]
    first = next((index for index, line in enumerate(kept) if line), len(kept))
    last = next((index for index in range(len(kept), first, -1) if kept[index - 1]), first)
    return "\n".join(kept[first:last])


def is_fragment(node: Node) -> bool:
    """Whether it is code without <pre>, each line of it an element."""
    if "fragment" not in node.raw or "fragment" not in node.get("class").split():
        return False
    lines = [child for child in node.elements() if child.tag == "div" and "line" in child.get("class").split()]
    return bool(lines)


def _unbroken_lines(pre: Node) -> frozenset[Node]:
    """Elements that are lines by style alone: there is no new line between them."""
    inner = [child for child in pre.elements() if child.tag == "code"]
    holder = inner[0] if len(inner) == 1 else pre
    spans = [child for child in holder.elements() if child.tag in ("span", "code") and "line" in child.get("class")]
    if len(inner) > 1:
        spans = inner  # <pre><code>one</code><code>two</code></pre>
    return frozenset(spans) if len(spans) > 1 and "\n" not in pre.text().strip() else frozenset()
