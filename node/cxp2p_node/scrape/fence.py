"""Makes any HTML safe to hand to a parser that follows the standard.

The standard's tree construction is quadratic, in time or in nodes, for some input: deep nesting, a tag of very many
attributes, formatting that is never closed (33 kB of `<p><font x=1>` become two million nodes). Lexbor follows it to
the letter. So every page passes through here first. Its tags are read as the standard's tokenizer does, and written
again, without scripts, styles and comments, and without the tags that go beyond the limits below. Their text stays.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from cxp2p_node.scrape.tags import BLOCK, CELLS, FORMATTING, ROW_GROUPS, VOID, names

CHARACTERS_MAX: Final = 16_000_000  # more than the largest page that is fetched has
DEPTH_MAX: Final = 256  # browsers stop at 512; real pages stay below 100
ACTIVE_MAX: Final = 16  # open <b>, <font>...: each may be made anew in every following paragraph
NODES_MAX: Final = 300_000  # with those; the largest real pages have 100,000
ATTRIBUTES_CHARACTERS: Final = 512  # of one tag; a longer one is looked into
ATTRIBUTES_MAX: Final = 48
VALUE_CHARACTERS_MAX: Final = 4_096  # of an attribute: longer ones are images in the page, or state of its scripts
LINKED_DATA_MAX: Final = 16  # scripts of JSON-LD
LINKED_DATA_CHARACTERS_MAX: Final = 500_000

_ATTRIBUTE: Final = r"""[^\s/>][^\s/>=]*+(?:\s*+=\s*+(?:"[^"]*+(?:"|\Z)|'[^']*+(?:'|\Z)|[^>\s]*+))?+"""
_ATTRIBUTES: Final = rf"(?:[\s/]++|{_ATTRIBUTE})*+"
# Within these, in a drawing, there is nothing to read: pages have dozens of icons, and each is one token so.
_DRAWN: Final = (
    "animate|animatemotion|animatetransform|circle|clippath|defs|desc|ellipse|filter|g|image|line|lineargradient|marker"
    "|mask|path|pattern|polygon|polyline|radialgradient|rect|set|stop|symbol|text|textpath|title|tspan|use"
)
_TOKEN: Final = re.compile(
    rf"""
      <svg(?=[\s/>]){_ATTRIBUTES}(?<!/)>(?:[^<]++|<(?:{_DRAWN})(?=[\s/>]){_ATTRIBUTES}>|</(?:{_DRAWN})\s*+>)*+</svg\s*+>
    | <(script|style|select|title|textarea|xmp|iframe|noembed|noframes)(?=[\s/>])({_ATTRIBUTES})(?:>|\Z)
       ((?:[^<]++|<(?!/\1[\s/>]))*+)                                # nothing is a tag in these but their own end
    | <(/?)([a-z][^\s/>]*+)({_ATTRIBUTES})(?:>|\Z)
    | <!--(?:-?>|(?:[^-]++|-(?!-!?>))*+(?:--!?>|\Z))
    | <[!?/][^>]*+>?
    | ((?:[^<]++|<(?![a-z/!?]))++)
    """,
    re.IGNORECASE | re.VERBOSE,
)
_VALUED: Final = re.compile(r"""([^\s/>][^\s/>=]*+)(?:\s*+=\s*+("[^"]*+"?|'[^']*+'?|[^>\s]*+))?+""")

_UNIQUE: Final = names("html head body")  # each later one adds its attributes to the first
_LEFT_OUT: Final = names("frameset optgroup option plaintext selectedcontent")  # of no use here, or costly
_OTHERWISE: Final = {"form": "fieldset"}  # a form that ends does not end what is open in it, and parsers search for it
# An end tag does not reach beyond one of these, unless it is their own.
_BARRIER: Final = names("applet button caption marquee math object select svg table td template th foreignobject desc")
_REACHING: Final = BLOCK | FORMATTING | CELLS | ROW_GROUPS | _BARRIER | names("dd dt li tr")  # beyond blocks, too
# What an opening tag ends without saying so, if it is the innermost one.
_ENDS: Final[dict[str, frozenset[str]]] = {
    **dict.fromkeys(BLOCK, frozenset({"p"})),
    "li": frozenset({"li", "p"}),
    **dict.fromkeys(("dd", "dt"), frozenset({"dd", "dt", "p"})),
    **dict.fromkeys(CELLS, CELLS | {"p"}),
    "tr": CELLS | {"tr", "p"},
    **dict.fromkeys(ROW_GROUPS, CELLS | ROW_GROUPS | {"tr", "p", "colgroup", "caption"}),
    "option": frozenset({"option"}),
    "optgroup": frozenset({"option", "optgroup"}),
    **dict.fromkeys(("rt", "rp"), frozenset({"rt", "rp"})),
}


@dataclass(frozen=True, slots=True)
class Fenced:
    """A page that is safe to parse, and the JSON-LD that stood in it. `cut`: there was more than the limits allow."""

    html: str
    linked_data: tuple[str, ...]
    cut: bool


def fence(html: str) -> Fenced:
    """The same page within the limits of this module. Time and size are linear in its length."""
    open_ = _Open()
    out: list[str] = ["<!DOCTYPE html>"]
    linked: list[str] = []
    seen: set[str] = set()
    within = _within(html)
    cut = len(within) < len(html)
    for raw, raw_attributes, content, end, name, attributes, text in _TOKEN.findall(within.replace("\0", "")):
        if text:
            out.append(text.replace("<", "&lt;") if "<" in text else text)
        elif name:
            name = name.lower()
            name = _OTHERWISE.get(name, name)
            if name in _UNIQUE or name in _LEFT_OUT:
                if not end and name in _UNIQUE and name not in seen:
                    seen.add(name)
                    out.append(_tag(name, attributes))
            elif end and open_.end(name):
                out.append(f"</{name}>")
            elif not end and open_.start(name):
                out.append(_tag(name, attributes))
            elif open_.full:
                cut = True
                break
        elif raw:
            out.append(_raw(raw.lower(), raw_attributes, content, linked))
    return Fenced("".join(out), tuple(linked), cut)


def _within(html: str) -> str:
    html = html[:CHARACTERS_MAX]
    if html.count("<") > 2 * NODES_MAX:
        html = html[: -len(html.split("<", 2 * NODES_MAX)[-1])]
    return html


def _tag(name: str, attributes: str) -> str:
    if len(attributes) > ATTRIBUTES_CHARACTERS:
        kept = _VALUED.findall(attributes)[:ATTRIBUTES_MAX]
        attributes = "".join(
            f" {name}={value}" if value else f" {name}" for name, value in kept if len(value) <= VALUE_CHARACTERS_MAX
        )
    return f"<{name}{attributes}>"


def _raw(name: str, attributes: str, content: str, linked: list[str]) -> str:
    """What remains of an element whose content is no markup."""
    if name == "script" and "ld+json" in attributes.lower():
        if len(linked) < LINKED_DATA_MAX and len(content) <= LINKED_DATA_CHARACTERS_MAX:
            linked.append(content)
    elif name == "title":
        return f"<title>{content.replace('<', '&lt;')}"
    elif name == "xmp":
        return f"<pre>{content.replace('&', '&amp;').replace('<', '&lt;')}</pre>"
    return ""


class _Open:
    """The elements that are open, at least as many as a parser would have open."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._formatting: list[list[str]] = [[]]  # a list for each barrier: a parser forgets them behind it
        self._active = 0
        self._skipped: dict[str, int] = {}
        self._nodes = 0

    @property
    def full(self) -> bool:
        return self._nodes > NODES_MAX

    def start(self, name: str) -> bool:
        """Whether the tag stays."""
        self._nodes += 1 + self._active
        if self._nodes > NODES_MAX:
            return False
        names = self._names
        if ended := _ENDS.get(name):
            while names and names[-1] in ended:
                self._drop(names.pop())
        if name in VOID:
            return True
        if name in FORMATTING:
            here = self._formatting[-1]
            if name == "a" and "a" in here:
                here.remove("a")
                self._active -= 1
            if self._active >= ACTIVE_MAX or len(names) >= DEPTH_MAX:
                return self._skip(name)
            here.append(name)
            self._active += 1
        elif len(names) >= DEPTH_MAX:
            return self._skip(name)
        elif name in _BARRIER:
            self._formatting.append([])
        names.append(name)
        return True

    def _skip(self, name: str) -> bool:
        self._skipped[name] = self._skipped.get(name, 0) + 1
        return False

    def _drop(self, name: str) -> None:
        if name in _BARRIER:
            self._active -= len(self._formatting.pop())

    def end(self, name: str) -> bool:
        """Whether the end tag stays: whether what it ends is open."""
        if self._skipped.get(name):
            self._skipped[name] -= 1
            self._nodes += 1
            return False
        names = self._names
        if name in FORMATTING:
            here = self._formatting[-1]
            if name in here:
                here.remove(name)
                self._active -= 1
        if names and names[-1] == name:
            self._drop(names.pop())
            return True
        return self._end_outer(name)

    def _end_outer(self, name: str) -> bool:
        names = self._names
        inline = name not in _REACHING
        of_table = name == "table" or name == "tr" or name in CELLS or name in ROW_GROUPS
        index = len(names)
        while index:
            index -= 1
            other = names[index]
            if other == name:
                if name in FORMATTING:
                    del names[index]
                    return True
                while len(names) > index:
                    self._drop(names.pop())
                return True
            passes = other in CELLS if of_table else name in _BARRIER and other != "table"
            if (other in _BARRIER and not passes) or (inline and other in BLOCK):
                break
        self._nodes += 1 + (len(names) - index) // 16  # a long search for nothing uses up what is allowed
        return name == "title"
