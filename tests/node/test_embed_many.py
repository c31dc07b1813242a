"""Thousands of embedding jobs, a third of them cancelled: nothing is left of them."""

from __future__ import annotations

import random
from pathlib import Path

import psutil
import pytest
import trio

from test_embed import Heard, ask, job, same, texts_of, tiny
from tiny_bert import write_tiny_bert

JOBS = 1200
AT_ONCE = 24
GROWTH_BYTES_MAX = 8 << 20  # what is left of a job in the worker would be more, were it only its list of sizes


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_thousands_of_jobs_with_cancels_leave_nothing_behind(tmp_path: Path) -> None:
    rng = random.Random(5)
    texts = texts_of(400)
    done, cancelled = 0, 0

    async def some(engine_jobs: int) -> None:
        nonlocal done, cancelled
        for _ in range(engine_jobs):
            asked = rng.sample(texts, rng.choice((1, 1, 1, 3, 10, 60, 300)))
            heard = Heard()
            with trio.move_on_after(rng.choice((1000, 1000, rng.uniform(0, 0.2)))) as scope:
                await engine.run(job(*asked), 1, len(asked), heard.emit, heard.counted)
                assert same(heard.vectors, asked)
                done += 1
            cancelled += scope.cancelled_caught

    async with tiny(write_tiny_bert(tmp_path / "tiny.gguf")) as engine:
        process = psutil.Process(engine.worker.pid)
        sizes = []
        for _ in range(6):
            async with trio.open_nursery() as nursery:
                for _ in range(AT_ONCE):
                    nursery.start_soon(some, JOBS // 6 // AT_ONCE)
            sizes.append(process.memory_info().rss)
        heard, _ = await ask(engine, job("abc"))
        assert same(heard.vectors, ["abc"])
        assert engine.worker.pid == process.pid
        assert not engine.worker._jobs
    assert done > JOBS / 4
    assert cancelled > JOBS / 12
    assert sizes[-1] - min(sizes[1:3]) < GROWTH_BYTES_MAX, sizes
