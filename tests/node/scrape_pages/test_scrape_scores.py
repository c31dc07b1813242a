"""How well pages are read: as well as docs/scraping.md says, by a measure that sees what is lost."""

from __future__ import annotations

import re

import pytest

import pages as docs
from benchmarks.extraction_scores import means, our_markdown, pages, said_by, scores, wanted_of
from benchmarks.web_pages import web_pages

LOST_MAX = 0.005  # of a mean: what another release of a library may cost before somebody looks
WORST = {"text": 0.9, "code": 0.9}  # of any page; a table or a heading alone on its page is worth all of it


def stated() -> dict[str, float]:
    """Our scores in the table of the documentation, by measure."""
    rows = docs.page("docs/scraping.md").table("", "ours", "trafilatura")
    return {name: float(ours) for name, ours, _ in rows if name in ("text", "tables", "code", "headings")}


def test_pages_are_read_as_well_as_is_said() -> None:
    """Over all pages that the project has, and no page much worse than the mean."""
    rows = {name: scores(wanted_of(body), said_by(our_markdown(body))) for name, body in pages()}
    found, wanted = means(rows.values()), stated()

    assert set(wanted) == {"text", "tables", "code", "headings"}
    assert {name: found[name] for name in wanted if found[name] < wanted[name] - LOST_MAX} == {}
    assert {name: row for name, row in rows.items() if any(row.get(key, 1) < WORST[key] for key in WORST)} == {}


@pytest.mark.parametrize(
    ("measure", "lost"),
    [
        ("tables", r"(?m)^\|.*\n"),
        ("code", r"(?ms)^```.*?^```$"),
        ("headings", r"(?m)^#+ .*$"),
        ("text", r"(?m)^[A-Z][^|#`\n]{40,}$"),
    ],
)
def test_what_is_lost_is_missed(measure: str, lost: str) -> None:
    """An extractor that leaves one kind of thing out has a score of its own for that, far below ours."""
    rows = []
    for _, body in pages():
        made = our_markdown(body)
        rows.append(scores(wanted_of(body), said_by(re.sub(lost, "", made))))

    assert means(rows)[measure] < stated()[measure] - 0.15


def test_what_is_not_wanted_is_missed_as_well() -> None:
    """Everything of a page, navigation and all, is worth less than what it is about."""
    rows = [scores(wanted_of(body), said_by(re.sub(r"<[^>]*>", " ", body.decode()))) for _, body in in_utf8()]

    assert means(rows)["text"] < stated()["text"] - 0.15


def test_pages_of_the_webs_size_are_read_as_well() -> None:
    """Those of the benchmark: what was added to them is found like the rest, and nothing of what is around."""
    grown = web_pages()
    rows = [scores(wanted_of(body), said_by(our_markdown(body))) for _, body in grown]

    assert len(grown) == 30
    assert all(20_000 <= len(body) <= 120_000 for _, body in grown)
    assert sum(wanted_of(body).words.total() for _, body in grown) > 5 * sum(
        wanted_of(body).words.total() for _, body in pages()
    )
    assert means(rows)["text"] > stated()["text"] - LOST_MAX


def in_utf8() -> list[tuple[str, bytes]]:
    return [(name, body) for name, body in pages() if b"charset=utf-8" in body.lower().replace(b'"', b"")]
