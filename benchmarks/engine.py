"""Our engine beside llama.cpp's own server engine (`xllamacpp`): the same model file, prompts, lengths and threads.

Both are loaded; they take turns, so that a busy machine slows both. 128 new tokens a job at temperature 0. How long a
running answer pauses while others' prompts are read is ours to choose (`prompt_steps_max`): few steps, as a node has it
unless told otherwise, or many, for the most tokens a second in all.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

import click
import trio

from benchmarks.figures import Figure, Goal, Rate
from cxp2p.paths import default_data_path
from cxp2p.records import ChatJob, Message, Piece, Prices, Role, Sampling
from cxp2p_node.catalog import look_up
from cxp2p_node.engines.llama import Llama, LlamaSettings, open_llama
from cxp2p_node.engines.serving import PROMPT_STEPS_MAX
from cxp2p_node.models import Store

MODEL = "smollm2:135m"
TOKENS = 128
CONTEXT = 2048
CONCURRENCY = (1, 4, 8, 16)
ROUNDS = 3
THREADS = os.cpu_count() or 1
LENGTHS = (1, 20, 60)  # times a sentence: prompts are short and long
SHARING_SLOTS = 4
PATIENT_STEPS = 20.0  # of those who generate, for prompts: as long as a server waits that reads them whole
GOALS = {1: Goal(ratio=1.15), 8: Goal(ratio=1.2), 16: Goal(ratio=1.2)}
PEER = "xllamacpp server engine"
PEER_PROGRAM = Path(__file__).with_name("peer_llama.py")


@dataclass(frozen=True, slots=True)
class Turn:
    """One burst of jobs: tokens in a second, over wall time; ms to the first token (median); longest pause in ms."""

    rate: float
    first_ms: float
    pause_ms: float


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
    async with _ours(path, slots) as ours, _ours(path, slots, PATIENT_STEPS) as patient, _peer(path, slots) as peer:
        bursts = {"ours": ours, "patient": patient, "peer": peer}
        turns: dict[str, list[Turn]] = {name: [] for name in bursts}
        for round_ in range(ROUNDS + 1):
            talks = [talk(round_ * slots + number, number) for number in range(slots)]
            for name, burst in bursts.items():
                if round_:
                    turns[name].append(await burst(talks))
                else:
                    await burst(talks[:1])  # warms up
        figures = _beside_the_peer(slots, turns)
        if slots == SHARING_SLOTS:
            figures += [await _shared_prompt("ours", ours), await _shared_prompt("the peer", peer)]
        return figures


def _beside_the_peer(slots: int, turns: Mapping[str, Sequence[Turn]]) -> list[Figure]:
    def figure(what: str, whose: str, of: Callable[[Turn], float], goal: Goal | None = None) -> Figure:
        return Figure(
            name=f"{slots} at once, {what}",
            ours=Rate.of([of(turn) for turn in turns[whose]]),
            peer=Rate.of([of(turn) for turn in turns["peer"]]),
            peer_is=PEER,
            goal=goal,
        )

    figures = [
        figure("tokens/s", "ours", lambda turn: turn.rate, GOALS.get(slots)),
        figure("median ms to the first token", "ours", lambda turn: turn.first_ms),
    ]
    if slots > 1:
        figures += [
            figure("longest pause in an answer, ms", "ours", lambda turn: turn.pause_ms),
            figure("tokens/s, prompts first", "patient", lambda turn: turn.rate, GOALS.get(slots)),
            figure("median ms to the first token, prompts first", "patient", lambda turn: turn.first_ms),
            figure("longest pause in an answer, ms, prompts first", "patient", lambda turn: turn.pause_ms),
        ]
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
async def _ours(path: Path, slots: int, prompt_steps_max: float = PROMPT_STEPS_MAX) -> AsyncIterator[Burst]:
    settings = LlamaSettings(
        model=MODEL,
        path=path,
        model_digest=bytes(32),
        prices=Prices(input=0, output=0),
        slots=slots,
        queue_max=slots,
        context_units=CONTEXT,
        threads=THREADS,
        prompt_steps_max=prompt_steps_max,
    )
    async with open_llama(settings) as engine:

        async def burst(talks: list[list[dict[str, str]]]) -> Turn:
            tokens: list[int] = []
            heard: list[list[float]] = []
            begun = time.perf_counter()
            async with trio.open_nursery() as nursery:
                for talk in talks:
                    nursery.start_soon(_one, engine, talk, tokens, heard)
            return turn_of(sum(tokens), begun, heard)

        yield burst


async def _one(engine: Llama, talk: list[dict[str, str]], tokens: list[int], heard: list[list[float]]) -> None:
    times: list[float] = []

    async def emit(piece: Piece) -> None:
        await trio.lowlevel.checkpoint()
        times.append(time.perf_counter())

    messages = tuple(Message(role=Role(turn["role"]), content=turn["content"]) for turn in talk)
    job = ChatJob(model=MODEL, messages=messages, sampling=Sampling(temperature=0))
    usage = await engine.run(job, 1, TOKENS, emit, lambda in_units, cached_units: None)
    tokens.append(usage.out_units)
    heard.append(times)


def turn_of(tokens: int, begun: float, heard: Sequence[Sequence[float]]) -> Turn:
    """What a burst was like, by when each job was heard, in seconds; it has just ended."""
    pauses = [after - before for times in heard for before, after in pairwise(times)]
    return Turn(
        rate=tokens / (time.perf_counter() - begun),
        first_ms=1000 * statistics.median(times[0] - begun for times in heard),
        pause_ms=1000 * max(pauses, default=0.0),
    )


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
        return Turn(*await answer())

    try:
        await answer()
        yield burst
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
