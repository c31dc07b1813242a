"""HTML becomes Markdown, a CommonMark parser reads that: the text, the links, the cells and the code are the same."""

from __future__ import annotations

import html as entities
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from cxp2p.jobs import PageForm
from cxp2p_node.scrape.extract import extract

PARSER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
URL = "https://www.example.org/a/b"

# All that Markdown has a meaning for, and some that it has none for.
TEXT = st.text(alphabet="ab1 .,\\`*_{}[]()<>#+-=!|~:&;\"'$^/?%@é日", min_size=1, max_size=24)
MARKS = st.sampled_from(["b", "strong", "em", "i", "del", "sup", "span", "code", "a"])


@dataclass(frozen=True)
class Read:
    """What a parser finds in Markdown, white space as one space."""

    paragraphs: list[str]
    cells: list[str]
    code: list[str]
    links: list[str]


def markdown_of(body: str) -> str:
    page = f"<!DOCTYPE html><html><body>{body}</body></html>".encode()
    return extract(
        page, "text/html; charset=utf-8", URL, PageForm.MARKDOWN, only_main_content=False, include_links=True
    ).content


def read(markdown: str) -> Read:
    found = Read([], [], [], [])
    tokens = PARSER.parse(markdown)
    for before, token in zip([None, *tokens], tokens, strict=False):
        if token.type in ("fence", "code_block"):
            found.code.append(token.content.removesuffix("\n"))
        elif token.type == "html_block":
            found.paragraphs.append(f"HTML: {token.content}")  # nothing of what was text may become that
        elif token.type == "inline" and before is not None:
            text = one_space(text_of(token, found.links))
            (found.cells if before.type in ("td_open", "th_open") else found.paragraphs).append(text)
    return found


def text_of(token: Token, links: list[str]) -> str:
    out = []
    for child in token.children or ():
        if child.type in ("text", "code_inline"):
            out.append(child.content)
        elif child.type in ("softbreak", "hardbreak") or child.content == "<br>":
            out.append(" ")
        elif child.type == "link_open":
            links.append(str(child.attrGet("href")))
        elif child.type == "html_inline" and child.content not in ("<sup>", "</sup>", "<sub>", "</sub>"):
            out.append(child.content)
        elif child.type == "image":
            out.append(f"IMAGE: {child.content}")
    return "".join(out)


def one_space(text: str) -> str:
    return " ".join(text.split())


@st.composite
def lines(draw: Callable[[st.SearchStrategy[object]], object]) -> tuple[str, str]:
    """A line of HTML, and its text."""
    markup, text = "", ""
    for _ in range(int(str(draw(st.integers(1, 5))))):
        part = str(draw(TEXT))
        escaped = entities.escape(part)
        kind = str(draw(MARKS)) if draw(st.booleans()) else ""
        if kind == "a":
            markup += f'<a href="/x">{escaped}</a>'
        elif kind:
            markup += f"<{kind}>{escaped}</{kind}>"
        else:
            markup += escaped
        text += part
    return markup, one_space(text)


@settings(max_examples=300, deadline=None)
@given(st.lists(lines(), min_size=1, max_size=4))
@example([("1. a", "1. a")])
@example([("<b>a</b>b<i>.</i>*", "ab.*")])
@example([("a!<a href='/x'>b</a>", "a!b")])
@example([("[a]<b>(b)</b>", "[a](b)")])
@example([("<code>``a`</code>`", "``a``")])
def test_paragraphs_keep_their_text(parts: list[tuple[str, str]]) -> None:
    """Whatever characters and marks a paragraph has."""
    markdown = markdown_of("".join(f"<p>{markup}</p>" for markup, _ in parts))

    assert read(markdown).paragraphs == [text for _, text in parts if text], markdown


@settings(max_examples=100, deadline=None)
@given(
    st.lists(lines(), min_size=1, max_size=3), st.sampled_from(["h2", "blockquote", "li", "ol", "br", "dd", "summary"])
)
def test_other_blocks_keep_their_text(parts: list[tuple[str, str]], kind: str) -> None:
    """Headings, quotes, items of lists, lines divided by <br>, definitions, summaries."""

    def plain(markup: str) -> str:
        return f"<{kind}>{markup}</{kind}>"

    wrappers: dict[str, Callable[[str], str]] = {
        "li": lambda markup: f"<ul><li>{markup}</li></ul>",
        "ol": lambda markup: f"<ol start=7><li>{markup}</li></ol>",
        "br": lambda markup: f"<p>first<br>{markup}</p>",
        "dd": lambda markup: f"<dl><dt>first</dt><dd>{markup}</dd></dl>",
        "summary": lambda markup: f"<details><summary>first</summary><p>{markup}</p></details>",
    }
    wrapped = wrappers.get(kind, plain)
    before = ["first"] if kind in ("br", "dd", "summary") else []
    markdown = markdown_of("".join(wrapped(markup) for markup, _ in parts))
    words = one_space(" ".join(read(markdown).paragraphs))

    assert words == one_space(" ".join(word for _, text in parts for word in (*before, text))), markdown


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(lines(), min_size=2, max_size=2), min_size=1, max_size=4))
def test_cells_keep_their_text(rows: list[list[tuple[str, str]]]) -> None:
    """A cell may hold what divides cells."""
    body = "".join(f"<tr>{''.join(f'<td>{markup}</td>' for markup, _ in row)}</tr>" for row in rows)
    markdown = markdown_of(f"<table><tr><th>one</th><th>two</th></tr>{body}</table>")

    wanted = [cell for _, cell in (pair for row in rows if any(text for _, text in row) for pair in row)]
    assert read(markdown).cells == ["one", "two", *wanted], markdown


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(alphabet="ab `~#-*\\<>&|\t", max_size=12), min_size=1, max_size=5), st.booleans())
def test_code_keeps_every_line(code: list[str], in_list: bool) -> None:
    """Fences, markers and entities in code stay what they are, in a list, too."""
    text = "\n".join(line.rstrip() for line in code).strip("\n")
    block = f"<pre>\n{entities.escape(text)}</pre>"
    markdown = markdown_of(f"<ul><li>x{block}</li></ul>" if in_list else block)

    assert [part.rstrip("\n") for part in read(markdown).code] == ([text.rstrip("\n")] if text.strip() else []), (
        markdown
    )


ADDRESSES = [
    ("/x", "https://www.example.org/x"),
    ("x y(z)", "https://www.example.org/a/x%20y%28z%29"),
    ("?q=[a]&b=*", "https://www.example.org/a/b?q=%5Ba%5D&b=*"),
    ("//cdn.example.org/%3C", "https://cdn.example.org/%3C"),
    ("HTTPS://Example.org/\\", "HTTPS://Example.org/%5C"),
    ("mailto:a@example.org", "mailto:a@example.org"),
    ("../é", "https://www.example.org/%C3%A9"),
]


@pytest.mark.parametrize(("reference", "address"), ADDRESSES)
def test_links_lead_to_the_same_address(reference: str, address: str) -> None:
    """A link's address is absolute, and survives parentheses, brackets and spaces."""
    markdown = markdown_of(f'<p>a <a href="{entities.escape(reference)}">b</a> c</p>')

    assert read(markdown).links == [address], markdown


@pytest.mark.parametrize(
    "reference", ["javascript:alert(1)", "data:text/html,x", " java\nscript:x", "vbscript:x", "#top", ""]
)
def test_links_that_lead_nowhere_are_plain_text(reference: str) -> None:
    markdown = markdown_of(f'<p>a <a href="{reference}">b</a> c</p>')

    assert markdown == "a b c"
