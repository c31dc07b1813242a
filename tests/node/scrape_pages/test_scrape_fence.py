"""No page makes the parser work longer than its length allows, and the others lose nothing."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest

from benchmarks.extraction_scores import pages
from cxp2p.jobs import PageForm
from cxp2p_node.scrape import fence as fences
from cxp2p_node.scrape.decode import decode
from cxp2p_node.scrape.extract import extract
from cxp2p_node.scrape.fence import DEPTH_MAX, NODES_MAX, fence
from cxp2p_node.scrape.tree import Node, parse

HOSTILE: dict[str, Callable[[int], str]] = {
    "nested blocks": lambda count: "<div>" * count + "<p>x",
    "nested lists": lambda count: "<ul><li>x" * count,
    "nested tables": lambda count: "<table><tr><td>x" * count,
    "nested quotes": lambda count: "<blockquote>" * count + "x",
    "nested templates": lambda count: "<template>" * count,
    "nested headings": lambda count: "<h1><div>x" * count,
    "formatting never closed": lambda count: "".join(f"<p><font x={number}>a" for number in range(count)),
    "formatting closed with its paragraph": lambda count: "".join(f"<p><i x={n}><b y={n}>a</p>" for n in range(count)),
    "formatting across blocks": lambda count: ("<b>" + "<div>" * 10 + "</b>") * count,
    "forms that end early": lambda count: "<form><div></form>" * count,
    "end tags of nothing": lambda count: "<div>" * count + "</span>" * count,
    "end tags far away": lambda count: "<span><div>" + "<x>" * 300 + "</span>" * count,
    "attributes": lambda count: "<p " + " ".join(f"a{number}=1" for number in range(count)) + ">x",
    "bodies with attributes": lambda count: "".join(f"<body a{number}=1>" for number in range(count)),
    "options": lambda count: "<option><optgroup>" * count,
    "cells that span": lambda count: "<table>" + "<tr><td colspan=1000 rowspan=60000>x<td>y<th>z" * count,
    "entities": lambda count: "<p>" + "&notit;&#x110000;&" * count,
    "open comments": lambda count: "<!-- " * count,
    "open quotes": lambda count: '<a b="' * count,
    "open brackets": lambda count: "<p>" + "[" * count + "](x)",
    "angle brackets": lambda count: "<" * count,
    "comments in scripts": lambda count: "<div><script><!--<script></script></div>--></script>" * count,
    "drawings": lambda count: "<svg><g><path d='x'>" * count,
    "drawings that do not end": lambda count: "<svg><g a='></svg>" * count,
    "backticks": lambda count: "<p>" + "`" * count + "<code>" + "`" * count,
    "emphasis": lambda count: "<p>" + "<b>x</b><i>*</i>" * count,
    "line breaks": lambda count: "<p>" + "x<br><br>" * count,
    "nested JSON-LD": lambda count: f'<script type="application/ld+json">{"[" * count}</script><p>x',
    "things of JSON-LD": lambda count: f'<script type="application/ld+json">[{"[{}]," * count}0]</script><p>x',
    "titles": lambda count: f"<title>{'a - ' * count}</title><h1>a</h1><p>x",
    "class names": lambda count: "".join(
        f"<div class='share{number} a-b-c{number}'>x</div>" for number in range(count)
    ),
}


def seconds(page: str) -> float:
    begun = time.process_time()
    extract(page.encode(), "text/html", "https://example.org/", PageForm.MARKDOWN, include_links=True)
    return time.process_time() - begun


@pytest.mark.slow
@pytest.mark.parametrize("kind", HOSTILE)
def test_time_is_linear_in_length(kind: str) -> None:
    """Eight times the page takes no more than some eight times the time."""
    make = HOSTILE[kind]
    small, large = (min(seconds(make(count)) for _ in range(2)) for count in (2_500, 20_000))

    assert large < 24 * small + 1, f"{small:.3f} s, then {large:.3f} s"


@pytest.mark.slow
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_large_hostile_page_is_read_in_seconds(kind: str) -> None:
    """Of the largest size that is fetched. The limit is generous: it is for what is quadratic."""
    make = HOSTILE[kind]
    count = 2_500
    while len(make(2 * count)) < 8_000_000 and count < 400_000:
        count *= 2

    assert seconds(make(count)) < 60


def nodes_and_depth(html: str) -> tuple[int, int]:
    depth: dict[Node, int] = {}
    for node in (nodes := parse(html)):
        depth[node] = 0 if node.parent is None else depth[node.parent] + 1
    return len(nodes), max(depth.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [name for name in HOSTILE if name.startswith(("nested", "formatting", "forms", "comments"))]
)
def test_the_tree_stays_within_its_limits(kind: str) -> None:
    """Nodes and depth, what the parser adds by itself included: <tbody>, formatting that it opens again."""
    count, depth = nodes_and_depth(fence(HOSTILE[kind](20_000)).html)

    assert count < 2 * NODES_MAX
    assert depth < 3 * DEPTH_MAX


def test_what_is_cut_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fences, "NODES_MAX", 100)
    page = extract(b"<p>word " * 1000, "text/html", "https://example.org/", PageForm.TEXT)

    assert page.cut
    assert page.content.count("word") == 100


@pytest.mark.parametrize(("name", "body"), pages(), ids=[name for name, _ in pages()])
def test_an_ordinary_page_has_the_same_tree(name: str, body: bytes) -> None:
    """The fence takes nothing out of it but scripts, styles, comments and controls of forms."""
    page = decode(body, "text/html")[0]
    bare = re.sub(r"(?is)<!--.*?-->|<(script|style|select|textarea|noscript|iframe)\b.*?</\1\s*>", "", page)
    bare = re.sub(r"(?i)<(/?)form\b", r"<\1fieldset", bare)

    bare = bare if "<!doctype" in bare.lower() else f"<!DOCTYPE html>{bare}"  # tables end paragraphs everywhere
    fenced = [(node.tag, node.words()) for node in parse(fence(page).html)]
    assert fenced == [(node.tag, node.words()) for node in parse(bare)], name


SAME = [
    ('<a title="1 > 0" href=x>y</a>', "y"),
    ("<a href='x\"y'>z</a>", "z"),
    ('<p class="a""b>x</p>', "x"),
    ("<p =x>y</p>", "y"),
    ("a < b > c <3 </ d", "a < b > c <3"),
    ("<p>x<!-- <p>y --><b>z", "xz"),
    ("<!--> a --> b", "a --> b"),
    ("<script>if (a<b) document.write('<p>no</p>')</script>yes", "yes"),
    ("<SCRIPT>no</sCrIpT >yes", "yes"),
    ("<style>p{}</style ><xmp><b>x</b></xmp>", "<b>x</b>"),
    ("<title><b>x</title><p>y", "y"),
    ("x\0y<p\0>z", "xyz"),
    ("<p>un<b>closed", "unclosed"),
    ("</p></div></b>x", "x"),
    ("a<svg viewBox='0 0 1 1'><title>Menu</title><g><path d='M1'/></g></SVG >b", "ab"),
    ("a<svg/>b<path></svg>c", "abc"),
    ("a<svg><path></g><p>b</p></svg>c", "abc"),
    ("a<svg><a href=x><text>no</text></a></svg>b", "ab"),
    ("a<svg><text>no</text>", "a"),
    ("a<svg class='></svg>'><path></svg>b", "ab"),
]


@pytest.mark.parametrize(("page", "text"), SAME)
def test_tags_are_read_as_browsers_do(page: str, text: str) -> None:
    """Quotes, comments, scripts, things that look like tags and tags that do not."""
    body = next(node for node in parse(fence(page).html) if node.tag == "body")

    assert body.words() == text


def test_lexbor_writes_regular_html() -> None:
    """What the reader of the tree relies on: tags closed, attributes in double quotes, `<` and `>` escaped in both."""
    (_, _, body, paragraph) = parse("<p title='1>0 <\"&amp;&nbsp;'>2>1 &lt;b&gt; &amp;amp;")

    assert body.tag == "body"
    assert paragraph.attributes == {"title": '1>0 <"& '}
    assert paragraph.children == ["2>1 <b> &amp;"]
