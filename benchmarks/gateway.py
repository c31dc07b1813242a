"""The gateway beside others: an engine that costs nothing on a node, or a server that costs nothing behind them.

Ours has keys with limits, credit and receipts on, and libp2p with a node behind it; they have a server on loopback.
Each is one process, and all share this machine with the client.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import click
import psutil
import trio

from benchmarks.figures import Figure, Goal, Rate
from benchmarks.http_load import load, request
from benchmarks.network import HERE, open_network, open_program
from benchmarks.peer_backend import MODEL
from benchmarks.peer_gateways import Peer, litellm, portkey

AT_ONCE = (1, 16, 64)
WORDS = 64
ROUNDS = 3
ROUND_S = 4.0
TEXT = " ".join(f"word{number}" for number in range(WORDS))
OURS = "ours"
DIRECT = "the server behind it, asked directly"


@dataclass(slots=True)
class Series:
    """What the rounds of one kind of work came to, of each gateway."""

    name: str
    events: int
    at_once: int
    stream: bool
    rates: dict[str, list[float]] = field(default_factory=dict)
    medians_ms: dict[str, list[float]] = field(default_factory=dict)


def measure(seconds: float) -> list[Figure]:
    """Requests and streams a second, milliseconds added, memory. Takes about five minutes."""
    return trio.run(_measure)


async def _measure() -> list[Figure]:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ours = await stack.enter_async_context(open_ours(folder))
        backend = str((await stack.enter_async_context(open_program([str(HERE / "peer_backend.py")])))["url"])
        peers = [
            await stack.enter_async_context(litellm(backend, folder)),
            await stack.enter_async_context(portkey(backend, folder)),
        ]
        direct = Peer(name=DIRECT, url=f"{backend}/chat/completions", headers={}, pid=0)
        all_series = [
            Series(name=name, events=WORDS if stream else 0, at_once=at_once, stream=stream)
            for stream, name in ((False, "requests/s"), (True, f"streams of {WORDS}/s"))
            for at_once in AT_ONCE
        ]
        for series in all_series:
            await _rounds(series, [ours, *_able(peers, series.stream), direct])
        memory = {each.name: _memory_mb(each.pid) for each in (ours, *peers)}
        return [*_rates(all_series, peers), *_added(all_series[0], peers), *_memories(memory, peers)]


async def _rounds(series: Series, places: list[Peer]) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": TEXT if series.stream else "hello"}]}
    for round_ in range(ROUNDS + 1):
        for place in places:
            sent = request(place.url, place.headers, {**body, "stream": series.stream})
            seconds = ROUND_S if round_ else 1.0
            result = await load(place.url, sent, series.at_once, seconds, series.events)
            if result.errors or not result.took_ms:
                raise click.ClickException(f"{place.name}: {len(result.errors)} errors, the first: {result.errors[:1]}")
            if round_:  # the first one warms up
                series.rates.setdefault(place.name, []).append(result.per_s)
                series.medians_ms.setdefault(place.name, []).append(statistics.median(result.took_ms))


def _able(peers: list[Peer], stream: bool) -> list[Peer]:
    """Portkey's gateway answers streams of a server of OpenAI's kind with 500 (1.15.2 on Node.js 20)."""
    return peers[:1] if stream else peers


def _rates(all_series: list[Series], peers: list[Peer]) -> list[Figure]:
    return [
        Figure(
            name=f"{series.name}, {series.at_once} at once",
            ours=Rate.of(series.rates[OURS]),
            peer=Rate.of(series.rates[peer.name]),
            peer_is=peer.name,
            goal=Goal(ratio=20.0 if series.stream else 8.0) if peer is peers[0] else None,
        )
        for series in all_series
        for peer in _able(peers, series.stream)
    ]


def _added(series: Series, peers: list[Peer]) -> list[Figure]:
    """One request after another: what a gateway takes more than the server behind the others, asked directly."""
    direct = statistics.median(series.medians_ms[DIRECT])
    over = {name: [value - direct for value in values] for name, values in series.medians_ms.items()}
    return [
        Figure(
            name="ms that the gateway adds, median",
            ours=Rate.of(over[OURS]),
            peer=Rate.of(over[peer.name]),
            peer_is=peer.name,
            goal=Goal(value_max=2.0) if peer is peers[0] else None,
        )
        for peer in peers
    ]


def _memories(memory: dict[str, float], peers: list[Peer]) -> list[Figure]:
    return [
        Figure(
            name="MB of memory after it",
            ours=Rate.of([memory[OURS]]),
            peer=Rate.of([memory[peer.name]]),
            peer_is=peer.name,
            goal=Goal(value_max=120.0) if peer is peers[0] else None,
        )
        for peer in peers
    ]


def _memory_mb(pid: int) -> float:
    """Of a process and its children."""
    process = psutil.Process(pid)
    return float(sum(each.memory_info().rss for each in (process, *process.children(recursive=True)))) / 1e6


@asynccontextmanager
async def open_ours(folder: Path) -> AsyncIterator[Peer]:
    async with (
        open_network(folder / "ours", "", nodes=0) as front,
        open_program([str(HERE / "echo_node.py"), str(folder / "echo"), front.bootstrap]),
    ):
        peer = Peer(name=OURS, url=f"{front.base_url}/chat/completions", headers=front.headers, pid=front.gateway_pid)
        sent = request(peer.url, peer.headers, {"model": MODEL, "messages": [{"role": "user", "content": "hello"}]})
        first = await load(peer.url, sent, 1, 0.5)  # a gateway that is young waits for its first node
        if first.errors:
            raise click.ClickException(f"the network does not answer: {first.errors[0]}")
        yield peer
