"""Scrape requests and answers in the user guide's JSON: every field, every fault of one, and every fault of a page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from cxp2p.errors import SettingsError
from cxp2p.records import PageFault, PageForm, Render, ScrapedPage, ScrapeJob
from cxp2p_gateway import pages
from cxp2p_gateway.app import open_gateway
from cxp2p_gateway.config import GatewaySettings, ScrapeSettings
from cxp2p_gateway.faults import Base, Condition, Fault, row_of, text_of
from cxp2p_gateway.pages import TEXTS, results_json, scrape_ask
from scrapers import page_of

URL = "https://example.com"


def body(**changes: Any) -> dict[str, Any]:
    return {"urls": [URL], **changes}


def job(**changes: Any) -> ScrapeJob:
    ask = scrape_ask(body(**changes))
    return ask.job(ask.urls)


def refusal(sent: dict[str, Any]) -> tuple[str, str | None, str]:
    with pytest.raises(Fault) as caught:
        scrape_ask(sent)
    fault = caught.value
    return row_of(fault, Base.ALIAS).code, fault.param, text_of(fault, Base.ALIAS)


def told(*results: ScrapedPage | PageFault | Fault, cx: object = None) -> dict[str, Any]:
    urls = [f"{URL}/{number}" for number in range(len(results))]
    answer: dict[str, Any] = json.loads(b"".join(results_json(urls, results, Base.DOCUMENTED, cx)))
    assert [each["url"] for each in answer["results"]] == urls
    return answer


# Requests.


@pytest.mark.parametrize(
    ("sent", "changes"),
    [
        ({}, {}),
        ({"format": "markdown"}, {}),
        ({"format": "text"}, {"form": PageForm.TEXT}),
        ({"format": "html"}, {"form": PageForm.HTML}),
        ({"only_main_content": False}, {"main_only": False}),
        ({"only_main_content": True}, {}),
        ({"include_links": True}, {"links": True}),
        ({"include_links": False}, {}),
        ({"timeout": 1}, {"timeout_s": 1}),
        ({"timeout": 60.0}, {"timeout_s": 60}),
        ({"max_age": 0}, {}),
        ({"max_age": 2_592_000}, {"age_s_max": 2_592_000}),
        ({"render": "never"}, {}),
        ({"render": "auto"}, {"render": Render.AUTO}),
        ({"wait_for": 30_000}, {"wait_ms": 30_000}),
        ({"wait_for": 0}, {}),
        ({"model": "web2"}, {"model": "web2"}),
        ({"model": ""}, {}),
        ({"nobody_knows": [1]}, {}),
        (
            dict.fromkeys(
                ("format", "only_main_content", "include_links", "timeout", "max_age", "render", "wait_for", "model")
            ),
            {},
        ),
    ],
    ids=str,
)
def test_every_field_reaches_the_node(sent: dict[str, Any], changes: dict[str, Any]) -> None:
    """With the defaults of the guide; null is absence."""
    usual = ScrapeJob(
        model="web",
        urls=(URL,),
        form=PageForm.MARKDOWN,
        main_only=True,
        links=False,
        timeout_s=30,
        age_s_max=0,
        render=Render.NEVER,
        wait_ms=0,
    )

    assert job(**sent) == replace(usual, **changes)


@pytest.mark.parametrize(
    ("sent", "code", "param", "text"),
    [
        ({}, "missing_required_parameter", "urls", "Missing required parameter: urls"),
        ({"urls": None}, "missing_required_parameter", "urls", "Missing required parameter: urls"),
        ({"urls": []}, "missing_required_parameter", "urls", "Missing required parameter: urls"),
        ({"urls": URL}, "invalid_type", "urls", "expected an array, got a string"),
        ({"urls": {"0": URL}}, "invalid_type", "urls", "expected an array, got an object"),
        ({"urls": [URL] * 51}, "out_of_range", "urls", "51 URLs is not between 1 and 50"),
        ({"urls": [URL, 5]}, "invalid_type", "urls[1]", "expected a string, got a number"),
        ({"urls": [URL, None]}, "invalid_type", "urls[1]", "expected a string, got null"),
        ({"urls": ["\ud800"]}, "invalid_type", "urls[0]", "it is not valid Unicode text"),
        (body(format="pdf"), "out_of_range", "format", "it is not one of markdown, text, html"),
        (body(format="Markdown"), "out_of_range", "format", "it is not one of markdown, text, html"),
        (body(format=1), "invalid_type", "format", "expected a string, got a number"),
        (body(only_main_content="yes"), "invalid_type", "only_main_content", "expected a boolean, got a string"),
        (body(include_links=1), "invalid_type", "include_links", "expected a boolean, got a number"),
        (body(timeout=0), "out_of_range", "timeout", "0 is not between 1 and 60"),
        (body(timeout=61), "out_of_range", "timeout", "61 is not between 1 and 60"),
        (body(timeout=1.5), "invalid_type", "timeout", "expected an integer, got 1.5"),
        (body(timeout="30"), "invalid_type", "timeout", "expected a number, got a string"),
        (body(max_age=-1), "out_of_range", "max_age", "-1 is not between 0 and 2592000"),
        (body(max_age=2_592_001), "out_of_range", "max_age", "2592001 is not between 0 and 2592000"),
        (body(render="always"), "out_of_range", "render", "it is not one of never, auto"),
        (body(wait_for=30_001), "out_of_range", "wait_for", "30001 is not between 0 and 30000"),
        (body(wait_for="#id"), "invalid_type", "wait_for", "expected a number, got a string"),
        (body(model=5), "invalid_type", "model", "expected a string, got a number"),
        (body(model="x" * 129), "model_not_found", "model", "does not exist"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(sent: dict[str, Any], code: str, param: str, text: str) -> None:
    """The field, and what was expected; nothing else of the request counts."""
    found = refusal(sent)

    assert found[:2] == (code, param)
    assert text in found[2]
    if code in ("invalid_type", "out_of_range"):
        assert found[2].startswith(f"Invalid value for '{param}': ")


def test_fifty_urls_of_any_text_are_a_request() -> None:
    """What is no URL is told beside the others, not as an error of all."""
    ask = scrape_ask({"urls": ["", "nonsense", "x" * 100_000, *[URL] * 47]})

    assert len(ask.urls) == 50
    assert ask.job(ask.urls[3:4]).urls == (URL,)


def test_an_allowance_that_is_nothing_stops_the_start(tmp_path: Path) -> None:
    """Before anything is opened, with the setting's name."""
    settings = GatewaySettings(data_path=tmp_path / "gateway", scrape=ScrapeSettings(allow=("no host",)))

    async def start() -> None:
        async with open_gateway(settings):
            pass

    with pytest.raises(SettingsError, match=r"scrape\.allow: expected a host .* not 'no host'"):
        trio.run(start)
    assert not list(tmp_path.iterdir())


# Answers.


def test_a_page_is_told_as_the_guide_has_it() -> None:
    """Its four fields and the two of its metadata; beyond them all that is known, under every name that it has."""
    page = replace(
        page_of("https://example.com/x"),
        author="A. Writer",
        published="2020-02-03",
        cached=True,
        content_type="text/html; charset=utf-8",
        fetched_at_ms=1_700_000_000_123,
    )

    assert told(page) == {
        "results": [
            {
                "url": f"{URL}/0",
                "content": "# x\n\nThis is the page at https://example.com/x.",
                "success": True,
                "metadata": {
                    "title": "x",
                    "description": "About x",
                    "author": "A. Writer",
                    "publish_date": "2020-02-03",
                    "language": "en",
                    "contentType": "text/html",
                    "statusCode": 200,
                    "finalUrl": "https://example.com/x",
                    "fetchedAt": "2023-11-14T22:13:20.123Z",
                    "cached": True,
                    "rendered": False,
                    "status": 200,
                    "final_url": "https://example.com/x",
                    "fetched_at": "2023-11-14T22:13:20.123Z",
                },
            }
        ]
    }


def test_what_a_page_does_not_say_is_null() -> None:
    """But for the guide's two fields, which are always texts."""
    metadata = told(ScrapedPage(number=0, content="x"))["results"][0]["metadata"]

    assert (metadata.pop("title"), metadata.pop("description")) == ("", "")
    assert (metadata.pop("cached"), metadata.pop("rendered")) == (False, False)
    assert set(metadata.values()) == {None}


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("invalid_url", "Invalid URL"),
        ("url_blocked", "URL blocked"),
        ("robots_disallowed", "Disallowed by robots.txt"),
        ("dns_error", "Host not found"),
        ("connect_error", "Could not connect"),
        ("tls_error", "No secure connection"),
        ("timeout", "Timed out"),
        ("http_error", "HTTP error 404"),
        ("too_large", "Page too large"),
        ("unsupported_content_type", "Unsupported content type"),
        ("extraction_empty", "No content found"),
    ],
)
def test_a_fault_of_a_page_has_its_code_and_no_more_than_that(fault: str, text: str) -> None:
    """What a node says of it is not told: it may name what only that node can see."""
    page = ScrapedPage(
        number=0,
        fault=PageFault(fault),
        reason="10.0.0.7 refused",
        status=404,
        final_url="http://10.0.0.7/secret",
    )
    (result,) = told(page)["results"]
    metadata = result.pop("metadata")

    assert result == {"url": f"{URL}/0", "content": "", "success": False, "error": text, "code": fault}
    assert "10.0.0.7 refused" not in json.dumps(metadata)
    if fault in ("invalid_url", "url_blocked"):
        assert metadata == {}
    else:
        assert metadata["statusCode"] == 404
    assert told(replace(page, status=0))["results"][0]["metadata"] == {}


def test_every_fault_of_a_page_has_a_text() -> None:
    """And no two have the same."""
    assert set(TEXTS) == set(PageFault)
    assert len(set(TEXTS.values())) == len(TEXTS)


def test_what_the_gateway_itself_says_no_to_is_told_alike() -> None:
    """As a node would tell it; a URL for which no node could be had has the code of that."""
    results = told(PageFault.URL_BLOCKED, Fault(Condition.UPSTREAM_FAILED), Fault(Condition.DEADLINE))["results"]

    assert results[0] == {
        "url": f"{URL}/0",
        "content": "",
        "success": False,
        "error": "URL blocked",
        "code": "url_blocked",
        "metadata": {},
    }
    assert [(each["code"], each["error"]) for each in results[1:]] == [
        ("upstream_failed", "All providers failed for this request"),
        ("timeout", "The answer took too long"),
    ]


def test_how_it_came_about_stands_at_the_end() -> None:
    """Only for who asks."""
    answer = told(page_of(URL), cx={"node": "n"})

    assert list(answer) == ["results", "cx"]
    assert answer["cx"] == {"node": "n"}


@given(st.text(max_size=300), st.integers(1, 50))
def test_any_content_is_valid_json(content: str, step: int) -> None:
    """However it is cut into parts: quotes, controls and emoji come back as they were."""
    page = ScrapedPage(number=0, content=content or "x", title=content[:2048])
    usual, pages.LETTERS_AT_ONCE = pages.LETTERS_AT_ONCE, step  # type: ignore[misc]
    try:
        (result,) = told(page)["results"]
    finally:
        pages.LETTERS_AT_ONCE = usual  # type: ignore[misc]

    assert result["content"] == (content or "x")
    assert result["metadata"]["title"] == content


def test_a_long_page_is_written_in_parts() -> None:
    """None of which takes long."""
    page = ScrapedPage(number=0, content="\x01" * 1_000_000)
    parts = list(results_json([URL], [page], Base.DOCUMENTED, None))

    assert max(map(len, parts)) <= 6 * pages.LETTERS_AT_ONCE
    assert json.loads(b"".join(parts))["results"][0]["content"] == page.content
