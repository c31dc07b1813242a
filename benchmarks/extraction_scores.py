"""How much of what a page says is found, and how much else: text, cells of tables, lines of code, headings, links.

The pages of `tests/data/pages/` say themselves what is wanted: it stands between the comments `gold` and `/gold`, save
what stands between `skip` and `/skip`. No extractor sees comments. What comes out is read by a CommonMark parser.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Final
from urllib.parse import urljoin

from markdown_it import MarkdownIt
from markdown_it.token import Token

from cxp2p.jobs import PageForm
from cxp2p_node.scrape.extract import extract

PAGES: Final = Path(__file__).parent.parent / "tests" / "data" / "pages"
URL: Final = "https://www.example.org/folder/page.html"
MEASURES: Final = ("text", "tables", "code", "headings", "links")

_WORD: Final = re.compile(r"[\u0e00-\u0e7f\u1000-\u109f\u3040-\u30ff\u3400-\u9fff]|[^\W_]+")
_VOID: Final = frozenset(
    ["area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track", "wbr"]
)
_LINES: Final = frozenset(
    [
        "p",
        "div",
        "li",
        "tr",
        "td",
        "th",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "pre",
        "table",
        "ul",
        "ol",
        "dl",
        "dt",
        "dd",
        "blockquote",
        "figure",
        "br",
    ]
)
_MARKDOWN: Final = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


@dataclass(slots=True)
class Said:
    """What a page, or what was made of it, says. Of a table, `cells_least` has what spans several cells once."""

    words: Counter[str] = field(default_factory=Counter)
    cells: Counter[str] = field(default_factory=Counter)
    cells_least: Counter[str] = field(default_factory=Counter)
    code: Counter[str] = field(default_factory=Counter)
    headings: Counter[str] = field(default_factory=Counter)
    links: Counter[str] = field(default_factory=Counter)


def words(text: str) -> list[str]:
    """Its words, in lower case; signs of scripts that do not divide words stand alone."""
    return _WORD.findall(text.lower())


def scores(wanted: Said, got: Said) -> dict[str, float]:
    """F1 by measure, of those that the page has anything to measure."""
    found = {"text": f1(wanted.words, got.words)}
    if wanted.cells:
        found["tables"] = f1(wanted.cells, got.cells, wanted.cells_least)
    for name, one, other in (
        ("code", wanted.code, got.code),
        ("headings", wanted.headings, got.headings),
        ("links", wanted.links, got.links),
    ):
        if one:
            found[name] = f1(one, other)
    return found


def f1(wanted: Counter[str], got: Counter[str], least: Counter[str] | None = None) -> float:
    """The harmonic mean of precision and recall; 1 if nothing is wanted and nothing came. `least` must be there."""
    least = wanted if least is None else least
    if not wanted and not got:
        return 1.0
    right = (wanted & got).total()
    if not right:
        return 0.0
    precision, recall = right / got.total(), (least & got).total() / least.total()
    return 2 * precision * recall / (precision + recall)


def means(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each measure over the pages that have it."""
    listed = list(rows)
    having = {name: [row[name] for row in listed if name in row] for name in MEASURES}
    return {name: sum(values) / len(values) for name, values in having.items() if values}


def our_markdown(body: bytes) -> str:
    """What this project makes of a page."""
    return extract(body, "text/html", URL, PageForm.MARKDOWN, include_links=True).content


# What is wanted.


def pages() -> list[tuple[str, bytes]]:
    """The project's own pages by name."""
    return [(path.stem, path.read_bytes()) for path in sorted(PAGES.glob("*.html"))]


def wanted_of(body: bytes) -> Said:
    """What stands between the marks of one of our pages."""
    declared = re.search(rb"charset=[\"']?([\w-]+)", body)
    reader = _GoldReader()
    reader.feed(body.decode(declared[1].decode() if declared else "utf-8"))
    reader.close()
    return reader.said


class _GoldReader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.said = Said()
        self._gold = 0
        self._skip = 0
        self._plain = False
        self._tables: list[list[list[tuple[int, int, list[str]]]] | None] = []
        self._code: list[str] | None = None
        self._heading: list[str] | None = None
        self._text: list[str] = []

    def handle_comment(self, data: str) -> None:
        self._gold += {"gold": 1, "/gold": -1}.get(data, 0)
        self._skip += {"skip": 1, "/skip": -1}.get(data, 0)
        self._plain = self._plain or data == "plain"
        if data == "code":
            self._code = []
        elif data == "/code":
            self._end_code()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = {name: value or "" for name, value in attrs}
        if tag in _LINES:
            self._text.append(" ")
        if self._code is not None and (tag == "br" or (tag == "div" and self._code)):
            self._code.append("\n")
        if tag == "table":
            self._tables.append(None if self._plain or not self._counts else [])
            self._plain = False
        if not self._counts:
            return
        if tag == "pre":
            self._code = []
        elif tag in ("h1", "h2", "h3", "h4", "h5", "h6"):
            self._heading = []
        elif tag == "a" and (url := said.get("href", "")) and not url.startswith("#"):
            self.said.links[urljoin(URL, url)] = 1
        elif tag == "tr" and self._table is not None:
            self._table.append([])
        elif tag in ("td", "th") and self._table:
            self._table[-1].append((int(said.get("colspan", 1)), int(said.get("rowspan", 1)), []))

    def handle_endtag(self, tag: str) -> None:
        if tag in _LINES:
            self._text.append(" ")
        if tag == "pre":
            self._end_code()
        elif tag == "table" and self._tables and (table := self._tables.pop()):
            self._count_table(table)
        elif tag in ("h1", "h2", "h3", "h4", "h5", "h6") and self._heading is not None:
            self.said.headings[" ".join("".join(self._heading).split())] += 1
            self._heading = None

    def handle_data(self, data: str) -> None:
        if not self._counts:
            return
        self._text.append(data)
        if self._code is not None:
            self._code.append(data)
        if self._heading is not None:
            self._heading.append(data)
        if self._table and self._table[-1]:
            self._table[-1][-1][2].append(data)

    def close(self) -> None:
        super().close()
        self.said.words = Counter(words("".join(self._text)))

    @property
    def _counts(self) -> bool:
        return self._gold > 0 and not self._skip

    @property
    def _table(self) -> list[list[tuple[int, int, list[str]]]] | None:
        return self._tables[-1] if self._tables else None

    def _end_code(self) -> None:
        lines = "".join(self._code or ()).replace("\xa0", " ").split("\n")
        self.said.code.update(line.rstrip() for line in lines if line.strip())
        self._code = None

    def _count_table(self, rows: Sequence[Sequence[tuple[int, int, list[str]]]]) -> None:
        if len(rows) < 2 or max(map(len, rows)) < 2:
            return
        for row in rows:
            for columns, down, data in row:
                if text := " ".join("".join(data).split()):
                    self.said.cells_least[text] += 1
                    self.said.cells[text] += columns * down


# What came.


def said_by(markdown: str, without_title: bool = False) -> Said:
    """What Markdown says to a CommonMark parser. `without_title`: a heading at its beginning does not count."""
    said = Said()
    tokens = _MARKDOWN.parse(markdown)
    if without_title and tokens and tokens[0].type == "heading_open":
        tokens = tokens[3:]
    text: list[str] = []
    for number, token in enumerate(tokens):
        if token.type in ("fence", "code_block"):
            said.code.update(line.rstrip() for line in token.content.split("\n") if line.strip())
            text.append(token.content)
        elif token.type == "inline":
            plain = _plain(token, said)
            text.append(plain)
            before = tokens[number - 1].type
            if before == "heading_open":
                said.headings[" ".join(plain.split())] += 1
            elif before in ("td_open", "th_open") and plain.strip():
                said.cells[" ".join(plain.split())] += 1
    said.words = Counter(words(" ".join(text)))
    return said


def _plain(token: Token, said: Said) -> str:
    out: list[str] = []
    for child in token.children or ():
        if child.type in ("text", "code_inline"):
            out.append(child.content)
        elif child.type in ("softbreak", "hardbreak") or child.content.startswith("<br"):
            out.append(" ")
        elif child.type == "link_open":
            said.links[str(child.attrGet("href"))] = 1
    return "".join(out)
