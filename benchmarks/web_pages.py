"""Pages of the size that the web has, 20 to 100 kB: those of `tests/data/pages`, with more to say and more around it.

What is added to what a page is about stands between its own marks, so that what is found of it can be scored. Around it
comes what the web has there: styles, scripts, menus, cards of other pages, a footer. The same seed, the same pages.
"""

from __future__ import annotations

import json
import re
from functools import cache
from random import Random
from typing import Final

from benchmarks.extraction_scores import pages

SIZES: Final = (20_000, 30_000, 40_000, 60_000, 80_000, 100_000)  # bytes, by turns
SAID: Final = 0.3  # of a page is what it is about; half of the rest is neither shown nor read
SEED: Final = 9309

_GOLD: Final = re.compile(r"<!--gold-->(.*?)<!--/gold-->", re.DOTALL)
_PARAGRAPH: Final = re.compile(r"<p>[^<]{60,}(?:<(?:a|em|strong|code)[^>]*>[^<]*</\w+>[^<]*)*</p>")
_WHOLE: Final = re.compile(
    r"<pre[^>]*>(?:(?!<!--|<pre).)*</pre>|<(table|ul)[^>]*>(?:(?!<!--|<table|<ul).)*</\1>", re.DOTALL
)
_PLACE: Final = re.compile(r"</p>\s*(?=<(?:p|h2|h3|section|!--/gold--))")
_NESTS: Final = re.compile(r"<(/?)(table|ul|ol|dl|blockquote|details|pre)\b")
_UTILITIES: Final = (
    "flex",
    "grid",
    "px-4",
    "py-2",
    "text-sm",
    "md:px-8",
    "font-medium",
    "hover:underline",
    "rounded-lg",
)


@cache
def web_pages() -> tuple[tuple[str, bytes], ...]:
    """By name: of all pages that say something, and are whole. All are UTF-8."""
    texts = [(name, _text(body)) for name, body in pages()]
    own = [(name, text) for name, text in texts if _GOLD.search(text) and "</body>" in text]
    paragraphs = [found[0] for _, text in own for gold in _GOLD.findall(text) for found in _PARAGRAPH.finditer(gold)]
    wholes = [found[0] for _, text in own for gold in _GOLD.findall(text) for found in _WHOLE.finditer(gold)]
    rng = Random(SEED)
    grown = []
    for number, (name, text) in enumerate(own):
        bytes_min = SIZES[number % len(SIZES)]
        said = _said_more(text, paragraphs, wholes, round(SAID * bytes_min), rng)
        grown.append((name, _around(said, bytes_min, paragraphs, rng).encode()))
    return tuple(grown)


def _text(body: bytes) -> str:
    declared = re.search(rb"charset=[\"']?([\w-]+)", body)
    text = body.decode(declared[1].decode() if declared else "utf-8")
    return re.sub(r"charset=([\"']?)[\w-]+", r"charset=\1utf-8", text)


def _said_more(text: str, paragraphs: list[str], wholes: list[str], bytes_more: int, rng: Random) -> str:
    """With sections after a paragraph of its own, if it has one that stands by itself."""
    places = [
        found.end()
        for gold in _GOLD.finditer(text)
        for found in _PLACE.finditer(text, gold.start(), gold.end())
        if not _nested(text[: found.end()])
    ]
    if not places:
        return text
    parts: list[str] = []
    size = 0
    while size < bytes_more:
        heading = " ".join(re.findall(r"\w+", re.sub(r"<[^>]*>", "", rng.choice(paragraphs)))[:6])
        section = [f"<h2>{heading}</h2>", *rng.sample(paragraphs, 4)]
        if rng.random() < 0.4:
            section.insert(rng.randrange(2, 5), rng.choice(wholes))
        parts.extend(section)
        size += sum(len(part.encode()) for part in section)
    return text[: places[-1]] + "\n".join(parts) + "\n" + text[places[-1] :]


def _nested(before: str) -> bool:
    return any(
        sum(-1 if end else 1 for end, name in _NESTS.findall(before) if name == tag)
        for tag in {name for _, name in _NESTS.findall(before)}
    )


# What is around it.


def _around(text: str, bytes_min: int, paragraphs: list[str], rng: Random) -> str:
    left = bytes_min - len(text.encode())
    body = re.search(r"<body[^>]*>", text)
    assert body is not None
    if left <= 0:
        return text
    end = text.rfind("</body>")
    top, middle, after = text[: body.end()], text[body.end() : end], text[end:]
    top = top.replace("</head>", _unseen(left // 2, rng) + "</head>", 1)
    return top + _menu(left // 6, rng) + middle + _cards(left // 6, paragraphs, rng) + _footer(left // 6, rng) + after


def _unseen(size: int, rng: Random) -> str:
    rules: list[str] = []
    state: list[dict[str, object]] = []
    while sum(map(len, rules)) < size // 2:
        name = f".{_word(rng)}-{_word(rng)}__{_word(rng)}"
        rules.append(f"{name}{{display:flex;margin:0 {rng.randrange(40)}px;color:#{rng.randrange(1 << 24):06x}}}")
    while len(state) * 90 < size // 2:
        state.append({"id": rng.randrange(1 << 30), "slug": _slug(rng), "href": f"/{_slug(rng)}", "tags": [_word(rng)]})
    return f"<style>{''.join(rules)}</style><script>window.__STATE__={json.dumps(state)};</script>"


def _menu(size: int, rng: Random) -> str:
    return f'<nav class="site-menu" aria-label="Main"><ul class="{_looks(rng)}">{_links(size, rng)}</ul></nav>'


def _cards(size: int, paragraphs: list[str], rng: Random) -> str:
    cards: list[str] = []
    while sum(map(len, cards)) < size:
        words = re.findall(r"\w+", re.sub(r"<[^>]*>", "", rng.choice(paragraphs)))
        cards.append(
            f'<div class="related-card {_looks(rng)}"><a href="/{_slug(rng)}"><img src="/img/{_slug(rng)}.jpg" alt="" '
            f'loading="lazy" width="320" height="180"><h3>{" ".join(words[:7])}</h3></a>'
            f"<span>{' '.join(words[7:20])}</span></div>"
        )
    return f'<section class="related-stories"><h2>More stories</h2>{"".join(cards)}</section>'


def _footer(size: int, rng: Random) -> str:
    return f'<footer class="site-footer"><ul>{_links(size, rng)}</ul><p>© 2026 The publisher</p></footer>'


def _links(size: int, rng: Random) -> str:
    icon = '<svg viewBox="0 0 24 24" aria-hidden="true"><path d="M4 12l8 8 8-8-2-2-6 6-6-6z"/></svg>'
    links: list[str] = []
    while sum(map(len, links)) < size:
        words = f"{_word(rng)} {_word(rng)}".title()
        links.append(
            f'<li class="{_looks(rng)}"><a href="/{_slug(rng)}" data-track="{_word(rng)}">{words}</a>{icon}</li>'
        )
    return "".join(links)


def _looks(rng: Random) -> str:
    return " ".join(rng.sample(_UTILITIES, 4))


def _slug(rng: Random) -> str:
    return "-".join(_word(rng) for _ in range(4))


def _word(rng: Random) -> str:
    return "".join(rng.choice("bdfglmnprst") + rng.choice("aeiou") for _ in range(rng.randrange(2, 5)))
