"""The whole path of a job: HTTP gateway, libp2p, node, and back as a stream; all of them processes of their own.

With the real model it is set beside llama.cpp's own HTTP server (`xllamacpp`), which has no network behind it: the same
file, prompts, lengths, threads and client. What the path itself adds is seen with an engine that costs nothing, beside
that engine called directly.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import trio

from benchmarks import engine
from benchmarks.figures import Figure, Goal, Rate
from benchmarks.network import HERE, Front, open_network, open_program
from benchmarks.sse_client import Answer, ask
from cxp2p.paths import default_data_path
from cxp2p.records import ChatJob, Message, Piece, Prices, Role
from cxp2p_node.catalog import look_up
from cxp2p_node.engines.echo import Echo
from cxp2p_node.models import Store

SLOTS = 8
ROUNDS = 3
FIRSTS = 300  # first tokens through the path, one after another
WORDS = 64
STREAMS = 20  # of 64 words, one after another
PEER = "xllamacpp HTTP server"
DIRECT = "the engine, called directly"
MODELS = f"""\
[[models]]
name = "{engine.MODEL}"
slots = {SLOTS}
context_units = {engine.CONTEXT}
threads = {engine.THREADS}
"""


def measure(seconds: float) -> list[Figure]:
    """Tokens/s at 8 at once, beside a server without a network; and what the path adds. Takes about two minutes."""
    engine.require_peer()
    return trio.run(_measure)


async def _measure() -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        async with _network(Path(folder)) as front:
            base_url, headers = front.base_url, front.headers
            added = [await _added_first(base_url, headers), await _added_token(base_url, headers)]
            async with _peer() as peer_url:
                return [*await _tokens(base_url, headers, peer_url), *added]


# Tokens in a second.


async def _tokens(base_url: str, headers: Mapping[str, str], peer_url: str) -> list[Figure]:
    places: dict[str, tuple[str, Mapping[str, str]]] = {"ours": (base_url, headers), "peer": (f"{peer_url}/v1", {})}
    rates: dict[str, list[float]] = {"ours": [], "peer": []}
    firsts: dict[str, list[float]] = {"ours": [], "peer": []}
    for round_ in range(ROUNDS + 1):
        talks = [engine.talk(round_ * SLOTS + number, number) for number in range(SLOTS)]
        for name, (url, sent) in places.items():
            begun = time.perf_counter()
            answers = await _burst(url, sent, talks)
            if round_:  # the first one warms up
                rates[name].append(sum(answer.tokens for answer in answers) / (time.perf_counter() - begun))
                firsts[name].append(1000 * statistics.median(answer.first_s for answer in answers))
    return [
        Figure(
            name=f"{SLOTS} streams at once, tokens/s",
            ours=Rate.of(rates["ours"]),
            peer=Rate.of(rates["peer"]),
            peer_is=PEER,
            goal=Goal(ratio=1.0),
        ),
        Figure(
            name=f"{SLOTS} streams at once, median ms to the first token",
            ours=Rate.of(firsts["ours"]),
            peer=Rate.of(firsts["peer"]),
            peer_is=PEER,
        ),
    ]


async def _burst(url: str, headers: Mapping[str, str], talks: list[list[dict[str, str]]]) -> list[Answer]:
    answers: list[Answer] = []

    async def one(talk: list[dict[str, str]]) -> None:
        body = {"model": engine.MODEL, "messages": talk, "max_tokens": engine.TOKENS, "temperature": 0}
        answers.append(await ask(url, headers, body))

    async with trio.open_nursery() as nursery:
        for talk in talks:
            nursery.start_soon(one, talk)
    return answers


# What the path adds.


async def _added_first(base_url: str, headers: Mapping[str, str]) -> Figure:
    """Milliseconds to the first word of an engine that says it at once."""
    ours = [await _first_ms(base_url, headers) for _ in range(FIRSTS)]
    direct = [1000 * await _direct_s("hello", 1e9) for _ in range(FIRSTS)]
    return Figure(
        name="ms to the first token, p50 (least: p5, most: p99)",
        ours=_spread(ours),
        peer=_spread(direct),
        peer_is=DIRECT,
        goal=Goal(difference_max=3.0, difference_of_most_max=10.0),
    )


async def _first_ms(base_url: str, headers: Mapping[str, str]) -> float:
    talk = [{"role": "user", "content": "hello"}]
    return 1000 * (await ask(base_url, headers, {"model": "echo-at-once", "messages": talk})).first_s


async def _added_token(base_url: str, headers: Mapping[str, str]) -> Figure:
    """Milliseconds a token of an engine that says one each 5 ms."""
    text = " ".join(f"word{number}" for number in range(WORDS))
    talk = [{"role": "user", "content": text}]
    ours, direct = [], []
    for _ in range(STREAMS):
        answer = await ask(base_url, headers, {"model": "echo-200-a-second", "messages": talk})
        ours.append(1000 * (answer.whole_s - answer.first_s) / (WORDS - 1))
        direct.append(1000 * await _direct_s(text, 200) / WORDS)
    return Figure(
        name="ms a token, of a stream of 64",
        ours=_spread(ours),
        peer=_spread(direct),
        peer_is=DIRECT,
        goal=Goal(difference_max=0.2),
    )


async def _direct_s(text: str, units_per_s: float) -> float:
    echo = Echo("echo", Prices(input=1, output=1), units_per_s=units_per_s)
    job = ChatJob(model="echo", messages=(Message(role=Role.USER, content=text),))

    async def emit(piece: Piece) -> None:
        await trio.lowlevel.checkpoint()

    begun = time.perf_counter()
    await echo.run(job, 1, WORDS, emit, lambda in_units, cached_units: None)
    return time.perf_counter() - begun


def _spread(values: list[float]) -> Rate:
    ordered = sorted(values)
    return Rate(
        median=statistics.median(ordered),
        least=ordered[len(ordered) * 5 // 100],
        most=ordered[len(ordered) * 99 // 100],
    )


# The programs.


@asynccontextmanager
async def _network(state: Path) -> AsyncIterator[Front]:
    """A network with the model, and with a node without one."""
    async with AsyncExitStack() as stack:
        front = await stack.enter_async_context(open_network(state, MODELS))
        await stack.enter_async_context(
            open_program([str(HERE / "echo_node.py"), str(state / "echo"), front.bootstrap])
        )
        # A fresh gateway waits a few seconds for a first node; so does this, for each model.
        for model in (engine.MODEL, "echo-at-once", "echo-200-a-second"):
            talk = [{"role": "user", "content": "hello"}]
            await ask(front.base_url, front.headers, {"model": model, "messages": talk, "max_tokens": 2})
        yield front


@asynccontextmanager
async def _peer() -> AsyncIterator[str]:
    path = Store(default_data_path("models")).pull(look_up(engine.MODEL), lambda what, done, total: None)
    settings = {"path": str(path), "slots": SLOTS, "context": engine.CONTEXT, "threads": engine.THREADS}
    async with open_program([str(HERE / "peer_http.py"), json.dumps(settings)]) as facts:
        yield str(facts["url"])
