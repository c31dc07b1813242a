"""What a page says about itself: in its head, in JSON-LD, in its markup."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import unescape
from typing import Final
from urllib.parse import urlsplit

from cxp2p_node.scrape import linked
from cxp2p_node.scrape.addresses import Addresses
from cxp2p_node.scrape.dates import date_in_address, iso_date
from cxp2p_node.scrape.tags import in_order
from cxp2p_node.scrape.tree import Node

WORDS_CHARACTERS_MAX: Final = 2_048  # what a record of the answer holds
TITLE_CHARACTERS_MAX: Final = 500
AUTHORS_MAX: Final = 10
SUBHEADINGS_MAX: Final = 3  # one of which may be the title where there is no <h1>
MARKED_AUTHORS_MAX: Final = 4  # in the markup: more than so many wrote comments, not the page

_DIVIDER: Final = re.compile(r"\s+(?:[|·•»:~]|::|-|\u2013|\u2014)\s+|\s*\|\s*")
_LETTERS: Final = re.compile(r"[\W_]+")
_BY: Final = re.compile(r"^(?:by|von|par|por|di|door|av|af|written by|posted by|story by|author:?)\s+", re.IGNORECASE)
LANGUAGE: Final = re.compile(r"^[a-zA-Z]{2,3}(?:[-_][a-zA-Z0-9]{2,8}){0,3}$")
_ENTITY: Final = re.compile(r"&#?\w{2,8};")
_BYLINE: Final = re.compile(
    r"(?:^|[\s_-])(?:byline|author|post-author|entry-author|p-author)(?:$|[\s_-])", re.IGNORECASE
)

_TITLES: Final = ("og:title", "twitter:title", "dc.title", "dcterms.title", "headline")
_DESCRIPTIONS: Final = (
    "description",
    "og:description",
    "twitter:description",
    "dc.description",
    "sailthru.description",
)
_AUTHORS: Final = in_order(
    "author article:author parsely-author sailthru.author dc.creator dcterms.creator citation_author byl"
)
_PUBLISHED: Final = in_order(
    "article:published_time og:article:published_time og:published_time datepublished date.issued dc.date"
    " dc.date.issued dcterms.created dcterms.issued dcterms.date parsely-pub-date sailthru.date pubdate publishdate"
    " publish-date publish_date published_time date citation_publication_date citation_date article.published"
    " originalpublicationdate"
)
_MODIFIED: Final = in_order(
    "article:modified_time og:updated_time og:modified_time datemodified dcterms.modified last-modified revised"
)


@dataclass(frozen=True, slots=True)
class Facts:
    """Each is "" if the page is silent. Dates are ISO 8601, addresses absolute. `article`: it says that it is one."""

    title: str = ""
    description: str = ""
    author: str = ""
    published: str = ""
    modified: str = ""
    language: str = ""
    site: str = ""
    canonical: str = ""
    image: str = ""
    article: bool = False


def facts(nodes: Sequence[Node], scripts: Sequence[str], url: str, addresses: Addresses) -> Facts:
    """What the page says. `scripts` are those of JSON-LD; `url` is where the page was found."""
    head = _Head(nodes)
    found = linked.things(scripts)
    about = linked.about(found)
    site = head.first(("og:site_name", "application-name")) or _site(found)
    return Facts(
        title=short(_title(head, about, site, url), TITLE_CHARACTERS_MAX),
        description=short(head.first(_DESCRIPTIONS) or _said(about, "description")),
        author=short(_author(head, about, found)),
        published=_published(head, about, url),
        modified=_first_date([*_all_said(about, "dateModified"), *head.all(_MODIFIED)]),
        language=_language(head, about),
        site=short(site),
        canonical=addresses.absolute(head.canonical or head.first(("og:url",)))[:WORDS_CHARACTERS_MAX],
        image=addresses.absolute(_image(head, about))[:WORDS_CHARACTERS_MAX],
        article=head.first(("og:type",)).lower().startswith("article") or linked.any_article(found),
    )


class _Head:
    """The elements that facts are taken from, found in one pass."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.metas: dict[str, list[str]] = {}
        self.titles: list[Node] = []
        self.headings: list[Node] = []
        self.subheadings: list[Node] = []
        self.times: list[Node] = []
        self.marked: list[Node] = []  # with itemprop, or rel=author
        self.bylines: list[Node] = []
        self.canonical = ""
        self.html = nodes[0]
        for node in nodes:
            match node.tag:
                case "meta":
                    self._meta(node)
                case "title":
                    self.titles.append(node)
                case "h1":
                    self.headings.append(node)
                case "h2" if len(self.subheadings) < SUBHEADINGS_MAX:
                    self.subheadings.append(node)
                case "link" if "canonical" in node.raw and "canonical" in node.get("rel").lower().split():
                    self.canonical = self.canonical or node.get("href")
                case "time":
                    self.times.append(node)
                case _ if node.raw:
                    self._other(node)

    def _meta(self, node: Node) -> None:
        name = node.get("property") or node.get("name") or node.get("itemprop") or node.get("http-equiv")
        if name and (content := node.get("content").strip()):
            self.metas.setdefault(name.lower(), []).append(content)

    def _other(self, node: Node) -> None:
        raw = node.raw
        if "itemprop" in raw or ("author" in raw and "author" in node.get("rel").split()):
            self.marked.append(node)
        elif ("author" in raw or "byline" in raw) and len(self.bylines) < 5 and _BYLINE.search(node.get("class")):
            self.bylines.append(node)

    def all(self, names: Sequence[str]) -> list[str]:
        return [content for name in names for content in self.metas.get(name, ())]

    def first(self, names: Sequence[str]) -> str:
        return next(iter(self.all(names)), "")

    def properties(self, name: str) -> Iterator[Node]:
        return (node for node in self.marked if name in node.get("itemprop").split())


def _said(about: Sequence[linked.Thing], name: str) -> str:
    return next(iter(_all_said(about, name)), "")


def _all_said(about: Sequence[linked.Thing], name: str) -> list[str]:
    return [said for thing in about if (said := linked.words(thing.get(name)))]


def _site(found: Sequence[linked.Thing]) -> str:
    sites = [thing for thing in found if "website" in linked.kinds_of(thing)]
    publishers = [thing["publisher"] for thing in found if isinstance(thing.get("publisher"), dict)]
    return next((name for each in (*sites, *publishers) for name in linked.people(each, found) if name), "")


def _title(head: _Head, about: Sequence[linked.Thing], site: str, url: str) -> str:
    headings = [words for node in (head.headings or head.subheadings)[:8] if (words := node.words())]
    whole = next((words for node in head.titles if (words := node.words())), "")
    for said in (head.first(_TITLES), _said(about, "headline"), whole):
        if said:
            return _without_site(unescape(said) if _ENTITY.search(said) else said, headings, site, url)
    return headings[0] if headings and head.headings else _said(about, "name")


def _without_site(title: str, headings: Sequence[str], site: str, url: str) -> str:
    """A title without the name of the site before or after it."""
    parts = [part.strip() for part in _DIVIDER.split(title) if part.strip()]
    if len(parts) < 2:
        return title
    for heading in headings:
        if _letters(heading) in map(_letters, (title, parts[0], parts[-1])):
            return heading
    host = _letters(_host(url).removeprefix("www."))
    known = _letters(site)
    if _is_site(parts[-1], known, host):
        return title[: title.rindex(parts[-1])].rstrip(" |-:~\u00b7\u2022\u00bb\u2013\u2014\t")
    if _is_site(parts[0], known, host):
        return title[title.index(parts[0]) + len(parts[0]) :].lstrip(" |-:~\u00b7\u2022\u00bb\u2013\u2014\t")
    return title


def _is_site(part: str, known: str, host: str) -> bool:
    letters = _letters(part)
    return bool(letters) and (letters == known or (len(letters) > 2 and letters in host))


def _letters(text: str) -> str:
    return _LETTERS.sub("", text).lower()


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _author(head: _Head, about: Sequence[linked.Thing], found: Sequence[linked.Thing]) -> str:
    candidates = (
        [name for thing in about[:3] for name in linked.people(thing.get("author") or thing.get("creator"), found)],
        head.all(_AUTHORS),
        [node.get("content") or _named(node) for node in head.properties("author")],
        [node.words() for node in head.marked if "author" in node.get("rel").split()],
        [node.words() for node in head.bylines],
    )
    for number, names in enumerate(candidates):
        good = list(dict.fromkeys(filter(None, map(_person, names))))
        if good and (number < 2 or len(good) <= MARKED_AUTHORS_MAX):
            return ", ".join(good[:AUTHORS_MAX])
    return ""


def _named(node: Node) -> str:
    inner = next((each for each in node.walk() if "name" in each.get("itemprop").split()), node)
    return inner.get("content") or inner.words()


def _person(name: str) -> str:
    """A name without what stands round it; "" for what is none."""
    name = _BY.sub("", " ".join((unescape(name) if _ENTITY.search(name) else name).split())).strip(" ,;|\u00b7\u2022")
    name = _DIVIDER.split(name)[0]
    if "://" in name or "@" in name or not 1 < len(name) <= 100 or len(name.split()) > 12:
        return ""
    return name if any(each.isalpha() for each in name) and name != "by" else ""


def _published(head: _Head, about: Sequence[linked.Thing], url: str) -> str:
    marked = [node.get("datetime") or node.get("content") or node.words() for node in head.properties("datePublished")]
    times = [node.get("datetime") or node.words() for node in head.times[:10]]
    first = [node.get("datetime") for node in head.times[:10] if "pubdate" in node.raw or "published" in node.raw]
    said = _first_date([*_all_said(about, "datePublished"), *head.all(_PUBLISHED), *marked, *first])
    return said or _first_date([*_all_said(about, "dateCreated"), *times]) or date_in_address(_path(url))


def _first_date(said: Sequence[str]) -> str:
    return next((found for text in said if (found := iso_date(text))), "")


def _path(url: str) -> str:
    try:
        return urlsplit(url).path
    except ValueError:
        return ""


def _language(head: _Head, about: Sequence[linked.Thing]) -> str:
    html = head.html
    said = [html.get("lang"), html.get("xml:lang"), *head.all(("content-language", "language", "og:locale"))]
    for language in (*said, _said(about, "inLanguage")):
        language = language.split(",")[0].strip()
        if LANGUAGE.match(language):
            return language.replace("_", "-")
    return ""


def _image(head: _Head, about: Sequence[linked.Thing]) -> str:
    said = head.first(("og:image", "og:image:url", "og:image:secure_url", "twitter:image", "twitter:image:src"))
    return said or next((url for thing in about if (url := linked.address(thing.get("image")))), "")


def short(text: str, characters_max: int = WORDS_CHARACTERS_MAX) -> str:
    """On one line, without halves of characters, and no longer than it may be."""
    if _ENTITY.search(text):
        text = unescape(text)
    text = " ".join(text.encode("utf-8", "ignore").decode().split())
    return text if len(text) <= characters_max else text[: characters_max - 1].rstrip() + "\u2026"
