"""The llama engine: real llama.cpp in a real worker process, on a tiny model whose answer is known."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from cxp2p.errors import JobFailed, SettingsError
from cxp2p.records import FailureCode, Finish, Piece, Usage
from cxp2p_node.engines.supervise import PIECES_ON_THE_WAY
from tiny_engine import PATIENCE_S, Heard, ask, ask_all, job, tiny
from tiny_model import ANSWER, CONTEXT, END, token_ids, write_tiny_model

pytestmark = pytest.mark.slow  # real processes


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(scope="session")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "endless.gguf", loop=True, context=1 << 16)


async def test_the_answer_its_tokens_and_its_usage(model: Path) -> None:
    async with tiny(model) as engine:
        described = engine.describe()
        assert described.context_units == CONTEXT
        assert described.runtime.startswith("llama.cpp ")
        heard, usage = await ask(engine, job())
        assert heard.text == ANSWER
        assert heard.token_ids == (*token_ids(ANSWER), END)
        prompt_units = len("user\nhello") + 2 + 1 + 1 + len("assistant\n")
        assert heard.counts == [(prompt_units, 0)]
        assert usage == Usage(in_units=prompt_units, cached_units=0, out_units=len(heard.token_ids), finish=Finish.STOP)
        # é is two tokens and leaves as one character; every piece's text is whole.
        assert [piece.text for piece in heard.pieces if "é" in piece.text] == ["é"]
        again, _ = await ask(engine, job())
        assert again.text == ANSWER
        assert again.counts == [(prompt_units, prompt_units - 1)]  # the whole prompt but its last token was kept


async def test_the_length_limit_and_stop_strings(model: Path) -> None:
    async with tiny(model) as engine:
        heard, usage = await ask(engine, job(), max_out=5)
        assert (heard.text, usage.finish, usage.out_units) == ("abcde", Finish.LENGTH, 5)
        heard, usage = await ask(engine, job(stop=("xyz", "hij")))
        assert (heard.text, usage.finish) == ("abcdefg", Finish.STOP)
        assert heard.token_ids == token_ids("abcdefghij")  # what was made for the stop string is in the receipt
        heard, usage = await ask(engine, job(), max_out=14)
        assert heard.text == "abcdefghijklm"  # half an é is not sent
        assert usage.out_units == 14


async def test_the_context_is_the_limit_of_prompt_and_answer(model: Path) -> None:
    async with tiny(model, context_units=300) as engine:
        limit = engine.describe().context_units
        with pytest.raises(JobFailed) as failed:
            await ask(engine, job("x" * limit))
        assert failed.value.code is FailureCode.CONTEXT_LENGTH
        assert failed.value.limit == limit
        assert failed.value.actual > limit
        frame = len("user\n") + 2 + 1 + 1 + len("assistant\n")
        heard, usage = await ask(engine, job("x" * (limit - frame - 4)))
        assert usage.finish is Finish.LENGTH
        assert heard.text == "abcd"


async def test_several_at_once_more_than_there_are_slots(model: Path) -> None:
    async with tiny(model, slots=2) as engine:
        answers = await ask_all(engine, [job(f"number {number}") for number in range(6)])
    assert [heard.text for heard, _ in answers] == [ANSWER] * 6


async def test_a_cancelled_job_frees_its_slot_within_100_ms(endless: Path) -> None:
    async with tiny(endless, slots=1) as engine:
        heard = Heard()
        with trio.move_on_after(0.3):
            await engine.run(job(), 1, 1 << 15, heard.emit, heard.counted)
        assert heard.text.startswith(ANSWER * 2)
        left = trio.current_time()
        await ask(engine, job(), max_out=1)  # there is one slot: this runs only once the other has stopped
        assert trio.current_time() - left < 0.1


async def test_a_slow_reader_stops_its_slot_and_not_the_others(endless: Path) -> None:
    taken: list[Piece] = []
    reading = trio.Event()

    async def slow(piece: Piece) -> None:
        taken.append(piece)
        await reading.wait()

    async with tiny(endless, slots=2) as engine, trio.open_nursery() as nursery:
        nursery.start_soon(engine.run, job(), 1, 200, slow, Heard().counted)
        await wait_all_tasks_blocked(0.1)
        process = psutil.Process(engine.worker.pid)
        for _ in range(3):
            heard, _ = await ask(engine, job(), max_out=400)
            assert len(heard.token_ids) == 400
        busy_s = sum(process.cpu_times()[:2])
        await wait_all_tasks_blocked(0.2)
        assert sum(process.cpu_times()[:2]) - busy_s < 0.1  # it waits, it does not spin
        assert len(taken) == 1
        reading.set()
    assert len([token for piece in taken for token in piece.token_ids]) == 200
    assert len(taken) > PIECES_ON_THE_WAY  # credit was given back, more than once


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV])
async def test_a_worker_that_dies_fails_its_job_and_comes_back(
    endless: Path, number: signal.Signals, caplog: pytest.LogCaptureFixture
) -> None:
    changes: list[bool] = []
    async with tiny(endless) as engine:
        engine.on_change(lambda: changes.append(engine.ready))
        dead = engine.worker.pid
        assert dead is not None

        async def kill(piece: Piece) -> None:
            await trio.lowlevel.checkpoint()
            if engine.worker.pid == dead:
                os.kill(dead, number)

        with pytest.raises(JobFailed) as failed, trio.fail_after(PATIENCE_S):
            await engine.run(job(), 1, 1 << 15, kill, Heard().counted)
        assert failed.value.code is FailureCode.ENGINE_DIED
        assert not engine.ready
        heard, _ = await ask(engine, job(), max_out=3)  # waits for the new worker
        assert heard.text == "abc"
        assert engine.worker.pid != dead
    assert changes[:2] == [False, True]
    assert f"killed by {number.name}" in caplog.text


async def test_the_worker_leaves_with_its_engine(model: Path) -> None:
    async with tiny(model) as engine:
        assert engine.worker.pid is not None
        process = psutil.Process(engine.worker.pid)
    assert not process.is_running()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
async def test_the_process_of_the_template_leaves_with_its_worker(model: Path, number: signal.Signals) -> None:
    async with tiny(model) as engine:
        assert engine.worker.pid is not None
        (template,) = psutil.Process(engine.worker.pid).children()
        assert "cxp2p_node.templates.apart" in template.cmdline()
        os.kill(engine.worker.pid, number)
        with trio.fail_after(PATIENCE_S):
            await trio.to_thread.run_sync(psutil.wait_procs, [template], PATIENCE_S)
        assert not template.is_running()


async def test_a_hung_worker_is_killed_when_the_engine_closes(model: Path) -> None:
    async with tiny(model) as engine:
        assert engine.worker.pid is not None
        process = psutil.Process(engine.worker.pid)
        process.suspend()
    assert not process.is_running()


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a model at all" * 100])
async def test_a_file_that_is_no_model_is_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=r"tiny cannot be loaded: .*broken\.gguf.*is it a GGUF file"):
        async with tiny(path):
            pass


@pytest.fixture
def truncated(model: Path, tmp_path: Path) -> Path:
    path = tmp_path / "short.gguf"
    path.write_bytes(model.read_bytes()[:-1000])
    return path


async def test_a_truncated_model_is_told(truncated: Path) -> None:
    with pytest.raises(SettingsError, match="tiny cannot be loaded"):
        async with tiny(truncated):
            pass
