"""Many jobs, long prompts and much coming and going: nobody starves, nothing piles up. The figures are printed (-s)."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from random import Random

import psutil
import pytest
import trio

from cxp2p.paths import default_data_path
from cxp2p.records import ChatJob
from cxp2p_node.catalog import look_up
from cxp2p_node.engines.llama import Llama
from cxp2p_node.models import Store
from tiny_engine import Heard, ask, ask_all, job, tiny
from tiny_model import ANSWER, write_tiny_model

pytestmark = pytest.mark.slow

READING_S = 240.0  # a slow core reads 30 tokens a second
SLOTS = 16
JOBS = 10_000
ASKERS = 40
MIB = 1 << 20


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf", context=1024)


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "endless.gguf", loop=True, context=4096)


async def test_64_jobs_on_16_slots_all_finish_and_none_starves(endless: Path) -> None:
    """The last one waits for three others before it in each slot, so about twice as long as one in the middle."""
    rng = Random(64)
    asked = [job(f"{number} " * rng.randint(1, 60)) for number in range(64)]
    async with tiny(endless, slots=SLOTS, context_units=1024) as engine:
        answers = await ask_all(engine, asked, max_out=200)
    assert [len(heard.token_ids) for heard, _ in answers] == [200] * 64
    waits = sorted(heard.wait_s for heard, _ in answers)
    middle = statistics.median(waits)
    _tell(f"64 jobs on {SLOTS} slots: waits of {middle:.2f} s (median), {waits[-1]:.2f} s (most)")
    assert waits[-1] < 4 * middle


async def test_10_000_jobs_with_random_cancels_leave_nothing_behind(model: Path, endless: Path) -> None:
    """The worker's memory stays as it is, every slot is free at the end, and the next answer is right."""
    rng = Random(10_000)
    left = iter(range(JOBS))
    ended = {"whole": 0, "cancelled": 0}

    async def asker(engine: Llama) -> None:
        for number in left:
            asked, patience_s = _some_job(rng, number)
            with trio.move_on_after(patience_s) as scope:
                heard, _ = await ask(engine, asked, max_out=rng.choice((1, 5, 40)))
                assert ANSWER.startswith(heard.text)
            ended["cancelled" if scope.cancelled_caught else "whole"] += 1
            if number == JOBS // 4:
                early.append(_worker_bytes(engine))

    early: list[int] = []
    async with tiny(model, slots=SLOTS, context_units=512) as engine:
        begun = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(ASKERS):
                nursery.start_soon(asker, engine)
        took_s = trio.current_time() - begun
        grown = _worker_bytes(engine) - early[0]
        await _all_slots_are_free(engine)
        heard, _ = await ask(engine, job())
    _tell(f"{JOBS} jobs in {took_s:.0f} s, {ended}; {grown / MIB:.1f} MiB more in the last three quarters")
    assert heard.text == ANSWER
    assert ended["cancelled"] > JOBS // 20
    assert ended["whole"] > JOBS // 2
    assert grown < 16 * MIB


def _some_job(rng: Random, number: int) -> tuple[ChatJob, float]:
    """A job, and how long its asker stays: most of them to the end, some hardly at all."""
    system = rng.choice(("", "", "You are careful. " * 8))
    asked = job(f"{number} " * rng.randint(1, 30), system=system, salt=rng.choice((b"", b"a", b"b")))
    return asked, rng.choice((10.0, 10.0, 10.0, rng.random() * 0.05))


def _worker_bytes(engine: Llama) -> int:
    return int(psutil.Process(engine.worker.pid).memory_info().rss)


async def _all_slots_are_free(engine: Llama) -> None:
    """As many jobs as there are slots run side by side: each has begun before any ends."""
    answers = await ask_all(engine, [job(f"{number}") for number in range(SLOTS)])
    assert max(heard.times[0] for heard, _ in answers) <= min(heard.times[-1] for heard, _ in answers)


async def test_a_long_prompt_holds_up_those_who_generate_by_two_steps_at_most() -> None:
    """On a real model: the time between two tokens while a prompt of 600 tokens comes in, against that before."""
    path = await trio.to_thread.run_sync(_smollm)
    async with tiny(path, slots=4, context_units=4096) as engine:
        for streams in (1, 3):
            before, during, read_s = await _gaps(engine, streams)
            ratio = statistics.median(during) / statistics.median(before)
            _tell(f"{streams} streams: {_ms(before)} ms between tokens, {_ms(during)} ms in {read_s:.1f} s of reading")
            assert ratio < 4.5  # three is the aim: one step and two of prompt; the machine has other work as well


async def _gaps(engine: Llama, streams: int) -> tuple[list[float], list[float], float]:
    """Seconds between tokens: before, and while somebody else's prompt is read; and how long that took."""
    running = [Heard() for _ in range(streams)]
    async with trio.open_nursery() as nursery:
        for number, heard in enumerate(running):
            asked = job(f"Tell me a long story of {number}.", salt=b"%d" % streams)
            nursery.start_soon(engine.run, asked, 1, 3000, heard.emit, heard.counted)
        for heard in running:
            await heard.begun.wait()
        await trio.sleep(1)
        begun = trio.current_time()
        prompt = job("many words and other things " * 120, salt=b"%d" % streams)
        long, _ = await ask(engine, prompt, max_out=1, patience_s=READING_S)
        ended = trio.current_time()
        nursery.cancel_scope.cancel()
    gaps = [pair for heard in running for pair in zip(heard.times, heard.times[1:], strict=False)]
    assert long.cached == 0
    before = [after - at for at, after in gaps if after < begun]
    during = [after - at for at, after in gaps if begun < at and after < ended]
    return before, during, ended - begun


def _tell(figures: str) -> None:
    sys.stdout.write(f"\n{figures}\n")


def _ms(gaps: list[float]) -> str:
    ordered = sorted(gaps)
    return f"{1000 * statistics.median(ordered):.0f} (99 of 100: {1000 * ordered[len(ordered) * 99 // 100]:.0f})"


def _smollm() -> Path:
    return Store(default_data_path("models")).pull(look_up("smollm2:135m"), lambda what, done, total: None)
