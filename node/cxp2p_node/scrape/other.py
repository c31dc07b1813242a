"""What is fetched and is no HTML: feeds, JSON, text, Markdown, other XML."""

from __future__ import annotations

import json
import re
from enum import Enum
from typing import Final

from cxp2p.jobs import PageForm
from cxp2p_node.scrape.addresses import Addresses
from cxp2p_node.scrape.blocks import Block, Close, Code, Heading, Line, LinkEnd, LinkStart, Mark, Open, Paragraph
from cxp2p_node.scrape.clean import clean_html, escaped, quoted
from cxp2p_node.scrape.dates import iso_date
from cxp2p_node.scrape.feeds import Entry, Feed
from cxp2p_node.scrape.fence import fence
from cxp2p_node.scrape.markdown import markdown
from cxp2p_node.scrape.metadata import short
from cxp2p_node.scrape.reader import read
from cxp2p_node.scrape.text import plain
from cxp2p_node.scrape.tree import Node, parse

JSON_CHARACTERS_MAX: Final = 2_000_000  # more is handed on as it stands

_START: Final = 2_048  # characters that tell what a document is
_HTML: Final = re.compile(r"<(?:!doctype\s+html|html|head|body|meta|div|p|table|h1)\b", re.IGNORECASE)
_XML: Final = re.compile(r"\s*<(?:\?xml|rss|feed|rdf:rdf|urlset|sitemapindex)\b", re.IGNORECASE)


class Kind(Enum):
    """What a document is."""

    HTML = "html"
    XML = "xml"
    JSON = "json"
    MARKDOWN = "markdown"
    TEXT = "text"


def kind_of(content_type: str, text: str) -> Kind:
    """By its content type; by its beginning, where that says nothing or often lies."""
    said = content_type.partition(";")[0].strip().lower()
    start = text[:_START]
    if said.endswith("json"):
        return Kind.JSON
    if said in ("text/markdown", "text/x-markdown"):
        return Kind.MARKDOWN
    if said.startswith("text/") and said not in ("text/html", "text/xml"):
        return Kind.TEXT
    if _XML.match(start) and not _HTML.search(start.partition("<channel")[0].partition("<entry")[0]):
        return Kind.XML
    return Kind.HTML if said or _HTML.search(start) else Kind.TEXT


def other_text(kind: Kind, text: str, wanted: PageForm) -> str:
    """A document that is not read further."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").strip("\n")
    if kind is Kind.JSON:
        text = _indented(text)
    if not text.strip():
        return ""
    if wanted is PageForm.HTML:
        return f"<pre>{escaped(text)}</pre>"
    if wanted is PageForm.MARKDOWN and kind in (Kind.JSON, Kind.XML):
        return markdown([Code(text, kind.value)])
    return text


def _indented(text: str) -> str:
    if len(text) > JSON_CHARACTERS_MAX:
        return text
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False).encode("utf-8", "replace").decode()
    except (ValueError, RecursionError):
        return text


def feed_text(feed: Feed, addresses: Addresses, wanted: PageForm, links: bool) -> str:
    """A feed as a page: its title, and a part for each entry."""
    if wanted is PageForm.HTML:
        return "\n".join(_feed_html(feed, addresses))
    blocks: list[Block] = [Heading(1, [short(feed.title)])] if feed.title else []
    blocks.extend(fragment(feed.description, addresses, links))
    for entry in feed.entries:
        blocks.extend(_entry(entry, addresses, links))
    return plain(blocks) if wanted is PageForm.TEXT else markdown(blocks)


def _entry(entry: Entry, addresses: Addresses, links: bool) -> list[Block]:
    title: Line = [short(entry.title) or entry.url]
    if links and (url := addresses.absolute(entry.url)):
        title = [LinkStart(url), *title, LinkEnd()]
    said = " \u00b7 ".join(filter(None, (iso_date(entry.date), short(entry.author))))
    about: list[Block] = [Paragraph([Open(Mark.EMPHASIS), said, Close(Mark.EMPHASIS)])] if said else []
    return [Heading(2, title), *about, *fragment(entry.summary, addresses, links)]


def _feed_html(feed: Feed, addresses: Addresses) -> list[str]:
    out = [f"<h1>{escaped(short(feed.title))}</h1>"] if feed.title else []
    out.append(clean_html(_body(feed.description), addresses))
    for entry in feed.entries:
        url = addresses.absolute(entry.url)
        title = escaped(short(entry.title) or entry.url)
        out.append(f'<h2><a href="{quoted(url)}">{title}</a></h2>' if url else f"<h2>{title}</h2>")
        if moment := iso_date(entry.date):
            out.append(f'<p><time datetime="{moment}">{moment}</time></p>')
        out.append(clean_html(_body(entry.summary), addresses))
    return [part for part in out if part]


def fragment(html: str, addresses: Addresses, links: bool) -> list[Block]:
    """A piece of HTML, or of plain text, as blocks."""
    return read(_body(html), addresses, links) if html else []


def _body(html: str) -> Node:
    return next(node for node in parse(fence(html).html) if node.tag == "body")
