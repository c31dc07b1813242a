"""POST /scrape over a door in memory: answers, errors, deadlines, limits, and clients that leave."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from cxp2p.client import Scraped, Took
from cxp2p.egress import rules_of
from cxp2p.errors import (
    AnswerRefused,
    CxError,
    InsufficientCredit,
    JobFailed,
    JobRefused,
    LocalProtocolError,
    NoNode,
    PeerUnreachable,
)
from cxp2p.records import FailureCode, RefusalCode, ScrapedPage, ScrapeJob
from cxp2p_gateway import reading, waiting
from cxp2p_gateway.asking import Caller
from cxp2p_gateway.http import make_app
from cxp2p_gateway.long_answers import WRITE_BYTES
from cxp2p_gateway.waiting import Patience
from doors import Answer, MemoryDoor, ask, front, outcome_of
from scrapers import page_of
from test_embeddings import CX
from test_faults import NO_PROVISIONS

PATH = "/api/v1/scrape"
ALIAS = "/v1/scrape"
GUIDE = {"urls": ["https://example.com"], "format": "markdown"}
BLOCKED = {
    "url": "http://10.0.0.1/",
    "content": "",
    "success": False,
    "error": "URL blocked",
    "code": "url_blocked",
    "metadata": {},
}


@dataclass
class Call:
    """One call of `Door.scrape`."""

    caller: Caller
    generation: str
    job: ScrapeJob
    deadline_s: float
    cancelled: bool = False


@dataclass
class PageDoor(MemoryDoor):
    """A door behind which pages are fetched: after `after_s`, by `jobs` jobs, with `errors` for some, or `error`."""

    jobs: int = 1
    after_s: float = 0.0
    error: Exception | None = None
    errors: Mapping[str, CxError] = field(default_factory=dict)
    pages: Mapping[str, ScrapedPage] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)

    async def scrape(
        self, caller: Caller, generation: str, job: ScrapeJob, *, took: Took, deadline_s: float
    ) -> Scraped:
        call = Call(caller, generation, job, deadline_s)
        self.calls.append(call)
        try:
            await trio.sleep(self.after_s)
        except trio.Cancelled:
            call.cancelled = True
            raise
        if self.error is not None:
            raise self.error
        told: list[ScrapedPage | CxError] = []
        for number, url in enumerate(job.urls):
            page = self.errors.get(url) or self.pages.get(url) or page_of(url, number)
            if isinstance(page, ScrapedPage):
                took(len(page.content))
            told.append(page)
        outcomes = (outcome_of(),) * self.jobs
        self.kept[generation] = [(caller.account, outcome.settlement) for outcome in outcomes]
        return Scraped(pages=tuple(told), outcomes=outcomes)


async def post(door: MemoryDoor, path: str = PATH, patience: Patience | None = None, **options: Any) -> Answer:
    changes = options.pop("changes", {})
    return await ask(front(door, patience), "POST", path, body=options.pop("body", None) or GUIDE | changes, **options)


def results(answer: Answer) -> list[dict[str, Any]]:
    assert answer.status == 200
    assert answer.complete
    found: list[dict[str, Any]] = answer.json()["results"]
    return found


# Answers.


async def test_the_guides_answer(autojump_clock: MockClock) -> None:
    """To the letter, on both bases, with an id in a header under which the receipt is kept."""
    door = PageDoor(pages={"https://example.com/": page_of("https://example.com")})
    app = front(door)
    for path in (PATH, ALIAS):
        answer = await ask(app, "POST", path, body=GUIDE)
        (result,) = results(answer)
        assert list(answer.json()) == ["results"]
        assert result["url"] == "https://example.com"
        assert result["content"].startswith("# example.com")
        assert result["success"] is True
        assert result["metadata"]["title"] == "example.com"
        assert result["metadata"]["description"] == "About example.com"
        assert answer.headers["content-type"] == "application/json"
        assert int(answer.headers["content-length"]) == len(answer.body)
        made = answer.headers["x-cx-generation-id"]
        assert made == door.calls[-1].generation
        assert made.startswith("scrape-")
        assert (await ask(app, "GET", f"/v1/receipts/{made}")).json()["id"] == made
        assert (await ask(app, "GET", f"/v1/receipts/{made}", key="sk-cx-0002")).status == 404


async def test_each_url_has_its_own_end(autojump_clock: MockClock) -> None:
    """In their order: a page, what a node says of one, and what no node could do."""
    urls = ["https://a.example/x", "https://a.example/dns_error", "https://b.example/y", "https://c.example/z"]
    door = PageDoor(errors={urls[2]: PeerUnreachable("x"), urls[3]: JobFailed(FailureCode.TIMEOUT, "")})
    told = results(await post(door, changes={"urls": urls}))

    assert [each["url"] for each in told] == urls
    assert [each.get("code") for each in told] == [None, "dns_error", "upstream_failed", "timeout"]
    assert [each["success"] for each in told] == [True, False, False, False]


@pytest.mark.parametrize("jobs", [1, 3])
async def test_how_it_came_about_is_told_to_who_asks(jobs: int, autojump_clock: MockClock) -> None:
    """One object, or a list if it took several jobs, as with embeddings."""
    answer = await post(PageDoor(jobs=jobs), headers={"X-Cx-Metadata": "enabled"})

    assert answer.json()["cx"] == (CX if jobs == 1 else [CX] * 3)


async def test_the_access_log_says_how_much_it_was(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """Numbers, nodes and the model; no URL and no page."""
    caplog.set_level(logging.INFO, "cxp2p.gateway.access")
    await post(PageDoor(jobs=2), changes={"urls": ["https://secret.example/"] * 2})
    (line,) = caplog.messages

    for said in ('"urls":2', '"in":20', '"out":40', '"attempts":4', '"model":"web"', '"generation":"scrape-'):
        assert said in line
    assert "secret" not in line


async def test_a_long_answer_is_sent_in_parts(autojump_clock: MockClock) -> None:
    """Nobody holds its text as a whole."""
    url = "https://example.com/"
    door = PageDoor(pages={url: ScrapedPage(number=0, content="word " * 500_000)})
    answer = await post(door)

    assert results(answer)[0]["content"] == "word " * 500_000
    assert "content-length" not in answer.headers
    assert max(len(part) for _, part in answer.parts) < WRITE_BYTES + 128 * 1024


# What is not asked for.


async def test_blocked_urls_never_reach_a_node(autojump_clock: MockClock) -> None:
    """They are told beside the pages of the others, in their place."""
    urls = ["http://10.0.0.1/", "https://a.example/x", "http://127.1/", "nonsense", "", "http://localhost/"]
    door = PageDoor()
    told = results(await post(door, changes={"urls": urls}))

    assert door.calls[0].job.urls == ("https://a.example/x",)
    assert told[0] == BLOCKED
    assert told[1]["success"]
    assert [each["code"] for each in told[2:]] == ["url_blocked", "invalid_url", "invalid_url", "url_blocked"]
    assert [each["url"] for each in told] == urls


async def test_nodes_get_urls_in_their_one_spelling(autojump_clock: MockClock) -> None:
    """So that the same page is fetched once; the client sees what it wrote."""
    urls = ["HTTPS://Example.COM:443/a/../b#there", "https://bücher.example/ä"]
    door = PageDoor()
    told = results(await post(door, changes={"urls": urls}))

    assert door.calls[0].job.urls == ("https://example.com/b", "https://xn--bcher-kva.example/%C3%A4")
    assert [each["url"] for each in told] == urls


async def test_an_operator_can_let_some_through(autojump_clock: MockClock) -> None:
    """By host or network, on any port; nothing else is."""
    urls = ["http://127.0.0.1:12345/", "http://wiki.lan/", "http://127.0.0.2/", "https://example.com:9000/"]
    door = PageDoor()
    app = make_app(door, egress=rules_of([80, 443, 9000], ["127.0.0.1", "*.lan"]))
    told = results(await ask(app, "POST", PATH, body={"urls": urls}))

    assert [each["success"] for each in told] == [True, True, False, True]


async def test_if_all_are_blocked_no_node_is_needed(autojump_clock: MockClock) -> None:
    """It costs nothing, and is answered at once."""
    door = PageDoor(error=NoNode("none"))
    answer = await post(door, changes={"urls": ["http://10.0.0.1/"]})

    assert results(answer) == [BLOCKED]
    assert not door.calls
    assert answer.headers["x-cx-generation-id"]


# Errors.

FAILURES = [
    (NoNode("x"), 503, "no_healthy_providers", NO_PROVISIONS, "5"),
    (JobRefused(RefusalCode.BUSY, "", 7_000), 503, "overloaded", "No capacity for model 'web' right now", "7"),
    (InsufficientCredit("x"), 429, "insufficient_quota", "Spend limit of this API key reached", None),
    (PeerUnreachable("x"), 503, "upstream_failed", "All providers failed for this request", "1"),
    (AnswerRefused("x"), 503, "upstream_failed", "All providers failed for this request", "1"),
    (JobFailed(FailureCode.ENGINE_DIED, ""), 503, "upstream_failed", "All providers failed for this request", "1"),
    (JobFailed(FailureCode.TIMEOUT, ""), 503, "timeout", "The answer took too long", None),
    (LocalProtocolError("x"), 500, "internal_error", "Internal server error (request {})", None),
    (KeyError("secret"), 500, "internal_error", "Internal server error (request {})", None),
]


@pytest.mark.parametrize(("error", "status", "code", "text", "retry_after"), FAILURES)
async def test_a_failure_of_all_is_a_status(
    error: Exception, status: int, code: str, text: str, retry_after: str | None, autojump_clock: MockClock
) -> None:
    """In both renderings; on the alias too, `web` is a model that may come."""
    documented, alias = [await post(PageDoor(error=error, after_s=5), path) for path in (PATH, ALIAS)]
    for answer in (documented, alias):
        assert (answer.status, answer.headers["x-error-code"]) == (status, code)
        assert answer.headers.get("retry-after") == retry_after
        assert b"secret" not in answer.body
    assert documented.json() == {"error": text.format(documented.headers["x-request-id"])}
    assert alias.json()["error"]["message"] == text.format(alias.headers["x-request-id"])


@pytest.mark.parametrize("sent", [{"format": "text"}, {"urls": []}, {"urls": None}])
async def test_the_guides_error(sent: dict[str, Any], autojump_clock: MockClock) -> None:
    """In its words, before any node is asked."""
    door = PageDoor()
    documented, alias = [await post(door, path, body=sent) for path in (PATH, ALIAS)]

    assert (documented.status, documented.json()) == (400, {"error": "Missing required parameter: urls"})
    assert alias.json()["error"] == {
        "message": "Missing required parameter: urls",
        "type": "invalid_request_error",
        "param": "urls",
        "code": "missing_required_parameter",
    }
    assert not door.calls


async def test_a_wrong_field_is_named(autojump_clock: MockClock) -> None:
    """With its number, where it is one of many."""
    answer = await post(PageDoor(), ALIAS, changes={"urls": ["https://a.example/", 5]})

    assert (answer.status, answer.json()["error"]["param"]) == (400, "urls[1]")


@pytest.mark.parametrize(("model", "status"), [("asleep:1b", 503), ("nix", 404)])
async def test_a_model_without_a_node(model: str, status: int, autojump_clock: MockClock) -> None:
    """As for chats: in the guide's words, and 404 on the alias for one that never was."""
    documented, alias = [
        await post(PageDoor(error=NoNode(model)), path, changes={"model": model}) for path in (PATH, ALIAS)
    ]

    assert (documented.status, documented.json()) == (503, {"error": NO_PROVISIONS})
    assert alias.status == status


@pytest.mark.parametrize("key", [None, "wrong"])
async def test_without_a_key_nothing_is_fetched(key: str | None, autojump_clock: MockClock) -> None:
    door = PageDoor()

    assert (await post(door, key=key)).status == 401
    assert not door.calls


# Time, room, and clients that leave.


@pytest.mark.parametrize(("headers", "wait_s"), [({}, 100.0), ({"X-Stainless-Read-Timeout": "10"}, 10.0)])
async def test_nodes_are_given_a_little_less_time_than_the_client_has(
    headers: dict[str, str], wait_s: float, autojump_clock: MockClock
) -> None:
    """So that the pages that are there can be told; who still does not answer is cut off."""
    door = PageDoor(after_s=1000)
    started = trio.current_time()
    answer = await post(door, patience=Patience(deadline_s=100, hold_s=200), headers=headers)

    assert (answer.status, answer.headers["x-error-code"]) == (503, "timeout")
    assert trio.current_time() - started == pytest.approx(wait_s)
    assert wait_s * 0.75 <= door.calls[0].deadline_s < wait_s
    assert door.calls[0].cancelled


async def test_an_answer_that_is_long_in_coming_begins_with_spaces(autojump_clock: MockClock) -> None:
    """Proxies cut silent connections: after 15 s it is a 200, and a space comes every 15 s."""
    answer = await post(PageDoor(after_s=50))

    assert results(answer)[0]["success"]
    assert answer.body.startswith(b'   {"results"')
    assert [round(at) for at, _ in answer.parts] == [15, 30, 45, 50]
    assert answer.headers["x-cx-generation-id"]


@pytest.mark.parametrize(("error", "status", "code", "text", "retry_after"), FAILURES[:7])
async def test_a_failure_after_that_is_told_for_each_url(
    error: Exception, status: int, code: str, text: str, retry_after: str | None, autojump_clock: MockClock
) -> None:
    """With the code that the status would have had, and the text."""
    answer = await post(PageDoor(error=error, after_s=20), changes={"urls": ["https://a.example/", "http://10.0.0.1/"]})
    told = results(answer)

    assert told[0] == {
        "url": "https://a.example/",
        "content": "",
        "success": False,
        "error": text,
        "code": code,
        "metadata": {},
    }
    assert told[1] == BLOCKED


async def test_a_bug_after_that_does_not_look_like_an_answer(autojump_clock: MockClock) -> None:
    """Its body never ends."""
    answer = await post(PageDoor(error=KeyError("secret"), after_s=20))

    assert answer.body == b" "
    assert not answer.complete


@pytest.mark.parametrize("leave_after_s", [3, 25])
async def test_a_client_that_leaves_ends_its_jobs(
    leave_after_s: int, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """At once, before and after the first byte; the log says 499."""
    caplog.set_level(logging.INFO, "cxp2p.gateway.access")
    door = PageDoor(after_s=1000)
    started = trio.current_time()
    answer = await post(door, leave_after_s=leave_after_s)

    assert not answer.complete
    assert door.calls[0].cancelled
    assert trio.current_time() - started < leave_after_s + 1
    assert '"status":499' in caplog.messages[-1]


async def test_pages_count_as_what_the_gateway_holds(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """Bodies and pages of all requests share one budget; over it a client is told to come back."""
    monkeypatch.setattr(reading.BodyBudget.__init__, "__defaults__", (3000,))
    urls = [f"https://a.example/{number}" for number in range(3)]
    door = PageDoor(pages=dict.fromkeys(urls, ScrapedPage(number=0, content="x" * 1000)))
    app = front(door)
    full = await ask(app, "POST", PATH, body={"urls": urls})
    assert (full.status, full.headers["x-error-code"]) == (503, "overloaded")
    assert full.headers["retry-after"] == "2"
    for _ in range(3):  # what it held was given back
        assert (await ask(app, "POST", PATH, body={"urls": urls[:2]})).status == 200


async def test_requests_share_the_places_of_all_kinds(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """But for those that need no node."""
    monkeypatch.setattr(waiting, "JOBS_MAX", 1)
    door = PageDoor(after_s=10)
    app = front(door)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: ask(app, "POST", PATH, body=GUIDE))
        await trio.sleep(1)
        assert (await ask(app, "POST", PATH, body=GUIDE)).status == 503
        assert (await ask(app, "POST", PATH, body={"urls": ["http://10.0.0.1/"]})).status == 200
    assert (await ask(app, "POST", PATH, body=GUIDE)).status == 200


async def test_what_comes_is_json_to_any_reader(autojump_clock: MockClock) -> None:
    """Also with spaces in front, and with whatever is in a page."""
    url = "https://a.example/x"
    page = ScrapedPage(number=0, content='"\\\u2028\U0001f600\x07</script>', title="é" * 2048)
    answer = await post(PageDoor(after_s=40, pages={url: page}), changes={"urls": [url]})

    assert json.loads(answer.body)["results"][0]["content"] == page.content
