"""Scrape requests and their answers, as the user guide has them. Raises Fault, which names the parameter."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final

from cxp2p.records import PageFault, PageForm, Render, ScrapedPage, ScrapeJob
from cxp2p.scrape import MODEL, URLS_MAX
from cxp2p_gateway.faults import Base, Condition, Fault, row_of, text_of
from cxp2p_gateway.fields import Fields, checked_text, ranged_length
from cxp2p_gateway.openai.ask import MODEL_LENGTH_MAX

AGE_S_MAX: Final = 30 * 86_400
WAIT_MS_MAX: Final = 30_000
TIMEOUT_S_MAX: Final = 60
TIMEOUT_S: Final = 30
LETTERS_AT_ONCE: Final = 64 * 1024  # are written before others get their turn: a millisecond

TEXTS: Final[Mapping[PageFault, str]] = MappingProxyType(
    {
        PageFault.INVALID_URL: "Invalid URL",
        PageFault.URL_BLOCKED: "URL blocked",
        PageFault.ROBOTS_DISALLOWED: "Disallowed by robots.txt",
        PageFault.DNS_ERROR: "Host not found",
        PageFault.CONNECT_ERROR: "Could not connect",
        PageFault.TLS_ERROR: "No secure connection",
        PageFault.TIMEOUT: "Timed out",
        PageFault.HTTP_ERROR: "HTTP error",
        PageFault.TOO_LARGE: "Page too large",
        PageFault.UNSUPPORTED_CONTENT_TYPE: "Unsupported content type",
        PageFault.EXTRACTION_EMPTY: "No content found",
    }
)
"""What a client is told of a page that it does not get; no more, as the rest may be of somebody's private network."""

UNTOLD: Final = frozenset({PageFault.INVALID_URL, PageFault.URL_BLOCKED})  # not even where a redirect led


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrapeAsk:
    """A scrape request. Its URLs are any texts: what is wrong with one is told beside the pages of the others."""

    model: str
    urls: tuple[str, ...]
    form: PageForm
    main_only: bool
    links: bool
    timeout_s: int
    age_s_max: int
    render: Render
    wait_ms: int

    def job(self, urls: Sequence[str]) -> ScrapeJob:
        """The job for some of its URLs, however they are spelled there."""
        return ScrapeJob(
            model=self.model,
            urls=tuple(urls),
            form=self.form,
            main_only=self.main_only,
            links=self.links,
            timeout_s=self.timeout_s,
            age_s_max=self.age_s_max,
            render=self.render,
            wait_ms=self.wait_ms,
        )


def scrape_ask(body: dict[str, Any]) -> ScrapeAsk:
    """The request that a body asks for. Raises Fault with the parameter that is missing or wrong."""
    fields = Fields(body)
    urls = fields.list("urls")
    if not urls:
        raise Fault(Condition.URLS_MISSING, "urls")
    ranged_length(len(urls), 1, URLS_MAX, "urls", "URLs")
    form = fields.choice("format", [each.value for each in PageForm])
    main_only = fields.flag("only_main_content")
    timeout_s = fields.whole("timeout", 1, TIMEOUT_S_MAX)
    render = fields.choice("render", [each.value for each in Render])
    ask = ScrapeAsk(
        model=fields.text("model") or MODEL,
        urls=tuple(checked_text(url, f"urls[{number}]") for number, url in enumerate(urls)),
        form=PageForm(form or PageForm.MARKDOWN),
        main_only=main_only is not False,
        links=fields.flag("include_links") or False,
        timeout_s=TIMEOUT_S if timeout_s is None else timeout_s,
        age_s_max=fields.whole("max_age", 0, AGE_S_MAX) or 0,
        render=Render(render or Render.NEVER),
        wait_ms=fields.whole("wait_for", 0, WAIT_MS_MAX) or 0,
    )
    if len(ask.model) > MODEL_LENGTH_MAX:
        raise Fault(Condition.MODEL_UNKNOWN, "model", {"model": ask.model})
    return ask


def results_json(
    urls: Sequence[str], pages: Sequence[ScrapedPage | PageFault | Fault], base: Base, cx: object
) -> Iterator[bytes]:
    """The body of the answer in parts, each made in about a millisecond.

    For each URL its page, why the gateway did not ask for it, or why no node could be had for it.
    """
    yield b'{"results":['
    for number, (url, page) in enumerate(zip(urls, pages, strict=True)):
        yield b"," if number else b""
        yield b'{"url":'
        yield from _text(url)
        if isinstance(page, ScrapedPage) and page.fault is None:
            yield b',"content":'
            yield from _text(page.content)
            yield b"," + _fields({"success": True, "metadata": _metadata(page)}) + b"}"
        else:
            yield b',"content":"",' + _fields({"success": False, **_failure(page, base)}) + b"}"
    yield b"]" + (b"}" if cx is None else b"," + _fields({"cx": cx}) + b"}")


def _failure(page: ScrapedPage | PageFault | Fault, base: Base) -> dict[str, object]:
    if isinstance(page, Fault):
        return {"error": text_of(page, base), "code": row_of(page, base).code, "metadata": {}}
    if isinstance(page, PageFault):
        return {"error": TEXTS[page], "code": page, "metadata": {}}
    assert page.fault is not None
    metadata = {} if page.fault in UNTOLD or not page.status else _metadata(page)
    error = TEXTS[page.fault]
    if page.fault is PageFault.HTTP_ERROR and page.status:
        error = f"{error} {page.status}"
    return {"error": error, "code": page.fault, "metadata": metadata}


def _metadata(page: ScrapedPage) -> dict[str, object]:
    """What is known of a page: the guide's names first; `title` and `description` are "" if it does not say.

    The last three are the same as their namesakes, for who reads names with underscores.
    """
    fetched_at = _iso(page.fetched_at_ms)
    return {
        "title": page.title,
        "description": page.description,
        "author": page.author or None,
        "publish_date": page.published or None,
        "language": page.language or None,
        "contentType": page.content_type.partition(";")[0].strip() or None,
        "statusCode": page.status or None,
        "finalUrl": page.final_url or None,
        "fetchedAt": fetched_at,
        "cached": page.cached,
        "rendered": page.rendered,
        "status": page.status or None,
        "final_url": page.final_url or None,
        "fetched_at": fetched_at,
    }


def _iso(wall_ms: int) -> str | None:
    if not wall_ms:
        return None
    return datetime.fromtimestamp(wall_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _text(text: str) -> Iterator[bytes]:
    yield b'"'
    for start in range(0, len(text), LETTERS_AT_ONCE):
        yield json.dumps(text[start : start + LETTERS_AT_ONCE], ensure_ascii=False)[1:-1].encode()
    yield b'"'


def _fields(fields: Mapping[str, object]) -> bytes:
    """The inside of a JSON object."""
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()[1:-1]
