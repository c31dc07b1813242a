"""What a node makes of a worker that writes garbage, says too much, says nothing, or will not start. Real processes."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from cxp2p.errors import JobFailed, SettingsError
from cxp2p.records import FailureCode, Finish, Piece
from cxp2p_node.engines import supervise
from cxp2p_node.engines.last_words import JUST_S, WORDS_MAX, LastWords
from cxp2p_node.engines.supervise import PIECES_ON_THE_WAY, Worker

pytestmark = pytest.mark.slow  # real processes

PATIENCE_S = 20.0

# A worker that does as it is told: the request of a job is Python, with `job` and `say` to hand.
WORKER = """
import os, signal, sys, time
from cxp2p.records import Finish, Piece
from cxp2p_node.engines.frames import *

frames = Frames()


def write(data):
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def say(message):
    write(pack(message))


def made(*token_ids, text="x"):
    return Made(job=job, piece=Piece(text=text, token_ids=token_ids))


say(Loaded(runtime="told", context_units=512))
while data := os.read(0, 1 << 16):
    for message in frames.feed(data):
        if isinstance(message, Start):
            job = message.job
            exec(message.request.decode())
"""
HONEST = "say(Counted(job=job, in_units=1, cached_units=0)); say(made(1)); say(Done(job=job, finish=Finish.STOP))"


@asynccontextmanager
async def told(code: str = WORKER) -> AsyncIterator[Worker]:
    """A worker that runs `code`, loaded."""
    worker = Worker("told", (sys.executable, "-c", code))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.supervise)
        with trio.fail_after(PATIENCE_S):
            await worker.until_ready(PATIENCE_S)
        yield worker
        nursery.cancel_scope.cancel()


async def do(worker: Worker, request: str, max_out: int = 10) -> list[Piece]:
    pieces: list[Piece] = []

    async def take(piece: Piece) -> None:
        pieces.append(piece)
        await trio.lowlevel.checkpoint()

    with trio.fail_after(PATIENCE_S):
        usage = await worker.run(request.encode(), 1, max_out, take, lambda units, cached: None)
    assert usage.finish is Finish.STOP
    return pieces


@pytest.mark.parametrize(
    "request_code",
    [
        "write(os.urandom(1000))",
        "write(bytes(1000))",
        "write(b'\\xff' * 8)",
        "write(pack(made(1))[:-3]); os._exit(0)",
        "write((20 << 20).to_bytes(4, 'big')); os.close(1); time.sleep(60)",
        "say(Start(job=job, request=b'', seed=1, max_out=1, credit=1))",
        "[say(made(1)) for _ in range(10_000)]",
        "os.abort()",
        "os.kill(os.getpid(), signal.SIGKILL)",
        "sys.exit(3)",
    ],
)
async def test_a_worker_that_breaks_the_pipe_is_replaced(request_code: str) -> None:
    """Its job fails as the engine's death, and the next worker does the next job."""
    async with told() as worker:
        first = worker.pid
        with pytest.raises(JobFailed) as failed:
            await do(worker, request_code, max_out=100_000)
        assert failed.value.code is FailureCode.ENGINE_DIED
        with trio.fail_after(PATIENCE_S):
            await worker.until_ready(PATIENCE_S)
        assert len(await do(worker, HONEST)) == 1
        assert worker.pid != first


async def test_what_is_for_no_job_is_dropped() -> None:
    """Pieces and ends of jobs that are not known here, before and after their time, harm nothing."""
    async with told() as worker:
        strange = "job += 7; [say(made(1)) for _ in range(100)]; say(Done(job=job, finish=Finish.STOP)); job -= 7; "
        assert len(await do(worker, strange + HONEST + "; say(made(1)); say(Done(job=job, finish=Finish.STOP))")) == 1
        assert len(await do(worker, HONEST)) == 1


async def test_a_worker_that_makes_more_than_was_ordered_fails_the_job() -> None:
    """What was not ordered is not paid and is not passed on."""
    async with told() as worker:
        with pytest.raises(JobFailed, match="more than the 10 units"):
            await do(worker, "say(made(*range(6))); say(made(*range(6))); " + HONEST)
        assert len(await do(worker, HONEST)) == 1


@pytest.mark.parametrize("stuck", ["time.sleep(600)", "os.kill(os.getpid(), signal.SIGSTOP)"])
async def test_a_worker_that_says_nothing_any_more_is_replaced(monkeypatch: pytest.MonkeyPatch, stuck: str) -> None:
    """One that hangs, however, is ended after a time, with all that it was doing."""
    monkeypatch.setattr(supervise, "SILENT_S_MAX", 1.0)
    async with told() as worker:
        with pytest.raises(JobFailed) as failed:
            await do(worker, stuck)
        assert failed.value.code is FailureCode.ENGINE_DIED


async def test_a_worker_that_has_nothing_to_do_may_be_silent_if_it_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its beat alone keeps it."""
    monkeypatch.setattr(supervise, "SILENT_S_MAX", 1.0)
    beating = WORKER.replace(
        "say(Loaded(",
        "import threading\n\ndef beat():\n    while True:\n        say(Alive())\n        time.sleep(0.2)\n"
        "\nthreading.Thread(target=beat, daemon=True).start()\nsay(Loaded(",
    )
    async with told(beating) as worker:
        first = worker.pid
        await trio.sleep(2.5)
        assert worker.pid == first
        assert worker.ready


async def test_a_machine_that_can_start_nothing_more_does_not_end_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """When a worker cannot be started again for want of files, processes or memory, it is tried again later."""
    async with told() as worker:
        command = worker._command
        worker._command = ("/nowhere/python",)
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        with trio.fail_after(PATIENCE_S):
            while worker.ready:
                await worker._news.wait()
        await trio.sleep(0.5)
        assert not worker.ready
        worker._command = command
        await worker.until_ready(PATIENCE_S)
        assert len(await do(worker, HONEST)) == 1


async def test_a_command_that_cannot_be_started_at_all_is_told() -> None:
    """At the first start it is an error of the settings."""
    worker = Worker("told", ("/nowhere/python",))
    with trio.fail_after(PATIENCE_S), pytest.raises(SettingsError, match="told cannot be loaded"):
        await worker.supervise()


async def test_a_job_of_sixteen_mebibytes_goes_through_the_pipe() -> None:
    """The largest request does not hang the pipe, nor the jobs beside it."""
    async with told() as worker, trio.open_nursery() as nursery:
        nursery.start_soon(do, worker, HONEST + "#" + "x" * (16 << 20))
        for _ in range(5):
            assert len(await do(worker, HONEST)) == 1


async def test_a_job_that_nobody_takes_stops_at_its_credit() -> None:
    """The node takes no more than a job's credit from a worker that knows it."""
    async with told() as worker:
        reading, taken = trio.Event(), 0

        async def take(piece: Piece) -> None:
            nonlocal taken
            taken += 1
            await reading.wait()

        code = f"[say(made(n)) for n in range({PIECES_ON_THE_WAY})]; say(Done(job=job, finish=Finish.STOP))"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker.run, code.encode(), 1, 100, take, lambda units, cached: None)
            assert len(await do(worker, HONEST)) == 1
            reading.set()
        assert taken == PIECES_ON_THE_WAY


@pytest.mark.parametrize(
    ("request_code", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", r"killed by SIGKILL \(out of memory\?\)"),
        ("os.abort()", "killed by SIGABRT"),
        (
            "os.write(2, b'/build/x/ops.cpp:7: types differ\\n\\n'); os.abort()",
            r"killed by SIGABRT: ops\.cpp:7: types differ",
        ),
        ("os.write(2, b'early words'); os.kill(os.getpid(), signal.SIGKILL)", r"killed by SIGKILL \(out of memory\?\)"),
        ("sys.exit(3)", "exit code 3"),
        ("raise MemoryError", "exit code 1: MemoryError"),
        ("write(bytes(4))", "it broke the pipe's protocol: a worker's frame of 0 bytes"),
        (
            "say(Loaded(runtime='twice', context_units=1))",
            "it broke the pipe's protocol: Loaded is not for the node now",
        ),
        ("os.dup2(2, 1); os.close(sys.stdout.fileno()); time.sleep(60)", "it closed its pipe and stayed"),
    ],
)
async def test_how_a_worker_ended_is_in_the_log(caplog: pytest.LogCaptureFixture, request_code: str, said: str) -> None:
    async with told() as worker:
        with pytest.raises(JobFailed):
            await do(worker, request_code)
        with trio.fail_after(PATIENCE_S):
            await worker.until_ready(PATIENCE_S)
        assert re.search(rf"the worker of told ended \({said}\); starting it again in 0\.2 s", caplog.text)


async def test_what_a_worker_says_on_standard_error_is_said_on_ours(capsys: pytest.CaptureFixture[str]) -> None:
    """Of megabytes too, which do not stop it."""
    async with told() as worker:
        await do(worker, "sys.stderr.write('warning\\n' * (1 << 18) + 'last\\n'); sys.stderr.flush(); " + HONEST)
        with trio.fail_after(PATIENCE_S):
            said = ""
            while not said.endswith("last\n"):
                await trio.lowlevel.checkpoint()
                said += capsys.readouterr().err
    assert said.count("warning\n") == 1 << 18


def test_only_words_just_before_the_end_are_about_it() -> None:
    words = LastWords()
    words.keep(b"a warning\n", now=10.0)
    assert words.said(now=10.0 + JUST_S) == "a warning"
    assert words.said(now=10.1 + JUST_S) == ""
    words.keep(b"x" * 10_000 + b"\n\x1b[31mred\n", now=20.0)
    assert words.said(now=20.0) == " [31mred"
    words.keep(b"y" * 10_000, now=21.0)
    assert words.said(now=21.0) == "y" * WORDS_MAX


async def test_the_system_takes_the_worker_before_the_node() -> None:
    """When memory runs out, what can be started again goes first."""
    async with told() as worker:
        assert out_of_memory_score(worker.pid) == supervise.OOM_SCORE > out_of_memory_score("self")


def out_of_memory_score(pid: int | str | None) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


async def test_a_worker_that_says_bytes_but_nothing_whole_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame that never ends is no sign of life."""
    monkeypatch.setattr(supervise, "SILENT_S_MAX", 1.0)
    async with told() as worker:
        with pytest.raises(JobFailed) as failed:
            await do(worker, "write((1 << 20).to_bytes(4, 'big'))\nwhile True:\n    write(b'x'); time.sleep(0.1)")
        assert failed.value.code is FailureCode.ENGINE_DIED


async def test_a_worker_that_is_killed_while_it_loads_is_not_tried_again_at_once() -> None:
    """It has hardly enough memory: whoever wants the model decides when to try again."""
    worker = Worker("large", ("/bin/sh", "-c", "kill -KILL $$"))
    with trio.fail_after(1), pytest.raises(SettingsError, match=r"large cannot be loaded: killed by SIGKILL \(out of"):
        await worker.supervise()


async def test_a_worker_gets_no_more_memory_than_it_is_allowed() -> None:
    """What is over the limit is refused to it, and it ends without harm to others."""
    greedy = WORKER.replace("say(Loaded", "memory = bytearray(1 << 30)\nsay(Loaded")
    worker = Worker("greedy", (sys.executable, "-c", greedy), address_bytes_max=1 << 30)
    with trio.fail_after(PATIENCE_S), pytest.raises(SettingsError, match="greedy cannot be loaded: exit code 1"):
        await worker.supervise()


async def test_a_job_that_ends_in_the_moment_its_worker_ends_is_done() -> None:
    """The end of the job was said before the end of the worker."""
    async with told() as worker:
        for _ in range(3):
            first = worker.pid
            assert len(await do(worker, HONEST + "; os._exit(0)")) == 1
            with trio.fail_after(PATIENCE_S):
                while worker.pid == first or not worker.ready:
                    await worker._news.wait()
