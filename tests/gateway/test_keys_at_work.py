"""Limits of keys over the whole way: from HTTP through the dispatch to nodes and back, in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import pytest
import trio
from trio.testing import MockClock

from cxp2p_gateway.http import Front, make_app
from cxp2p_gateway.key_ring import KeyRing, Made
from cxp2p_gateway.keys import Terms
from cxp2p_gateway.store import Tables
from cxp2p_gateway.store.rows import GroupBy, UseQuery
from doors import CHAT, Answer, ask
from gates import Gateway, gateway
from test_openapi import validator
from worlds import PRICES, ScriptedEngine, World

T = TypeVar("T")
ACCOUNT = "user_1"
TEXT = "one two three four five six"


@dataclass
class Scene:
    """A gateway in a network, seen from outside."""

    here: World
    gate: Gateway
    app: Front
    ring: KeyRing
    seen: list[int] = field(default_factory=list)

    async def key(self, **terms: Any) -> Made:
        return await self.ring.make(ACCOUNT, Terms(**terms))

    async def chat(self, made: Made, text: str = TEXT, **options: Any) -> Answer:
        headers = options.pop("headers", {})
        body = {"model": "echo", "messages": [{"role": "user", "content": text}], "max_tokens": 6, **options}
        return await ask(self.app, "POST", CHAT, body=body, key=made.text, headers=headers)

    async def get(self, made: Made, path: str) -> Any:
        answer = await ask(self.app, "GET", "/v1" + path, key=made.text)
        assert answer.status == 200, answer.body
        return answer.json()

    def watch(self, made: Made) -> None:
        """From now on `seen` has what the key has spent and holds, after each transaction."""
        disk = self.gate.disk

        async def do(act: Callable[[Tables], T], /) -> T:
            done = await disk(act)
            tables = disk.tables
            self.seen.append(tables.budget(made.key.id).spent + tables.held_by_key(made.key.id))
            return done

        self.gate.store.do = do


@asynccontextmanager
async def scene(*engines: ScriptedEngine) -> AsyncIterator[Scene]:
    async with gateway(credit=10**9) as (here, gate):
        for engine in engines or (ScriptedEngine(),):
            await here.node(engine)
        await gate.live(len(engines) or 1)
        door = gate.door(here.wall_ms)
        app = make_app(door, outside=replace(make_app(door).outside, wall_ms=here.wall_ms))
        yield Scene(here, gate, app, door.ring)


def dear(**changes: Any) -> ScriptedEngine:
    """A node whose answers cost something that is seen."""
    prices = replace(PRICES, input=10**9, output=10**9)
    return ScriptedEngine(prices=prices, slots=16, queue_max=64, **changes)


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True])
async def test_64_at_the_limit_go_over_it_by_at_most_one_reservation(stream: bool, autojump_clock: MockClock) -> None:
    """At no moment is more spent and held than the limit and one hold; then all is as if they had come in turn."""
    async with scene(*(dear() for _ in range(4))) as here:
        free = await here.key()
        assert (await here.chat(free)).status == 200
        hold, charge = here.gate.holds[0].amount, here.gate.holds[0].charge
        assert 0 < charge < hold
        limit = 3 * hold + charge
        made = await here.key(spend_limit=limit)
        here.watch(made)
        answers: list[Answer] = []

        async def one() -> None:
            answers.append(await here.chat(made, stream=stream))

        async with trio.open_nursery() as nursery:
            for _ in range(64):
                nursery.start_soon(one)

        statuses = [answer.status for answer in answers]
        assert set(statuses) == {200, 429}
        assert max(here.seen) < limit + hold
        spent = statuses.count(200) * charge
        standing = await here.ring.standing(made.key)
        assert (standing.spent, standing.held) == (spent, 0)
        for refused in (answer for answer in answers if answer.status == 429):
            assert refused.headers["x-error-code"] == "insufficient_quota"
            assert refused.headers["x-should-retry"] == "false"
            assert "retry-after" not in refused.headers
        while (await here.chat(made, stream=stream)).status == 200:  # the rest of the limit, one after the other
            spent += charge
        assert limit <= spent < limit + charge
        assert (await here.get(made, "/key"))["data"]["limit_remaining"] == 0
        assert (await here.chat(free)).status == 200  # the account has credit, and another key can spend it


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fail_at", [0, 3])
async def test_failures_cost_nothing(stream: bool, fail_at: int, autojump_clock: MockClock) -> None:
    """Neither a key nor its account; and it is no use."""
    async with scene(dear(fail_at=fail_at)) as here:
        made = await here.key(spend_limit=10**9)
        answers = [await here.chat(made, stream=stream) for _ in range(3)]
        assert not any(b"[DONE]" in answer.body for answer in answers)
        assert all(answer.status == 503 or answer.events()[-1]["error"] for answer in answers)
        standing = await here.ring.standing(made.key)
        assert (standing.spent, standing.held) == (0, 0)
        assert here.gate.balance() == 10**9
        assert (await here.get(made, "/usage"))["data"] == []


async def test_a_client_that_leaves_pays_what_it_got(autojump_clock: MockClock) -> None:
    """By the receipt, and its hold is gone."""
    async with scene(dear(pause_s=1.0)) as here:
        made = await here.key(spend_limit=10**9)
        body = {"model": "echo", "messages": [{"role": "user", "content": TEXT}], "stream": True}
        await ask(here.app, "POST", CHAT, body=body, key=made.text, leave_after_s=3.5)
        standing = await here.ring.standing(made.key)
        whole = 6 * 1000 + 6 * 1000
        assert 0 < standing.spent < whole
        assert standing.held == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_rates_are_told_with_each_answer_and_retry_after_is_exact(
    stream: bool, autojump_clock: MockClock
) -> None:
    """Three a minute: three at once, and who comes when told is let in; whoever comes a second earlier is not."""
    async with scene() as here:
        made = await here.key(rpm=3)
        told = []
        for _ in range(3):
            headers = (await here.chat(made, "Hi", stream=stream)).headers
            told.append([headers[f"x-ratelimit-{what}-requests"] for what in ("limit", "remaining", "reset")])
        assert [(limit, left) for limit, left, _ in told] == [("3", "2"), ("3", "1"), ("3", "0")]
        assert told[0][2] == "20s"

        refused = await here.chat(made, "Hi", stream=stream)
        assert refused.status == 429
        assert refused.json() == {"error": "Rate limit reached: 3 requests per minute"}
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        wait_s = int(refused.headers["retry-after"])
        assert 1 <= wait_s <= 20
        await trio.sleep(wait_s - 1)
        assert (await here.chat(made, "Hi", stream=stream)).status == 429
        await trio.sleep(1)
        assert (await here.chat(made, "Hi", stream=stream)).status == 200
        await trio.sleep(60)
        full = await ask(here.app, "GET", "/v1/models", key=made.text)
        assert full.headers["x-ratelimit-remaining-requests"] == "3"
        assert full.headers["x-ratelimit-reset-requests"] == "0s"


async def test_tokens_are_told_as_they_were_signed(autojump_clock: MockClock) -> None:
    """With a whole answer what it took, not what was thought of it; a key without rates has no such headers."""
    async with scene(ScriptedEngine(pause_s=0)) as here:
        made, free = await here.key(tpm=1000), await here.key()
        headers = (await here.chat(made)).headers
        assert (headers["x-ratelimit-limit-tokens"], headers["x-ratelimit-remaining-tokens"]) == ("1000", "988")
        assert "x-ratelimit-limit-requests" not in headers
        assert not any(
            "ratelimit" in name for name in (await here.chat(free)).headers if name != "access-control-expose-headers"
        )


async def test_so_many_at_once_and_no_more(autojump_clock: MockClock) -> None:
    """A key's parallel limit counts requests, and ends with them."""
    async with scene(ScriptedEngine(slots=8)) as here:
        made = await here.key(parallel_max=2)
        answers: list[Answer] = []

        async def one() -> None:
            answers.append(await here.chat(made, stream=True))

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(one)
        assert sorted(answer.status for answer in answers) == [200, 200, 429, 429, 429]
        refused = next(answer for answer in answers if answer.status == 429)
        assert refused.json() == {"error": "Rate limit reached: 2 requests at once"}
        assert refused.headers["retry-after"] == "1"
        assert (await here.chat(made)).status == 200


async def test_a_key_is_kept_from_what_it_is_not_for(autojump_clock: MockClock) -> None:
    """In the words of the table, and the list has only what it may use."""
    async with scene() as here:
        embeds, other, echo = [await here.key(**terms) for terms in ({"services": ("embed",)}, {"models": ("x",)}, {})]
        for made, text, code in (
            (embeds, "This API key may not use chat completions", "service_not_allowed"),
            (other, "This API key may not use model 'echo'", "model_not_allowed"),
        ):
            refused = await here.chat(made, stream=True)
            assert (refused.status, refused.json()) == (403, {"error": text})
            assert refused.headers["x-error-code"] == code
            assert (await here.get(made, "/models"))["data"] == []
            assert (await ask(here.app, "GET", "/v1/models/echo", key=made.text)).status == 404
        assert [each["id"] for each in (await here.get(echo, "/models"))["data"]] == ["echo"]


async def test_a_change_is_in_force_at_once(autojump_clock: MockClock) -> None:
    """For the next request, and a key that ends during one holds nothing more."""
    async with scene() as here:
        made = await here.key(rpm=1)
        assert (await here.chat(made)).status == 200
        assert (await here.chat(made)).status == 429
        await here.ring.change(ACCOUNT, made.key.id, lambda terms: replace(terms, rpm=None))
        assert (await here.chat(made)).status == 200
        await here.ring.revoke(ACCOUNT, made.key.id)
        assert (await here.chat(made)).status == 401


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_is_told_of_as_openrouter_does(stream: bool, autojump_clock: MockClock) -> None:
    """With its app, its site, whether it was streamed, and what it took; another key of the account finds nothing."""
    async with scene(dear()) as here:
        made, other = await here.key(), await here.key()
        said = {"X-Title": "Weather\x07 app sk-cx-abcd2345-secretsecret", "HTTP-Referer": "https://example.com/a?b=c"}
        answer = await here.chat(made, stream=stream, headers=said)
        generation = answer.headers["x-cx-generation-id"]
        told = await here.get(made, f"/generation?id={generation}")
        validator("Generation").validate(told)
        data = told["data"]
        assert {name: data[name] for name in ("id", "model", "streamed", "app", "origin", "key", "service")} == {
            "id": generation,
            "model": "echo",
            "streamed": stream,
            "app": "Weather app sk-cx-abcd2345***",
            "origin": "https://example.com",
            "key": made.key.id,
            "service": "chat",
        }
        assert (data["tokens_prompt"], data["tokens_completion"], data["total_cost"]) == (6, 6, 0.012)
        assert (data["finish_reason"], data["cancelled"], data["api_type"]) == ("stop", False, "completions")
        assert data["generation_time"] >= data["latency"] > 0
        for path in (f"/generation?id={generation}", f"/receipts/{generation}"):
            assert (await ask(here.app, "GET", "/v1" + path, key=other.text)).status == 404
        assert (await here.get(made, f"/receipts/{generation}"))["id"] == generation


async def test_use_is_told_apart_by_app(autojump_clock: MockClock) -> None:
    """By its name, or where it has none by its site; who says nothing is nobody."""
    async with scene(dear()) as here:
        made = await here.key()
        for headers in ({"X-Title": "Süß".encode().decode("latin-1")}, {"Referer": "http://localhost:3000/x"}, {}):
            await here.chat(made, headers=headers)
        sums = (await here.get(made, "/usage?group_by=app"))["data"]
        assert {each["app"]: each["requests"] for each in sums} == {None: 1, "Süß": 1, "http://localhost:3000": 1}
        query = UseQuery(first_day="0001-01-01", last_day="9999-12-31", group_by=GroupBy.KEY, account=ACCOUNT)
        assert [each.group for each in await here.gate.store.uses(query)] == [made.key.id]
