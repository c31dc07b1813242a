"""From what was fetched to what it says: the one way into this package."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from cxp2p.jobs import PageForm
from cxp2p_node.scrape.addresses import Addresses
from cxp2p_node.scrape.blocks import Block, Heading, Paragraph
from cxp2p_node.scrape.clean import clean_html
from cxp2p_node.scrape.content import content_and_around, main_content, whole_content
from cxp2p_node.scrape.dates import iso_date
from cxp2p_node.scrape.decode import decode
from cxp2p_node.scrape.feeds import Feed, feed_of, read_xml
from cxp2p_node.scrape.fence import fence
from cxp2p_node.scrape.markdown import markdown
from cxp2p_node.scrape.metadata import LANGUAGE, Facts, facts, short
from cxp2p_node.scrape.other import Kind, feed_text, fragment, kind_of, other_text
from cxp2p_node.scrape.reader import read
from cxp2p_node.scrape.text import plain, plain_line
from cxp2p_node.scrape.tree import Node, parse

THIN_CHARACTERS: Final = 160  # less is hardly what an article is about
THIN: Final = 0.3  # of all that is left of a page when what surrounds its content is taken out

_CONTROLS: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff]")
_LETTERS: Final = re.compile(r"[\W_]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What a page says. `content` is "" if nothing was found; the other strings are "" if the page does not say.

    Dates are ISO 8601, addresses absolute. `encoding` is what it was read in. `cut`: it was larger than is read.
    """

    content: str
    title: str = ""
    description: str = ""
    author: str = ""
    publish_date: str = ""
    modified_date: str = ""
    language: str = ""
    site_name: str = ""
    canonical_url: str = ""
    image: str = ""
    encoding: str = ""
    cut: bool = False


def extract(
    body: bytes,
    content_type: str,
    url: str,
    wanted: PageForm,
    *,
    only_main_content: bool = True,
    include_links: bool = False,
) -> Page:
    """Reads the bytes of a page that was found at `url`. Pure; time and memory are linear in the length of `body`.

    `only_main_content`: without navigation, footers, comments and the like. `include_links`: Markdown keeps the
    addresses of links; HTML always does, text never.
    """
    text, encoding = decode(body, content_type, url)
    match kind_of(content_type, text):
        case Kind.HTML:
            page = _html_page(text, url, wanted, only_main_content, include_links)
        case Kind.XML if (feed := feed_of(read_xml(text))) is not None:
            page = _feed_page(feed, url, wanted, include_links)
        case kind:
            page = Page(content=other_text(kind, text, wanted))
    return replace(page, content=_CONTROLS.sub("", page.content), encoding=encoding)


def _feed_page(feed: Feed, url: str, wanted: PageForm, links: bool) -> Page:
    description = plain(fragment(feed.description, Addresses(url), False))
    return Page(
        content=feed_text(feed, Addresses(url), wanted, links),
        title=short(feed.title),
        description=short(description),
        publish_date=iso_date(feed.date),
        language=feed.language if LANGUAGE.match(feed.language) else "",
    )


# HTML.


def _html_page(text: str, url: str, wanted: PageForm, only_main: bool, links: bool) -> Page:
    fenced = fence(text)
    nodes = parse(fenced.html)
    base = next((node.get("href") for node in nodes if node.tag == "base" and node.get("href")), "")
    addresses = Addresses(url, base)
    said = facts(nodes, fenced.linked_data, url, addresses)
    root = _main(nodes, said.article) if only_main else whole_content(nodes)
    blocks = read(root, addresses, links)
    if wanted is PageForm.HTML:
        content = clean_html(root, addresses) if blocks else ""
    else:
        content = _rendered(_titled(blocks, said.title) if only_main else blocks, wanted)
    return _page(content, said, fenced.cut)


def _main(nodes: list[Node], article: bool) -> Node:
    """The main content; all that is not navigation, if there is little else: a home page, a list, a search."""
    found = main_content(nodes, article)
    if found.characters >= (THIN_CHARACTERS if article else max(THIN_CHARACTERS, THIN * found.characters_around)):
        return found.root
    return content_and_around(nodes, article)


def _titled(blocks: list[Block], title: str) -> list[Block]:
    """With a heading of the first level, the page's title if it has none of its own."""
    if not blocks or not title:
        return blocks
    if any(isinstance(block, Heading) and block.level == 1 for block in blocks):
        return blocks
    first = blocks[0]
    if isinstance(first, (Heading, Paragraph)) and _letters(plain_line(first.line)) == _letters(title):
        return [Heading(1, first.line), *blocks[1:]]
    return [Heading(1, [title]), *blocks]


def _letters(text: str) -> str:
    return _LETTERS.sub("", text).lower()


def _page(content: str, said: Facts, cut: bool) -> Page:
    return Page(
        content=content,
        title=said.title,
        description=said.description,
        author=said.author,
        publish_date=said.published,
        modified_date=said.modified,
        language=said.language,
        site_name=said.site,
        canonical_url=said.canonical,
        image=said.image,
        cut=cut,
    )


def _rendered(blocks: list[Block], wanted: PageForm) -> str:
    return plain(blocks) if wanted is PageForm.TEXT else markdown(blocks)
