"""How well pages are read: what is found of what they say, beside trafilatura. Scores do not depend on the machine.

The pages are those of `tests/data/pages`: the project's own, so that they are hardly a sample of the web.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import trafilatura

from benchmarks.extraction_scores import URL, means, our_markdown, pages, said_by, scores, wanted_of
from benchmarks.figures import Figure, Rate

# Links are not compared: few of the pages have any, and the peer keeps those within a page, which we leave out.
COMPARED: Final = ("text", "tables", "code", "headings")
PEER: Final = f"trafilatura {trafilatura.__version__}, Markdown with tables, formatting and links"


def measure(seconds: float) -> list[Figure]:
    """F1 of each measure, the mean over the pages that have it, with the worst page and the best."""
    bodies = pages()
    ours = [_scores(body, our_markdown(body)) for _, body in bodies]
    peers = [_scores(body, peer_markdown(body)) for _, body in bodies]
    return [
        Figure(name=f"{measure}, F1", ours=_rate(ours, measure), peer=_rate(peers, measure), peer_is=PEER)
        for measure in COMPARED
    ]


def peer_markdown(body: bytes | str) -> str:
    """What trafilatura makes of a page, with all that it can keep."""
    made = trafilatura.extract(
        body, url=URL, output_format="markdown", include_tables=True, include_formatting=True, include_links=True
    )
    return str(made or "")


def _scores(body: bytes, markdown: str) -> Mapping[str, float]:
    return scores(wanted_of(body), said_by(markdown))


def _rate(rows: Sequence[Mapping[str, float]], measure: str) -> Rate:
    values = [row[measure] for row in rows if measure in row]
    return Rate(median=means(rows)[measure], least=min(values), most=max(values))
