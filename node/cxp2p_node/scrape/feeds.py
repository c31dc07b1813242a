"""Feeds and other XML. Entities that a document declares itself are not followed: they can be billions."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html import unescape
from typing import Final

ENTRIES_MAX: Final = 500
DEPTH_MAX: Final = 64
ELEMENTS_MAX: Final = 100_000

_TOKEN: Final = re.compile(
    r"<!\[CDATA\[(.*?)(?:\]\]>|\Z)|<!--.*?(?:-->|\Z)|<\?.*?(?:\?>|\Z)|<![^>\[]*+(?:\[[^\]]*+\]\s*+)?>?"
    r"|<(/?)([^\s/<>]++)((?:[^<>\"']++|\"[^\"]*+\"|'[^']*+')*+)>|([^<]++|<)",
    re.DOTALL,
)
_ATTRIBUTE: Final = re.compile(r"""([^\s=]+)\s*=\s*(?:"([^"]*)"|'([^']*)')""")


@dataclass(slots=True)
class Element:
    """An element of XML. `name` is without its prefix, in lower case; `text` is its own."""

    name: str
    attributes: dict[str, str]
    children: list[Element] = field(default_factory=list)
    text: str = ""

    def child(self, *names: str) -> Element | None:
        """The first one of such a name; earlier names come first."""
        return next((each for name in names for each in self.children if each.name == name), None)

    def said(self, *names: str) -> str:
        """The text of the first child of such a name that has any."""
        texts = (each.text.strip() for name in names for each in self.children if each.name == name)
        return next(filter(None, texts), "")


@dataclass(frozen=True, slots=True)
class Entry:
    """One of a feed. `summary` is HTML."""

    title: str
    url: str
    date: str
    author: str
    summary: str


@dataclass(frozen=True, slots=True)
class Feed:
    """What a feed says. `date` and those of entries are as written."""

    title: str
    description: str
    language: str
    date: str
    entries: tuple[Entry, ...]


def read_xml(xml: str) -> Element:
    """The outermost element, with what is in it up to the limits of this module."""
    top = Element("", {})
    open_ = [top]
    count = 0
    for data, end, name, raw, text in _TOKEN.findall(xml):
        if data or text:
            open_[-1].text += data or unescape(text)
        elif end:
            short = _short(name)
            if len(open_) > 1 and open_[-1].name == short:
                open_.pop()
        elif name:
            count += 1
            if count > ELEMENTS_MAX:
                break
            attributes = {_short(key): unescape(one or two) for key, one, two in _ATTRIBUTE.findall(raw[:4_096])}
            element = Element(_short(name), attributes)
            open_[-1].children.append(element)
            if not raw.endswith("/") and len(open_) < DEPTH_MAX:
                open_.append(element)
    return top.children[0] if top.children else top


def _short(name: str) -> str:
    return name.rpartition(":")[2].lower()


def feed_of(root: Element) -> Feed | None:
    """The feed that a document is, RSS, RDF, Atom or a site map; None if it is none."""
    if root.name == "feed":
        return _feed(root, [each for each in root.children if each.name == "entry"])
    if root.name in ("rss", "rdf"):
        channel = root.child("channel") or root
        inner = [each for holder in (channel, root) for each in holder.children if each.name == "item"]
        return _feed(channel, inner)
    if root.name in ("urlset", "sitemapindex"):
        places = [Entry(each.said("loc"), each.said("loc"), each.said("lastmod"), "", "") for each in root.children]
        return Feed("", "", "", "", tuple(place for place in places[:ENTRIES_MAX] if place.url))
    return None


def _feed(head: Element, entries: list[Element]) -> Feed:
    return Feed(
        title=head.said("title"),
        description=head.said("subtitle", "description"),
        language=head.said("language") or head.attributes.get("lang", ""),
        date=head.said("updated", "pubdate", "lastbuilddate", "date"),
        entries=tuple(_entry(each) for each in entries[:ENTRIES_MAX]),
    )


def _entry(element: Element) -> Entry:
    links = [each for each in element.children if each.name == "link"]
    written = [each.text.strip() for each in links if each.text.strip()]
    pointed = [
        each.attributes["href"]
        for each in links
        if "href" in each.attributes and each.attributes.get("rel", "alternate") == "alternate"
    ]
    creator = element.child("author", "creator")
    return Entry(
        title=element.said("title"),
        url=next(iter((*written, *pointed)), ""),
        date=element.said("published", "pubdate", "date", "updated"),
        author=(creator.said("name") or creator.text.strip()) if creator else "",
        summary=element.said("encoded", "content", "summary", "description"),
    )
