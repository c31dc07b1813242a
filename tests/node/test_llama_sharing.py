"""What jobs of one engine have in common: beginnings that are computed once, slots, and the machine."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from cxp2p.records import Sampling
from tiny_engine import Heard, ask, ask_all, job, tiny
from tiny_model import ANSWER, token_of, write_tiny_model

pytestmark = pytest.mark.slow  # real processes

SYSTEM = "You are careful, and you say the alphabet. " * 12  # about 500 tokens of a letter each
FRAME = len("system\n") + 2 + 1  # what the template puts round it, up to its end mark


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf", context=2048)


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "endless.gguf", loop=True, context=1 << 16)


async def test_a_system_prompt_is_computed_once_for_jobs_that_come_together(model: Path) -> None:
    """All the others get a copy of it, and their answers are what they would be without."""
    async with tiny(model, slots=8) as engine:
        answers = await ask_all(engine, [job(f"{number}", system=SYSTEM) for number in range(8)])
    assert [heard.text for heard, _ in answers] == [ANSWER] * 8
    cached = sorted(heard.cached for heard, _ in answers)
    assert cached[0] == 0
    assert all(len(SYSTEM) <= each < len(SYSTEM) + 2 * FRAME for each in cached[1:])
    assert all(usage.cached_units == heard.cached for heard, usage in answers)


async def test_accounts_with_other_salts_share_nothing(model: Path) -> None:
    """Neither at the same moment nor one after another; within a salt everything is as ever."""
    async with tiny(model, slots=4) as engine:
        together = await ask_all(engine, [job("1", system=SYSTEM, salt=salt) for salt in (b"a", b"b", b"")])
        later = [await ask(engine, job("2", system=SYSTEM, salt=salt)) for salt in (b"c", b"a")]
    assert [heard.text for heard, _ in (*together, *later)] == [ANSWER] * 5
    assert [heard.cached for heard, _ in together] == [0, 0, 0]
    assert later[0][0].cached == 0
    assert later[1][0].cached >= len(SYSTEM)


async def test_a_job_gets_a_copy_from_one_that_is_still_working(endless: Path) -> None:
    async with tiny(endless, slots=2, context_units=8192) as engine, trio.open_nursery() as nursery:
        first = Heard()
        nursery.start_soon(engine.run, job("1", system=SYSTEM), 1, 4000, first.emit, first.counted)
        await first.begun.wait()
        second, _ = await ask(engine, job("2", system=SYSTEM), max_out=20)
        assert second.cached >= len(SYSTEM)
        assert second.text.startswith("abc")
        nursery.cancel_scope.cancel()


async def test_the_first_of_several_may_leave(endless: Path) -> None:
    """Those who waited for its system prompt go on from where it was."""
    system = SYSTEM * 8
    async with tiny(endless, slots=4, context_units=8192) as engine, trio.open_nursery() as nursery:
        leaving = trio.CancelScope()

        async def first() -> None:
            heard = Heard()
            with leaving:
                await engine.run(job("0", system=system), 1, 10, heard.emit, heard.counted)

        nursery.start_soon(first)
        nursery.start_soon(_leave, leaving)
        answers = await ask_all(engine, [job(f"{number}", system=system) for number in range(1, 4)], max_out=3)
    assert [heard.text for heard, _ in answers] == ["abc"] * 3
    assert sum(heard.cached >= len(system) for heard, _ in answers) >= 2


async def _leave(scope: trio.CancelScope) -> None:
    await trio.sleep(0.02)
    scope.cancel()


async def test_the_same_seed_draws_the_same_answer(model: Path) -> None:
    """In batches of the same shape: here each job runs alone."""
    any_letter = Sampling(temperature=1, logit_bias=tuple((token_of(each), 50.0) for each in range(97, 123)))
    async with tiny(model, slots=1) as engine:
        drawn = [(await ask(engine, job(sampling=any_letter), 60, seed))[0].token_ids for seed in (7, 7, 8)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


async def test_a_prompt_that_is_not_wanted_any_more_is_left_in_the_middle(endless: Path) -> None:
    """Whoever comes next does not wait for it, nor for the batch that it was in."""
    text = "x" * 6000
    async with tiny(endless, slots=1, context_units=8192) as engine:
        whole, _ = await ask(engine, job(text), max_out=1)
        begun = trio.current_time()
        with trio.move_on_after(whole.wait_s / 4):
            await ask(engine, job("y" + text), max_out=1)
        after, _ = await ask(engine, job("z"), max_out=1)
        assert trio.current_time() - begun < whole.wait_s * 0.75
        assert after.wait_s < max(0.1, whole.wait_s / 4)
