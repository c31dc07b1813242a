"""SIGTERM to a real gateway: answers that run end well or are cut in time, new requests are told where to go."""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from processes import WORDS_PER_S, Program, ask_of, echo_node, gateway

pytestmark = pytest.mark.slow

GRACE_S = 20
LEAVE_S = 5.0  # from the last answer to the end of the process, on a busy machine


@dataclass
class Stream:
    """A streamed answer that is being read. `begun`: its first event is there; `ended`: its body has."""

    begun: trio.Event = field(default_factory=trio.Event)
    ended: trio.Event = field(default_factory=trio.Event)
    events: list[Any] = field(default_factory=list)
    broken: bool = False

    async def read(self, client: httpx.AsyncClient, url: str, words: int) -> None:
        try:
            async with client.stream("POST", f"{url}/v1/chat/completions", json=ask_of(words)) as answer:
                async for line in answer.aiter_lines():
                    if line.startswith("data: "):
                        self.events.append(line[6:] if line == "data: [DONE]" else json.loads(line[6:]))
                        self.begun.set()
        except httpx.HTTPError:
            self.broken = True
        self.ended.set()

    @property
    def text(self) -> str:
        return "".join(
            choice["delta"].get("content") or ""
            for event in self.events
            if isinstance(event, dict)
            for choice in event.get("choices", [])
        )


@dataclass
class Streaming:
    """A gateway with streams that run."""

    running: Program
    url: str
    client: httpx.AsyncClient
    streams: list[Stream]

    async def refusal(self) -> httpx.Response:
        """The answer to a request on a new connection."""
        async with httpx.AsyncClient(headers=self.client.headers, trust_env=False) as fresh:
            return await fresh.post(f"{self.url}/v1/chat/completions", json=ask_of(1))

    async def status(self) -> int:
        return await self.running.process.wait()


@asynccontextmanager
async def streaming(folder: Path, *, words: int, count: int = 2, grace_s: float = GRACE_S) -> AsyncIterator[Streaming]:
    """So many streams of so many words, all begun."""
    settings = f"[http]\nport = 0\ngrace_s = {grace_s}\n[metrics]\nport = 0"
    async with echo_node(folder) as bootstrap, gateway(folder, bootstrap, settings) as running:
        key = running.facts["account"]["api_key"]
        url = running.facts["ready"]["url"]
        headers = {"Authorization": f"Bearer {key}"}
        streams = [Stream() for _ in range(count)]
        async with (
            httpx.AsyncClient(headers=headers, timeout=60, trust_env=False) as client,
            trio.open_nursery() as nursery,
        ):
            while (await client.post(f"{url}/v1/chat/completions", json=ask_of(1, stream=False))).status_code != 200:
                pass  # the gateway has not found the node yet; it waits for it, some seconds each time
            for each in streams:
                nursery.start_soon(each.read, client, url, words)
            for each in streams:
                await each.begun.wait()
            yield Streaming(running, url, client, streams)


async def test_streams_that_run_are_finished(tmp_path: Path) -> None:
    """They come whole, while new requests are refused and metrics still told; then the gateway is gone, with 0."""
    words = 4 * WORDS_PER_S
    with trio.fail_after(100):
        async with streaming(tmp_path, words=words) as here:
            here.running.signal(signal.SIGTERM)
            refused = await here.refusal()
            while refused.status_code == 200:  # the signal was still on its way
                refused = await here.refusal()
            assert refused.status_code == 503
            assert int(refused.headers["retry-after"]) > 0
            assert refused.headers["connection"] == "close"
            assert refused.json()["error"]["code"] == "shutting_down"
            assert not any(each.ended.is_set() for each in here.streams)
            metrics = await here.client.get(here.running.facts["ready"]["metrics"])
            assert "cxp2p_http_requests_running 2.0" in metrics.text

            for each in here.streams:
                await each.ended.wait()
            with trio.fail_after(LEAVE_S):
                assert await here.status() == 0
        for each in here.streams:
            assert not each.broken
            assert each.events[-1] == "[DONE]"
            assert len(each.text.split()) == words
    assert "left by a gateway" not in (tmp_path / "gateway.log").read_text()


async def test_streams_that_take_too_long_are_cut(tmp_path: Path) -> None:
    """After the grace each is told so, and never looks finished; that is an orderly end, too."""
    with trio.fail_after(100):
        async with streaming(tmp_path, words=15 * WORDS_PER_S, grace_s=1) as here:
            here.running.signal(signal.SIGTERM)
            with trio.fail_after(1 + 2 * LEAVE_S):
                for each in here.streams:
                    await each.ended.wait()
                assert await here.status() == 0
        for each in here.streams:
            assert each.events[-1]["error"]["code"] == "shutting_down"
            assert "[DONE]" not in each.events


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_cuts(second: signal.Signals, tmp_path: Path) -> None:
    """Whoever does not want to wait says so again: it is over in two seconds, with 130."""
    with trio.fail_after(100):
        async with streaming(tmp_path, words=15 * WORDS_PER_S) as here:
            here.running.signal(signal.SIGTERM)
            while (await here.refusal()).status_code == 200:
                pass
            here.running.signal(second)
            with trio.fail_after(LEAVE_S):
                assert await here.status() == 130
        assert not any("[DONE]" in each.events for each in here.streams)
