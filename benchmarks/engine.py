"""Our engine beside llama.cpp's own server engine (`xllamacpp`): the same model file, prompts, lengths and threads.

Both are loaded; they take turns, so that a busy machine slows both. 128 new tokens a job at temperature 0.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

import click
import trio

from benchmarks.figures import Figure, Goal, Rate
from cxp2p.paths import default_data_path
from cxp2p.records import ChatJob, Message, Piece, Prices, Role, Sampling
from cxp2p_node.catalog import look_up
from cxp2p_node.engines.llama import Llama, LlamaSettings, open_llama
from cxp2p_node.models import Store

MODEL = "smollm2:135m"
TOKENS = 128
CONTEXT = 2048
CONCURRENCY = (1, 4, 8, 16)
ROUNDS = 3
THREADS = os.cpu_count() or 1
LENGTHS = (1, 20, 60)  # times a sentence: prompts are short and long
SHARING_SLOTS = 4
GOALS = {1: Goal(ratio=1.15), 8: Goal(ratio=1.2), 16: Goal(ratio=1.2)}
PEER = "xllamacpp server engine"
PEER_PROGRAM = Path(__file__).with_name("peer_llama.py")


@dataclass(frozen=True, slots=True)
class Turn:
    """One burst of jobs: tokens in a second, over wall time, and the median time to the first token in ms."""

    rate: float
    first_ms: float


Burst: TypeAlias = Callable[[list[list[dict[str, str]]]], Awaitable[Turn]]


def measure(seconds: float) -> list[Figure]:
    """Tokens/s at 1, 4, 8 and 16 jobs at once, and how fast a shared prompt is taken up. Takes minutes."""
    require_peer()
    entry = look_up(MODEL)
    path = Store(default_data_path("models")).pull(entry, lambda what, done, total: None)
    figures: list[Figure] = []
    for slots in CONCURRENCY:
        figures += trio.run(_measure, path, slots)
    return figures


def require_peer() -> None:
    """Raises ClickException if `xllamacpp` is not installed."""
    if find_spec("xllamacpp") is None:
        raise click.ClickException("the peer is missing: pip install 'cxp2p[bench]'")


async def _measure(path: Path, slots: int) -> list[Figure]:
    async with _ours(path, slots) as ours, _peer(path, slots) as peer:
        turns: dict[str, list[Turn]] = {"ours": [], "peer": []}
        for round_ in range(ROUNDS + 1):
            talks = [talk(round_ * slots + number, number) for number in range(slots)]
            for name, burst in (("ours", ours), ("peer", peer)):
                turn = await burst(talks)
                if round_:  # the first one warms up
                    turns[name].append(turn)
        figures = [
            Figure(
                name=f"{slots} at once, tokens/s",
                ours=Rate.of([turn.rate for turn in turns["ours"]]),
                peer=Rate.of([turn.rate for turn in turns["peer"]]),
                peer_is=PEER,
                goal=GOALS.get(slots),
            ),
            Figure(
                name=f"{slots} at once, median ms to the first token",
                ours=Rate.of([turn.first_ms for turn in turns["ours"]]),
                peer=Rate.of([turn.first_ms for turn in turns["peer"]]),
                peer_is=PEER,
            ),
        ]
        if slots == SHARING_SLOTS:
            figures += [await _shared_prompt("ours", ours), await _shared_prompt("the peer", peer)]
        return figures


async def _shared_prompt(whose: str, burst: Burst) -> Figure:
    """The wait for the first token with 600 tokens in front that were just computed, beside 600 that are new."""
    known, new = [], []
    for number in range(2 * ROUNDS):
        question = {"role": "user", "content": f"Say the number {number}."}
        new.append((await burst([[_system(f"{whose} {number}"), question]])).first_ms)
        known.append((await burst([[_system(f"{whose} {number}"), {**question, "content": "Say a word."}]])).first_ms)
    return Figure(
        name=f"shared 600 tokens, ms to the first token, {whose}",
        ours=Rate.of(known),
        peer=Rate.of(new),
        peer_is="the same, not shared",
        goal=Goal(ratio_max=0.06) if whose == "ours" else None,
    )


def _system(of: str) -> dict[str, str]:
    return {"role": "system", "content": f"You are {of}. " + "You are careful. " * 150}


def talk(seed: int, number: int) -> list[dict[str, str]]:
    before = f"Fact {seed} is of no use here. " * LENGTHS[number % len(LENGTHS)]
    return [{"role": "user", "content": f"{before}Write a long story about a dog named {seed}."}]


@asynccontextmanager
async def _ours(path: Path, slots: int) -> AsyncIterator[Burst]:
    settings = LlamaSettings(
        model=MODEL,
        path=path,
        model_digest=bytes(32),
        prices=Prices(input=0, output=0),
        slots=slots,
        queue_max=slots,
        context_units=CONTEXT,
        threads=THREADS,
    )
    async with open_llama(settings) as engine:

        async def burst(talks: list[list[dict[str, str]]]) -> Turn:
            tokens: list[int] = []
            firsts: list[float] = []
            begun = time.perf_counter()
            async with trio.open_nursery() as nursery:
                for talk in talks:
                    nursery.start_soon(_one, engine, talk, tokens, firsts)
            return Turn(sum(tokens) / (time.perf_counter() - begun), 1000 * statistics.median(firsts))

        yield burst


async def _one(engine: Llama, talk: list[dict[str, str]], tokens: list[int], firsts: list[float]) -> None:
    begun = time.perf_counter()
    heard = False

    async def emit(piece: Piece) -> None:
        nonlocal heard
        await trio.lowlevel.checkpoint()
        if not heard:
            heard = True
            firsts.append(time.perf_counter() - begun)

    messages = tuple(Message(role=Role(turn["role"]), content=turn["content"]) for turn in talk)
    job = ChatJob(model=MODEL, messages=messages, sampling=Sampling(temperature=0))
    usage = await engine.run(job, 1, TOKENS, emit, lambda in_units, cached_units: None)
    tokens.append(usage.out_units)


@asynccontextmanager
async def _peer(path: Path, slots: int) -> AsyncIterator[Burst]:
    """The peer in a process of its own, asked by lines of JSON."""
    settings = {"path": str(path), "slots": slots, "context": CONTEXT, "threads": THREADS, "tokens": TOKENS}
    process = await trio.lowlevel.open_process(
        [sys.executable, str(PEER_PROGRAM), json.dumps(settings)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    async def answer() -> list[float]:
        line = b""
        while not line.endswith(b"\n"):
            data = await stdout.receive_some()
            if not data:
                raise click.ClickException(f"the peer ended with exit code {await process.wait()}")
            line += data
        facts: list[float] = json.loads(line.splitlines()[-1])
        return facts

    async def burst(talks: list[list[dict[str, str]]]) -> Turn:
        await stdin.send_all(json.dumps(talks).encode() + b"\n")
        rate, first_ms = await answer()
        return Turn(rate, first_ms)

    try:
        await answer()
        yield burst
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
