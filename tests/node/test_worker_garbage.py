"""The pipe to a worker, fuzzed from both ends: real processes that say anything, or that are told anything."""

from __future__ import annotations

import itertools
import os
import shlex
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random

import psutil
import pytest
import trio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cxp2p.errors import JobFailed, SettingsError
from cxp2p.records import FailureCode, Finish, Piece, Usage
from cxp2p_node.engines import supervise
from cxp2p_node.engines.frames import (
    FRAME_BYTES_MAX,
    Alive,
    Counted,
    Credit,
    Done,
    Failed,
    Loaded,
    Made,
    Start,
    Stop,
    pack,
)
from cxp2p_node.engines.supervise import Worker
from tiny_engine import ask, job, tiny
from tiny_model import ANSWER, write_tiny_model

pytestmark = pytest.mark.slow  # real processes

PATIENCE_S = 20.0
LOADED = pack(Loaded(runtime="garbage", context_units=512))

# What a shell does after it has said what it has to say. It reads what it is told, as a full pipe would stop the node.
ENDINGS = (
    "exit 0",
    "exit 7",
    "kill -ABRT $$",
    "kill -KILL $$",
    "exec cat >/dev/null",
    "exec 1>&-; exec cat >/dev/null",
)


def good(number: int) -> list[bytes]:
    """What an honest worker says of a job."""
    piece = Piece(text="x", token_ids=(1,))
    said = (
        Counted(job=number, in_units=1, cached_units=0),
        Made(job=number, piece=piece),
        Done(job=number, finish=Finish.STOP),
    )
    return [pack(each) for each in said]


def frames() -> st.SearchStrategy[bytes]:
    """Frames that are right in themselves, about this job and about others."""
    numbers = st.integers(0, 3)
    units = st.integers(0, 2**31 - 1)
    pieces = st.builds(
        Piece, text=st.text(max_size=20), token_ids=st.lists(st.integers(0, 2**32 - 1), max_size=20).map(tuple)
    )
    return st.one_of(
        st.sampled_from([*good(1), *good(1), *good(1), LOADED, pack(Alive()), pack(Stop(job=1))]),
        st.builds(Counted, job=numbers, in_units=units, cached_units=units).map(pack),
        st.builds(Made, job=numbers, piece=pieces).map(pack),
        st.builds(Done, job=numbers, finish=st.sampled_from(Finish)).map(pack),
        st.builds(
            Failed,
            job=numbers,
            code=st.sampled_from(FailureCode),
            reason=st.text(max_size=20),
            limit=units,
            actual=units,
        ).map(pack),
        st.just(pack(Start(job=1, request=b"", seed=1, max_out=1, credit=1))),
    )


def chunks() -> st.SearchStrategy[bytes]:
    """Those; what is left of them when bytes are lost or changed; and anything, under lengths that promise more."""
    lengths = st.sampled_from([0, 1, 2, 200, FRAME_BYTES_MAX, FRAME_BYTES_MAX + 1, 2**31, 2**32 - 1])
    return st.one_of(
        frames(),
        frames(),
        st.tuples(frames(), st.integers(0, 60)).map(lambda cut: cut[0][: cut[1]]),
        st.tuples(frames(), st.integers(0, 60), st.integers(0, 255)).map(
            lambda change: change[0][: change[1]] + bytes((change[2],)) + change[0][change[1] + 1 :]
        ),
        st.binary(max_size=100),
        st.tuples(lengths, st.binary(max_size=100)).map(lambda said: said[0].to_bytes(4, "big") + said[1]),
    )


def shell(folder: Path, beginning: bytes, answer: bytes, ending: str) -> tuple[str, ...]:
    """A worker that says `beginning`, waits until it is told something, and says `answer`."""
    (folder / "beginning").write_bytes(beginning)
    (folder / "answer").write_bytes(answer)
    at = shlex.quote(str(folder))
    return ("/bin/sh", "-c", f"cat {at}/beginning; head -c 1 >/dev/null; cat {at}/answer; {ending}")


async def do(worker: Worker) -> Usage:
    async def take(piece: Piece) -> None:
        await trio.lowlevel.checkpoint()

    return await worker.run(b"request", 1, 1000, take, lambda units, cached: None)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that hangs is noticed soon, and the next one is started soon."""
    monkeypatch.setattr(supervise, "SILENT_S_MAX", 0.3)
    monkeypatch.setattr(supervise, "LOAD_S_MAX", 0.3)
    monkeypatch.setattr(supervise, "LEAVE_S", 0.2)
    monkeypatch.setattr(supervise, "RESTART_S_FIRST", 0.01)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(said=st.lists(chunks(), max_size=8), ending=st.sampled_from(ENDINGS))
def test_whatever_a_worker_says_its_job_ends_and_the_next_worker_works(
    impatient: None, said: list[bytes], ending: str
) -> None:
    """With a usage, or as failed; nothing else comes out, and nothing hangs."""

    async def main(folder: Path) -> None:
        worker = Worker("garbage", shell(folder, LOADED, b"".join(said), ending))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker.supervise)
            with trio.fail_after(PATIENCE_S):
                await worker.until_ready(PATIENCE_S)
                worker._command = shell(folder, LOADED, b"".join(said), ending)
                with suppress(JobFailed):
                    assert (await do(worker)).out_units <= 1000
                await honest_again(worker, folder)
            nursery.cancel_scope.cancel()

    with tempfile.TemporaryDirectory() as folder:
        trio.run(main, Path(folder))


async def honest_again(worker: Worker, folder: Path) -> None:
    """The next life of the worker is an honest one, and does a job."""
    number = worker._numbers + 1
    answers = b"".join(itertools.chain.from_iterable(good(each) for each in range(number, number + 20)))
    (folder / "honest").mkdir()
    worker._command = shell(folder / "honest", LOADED, answers, "exec cat >/dev/null")
    pid = worker.pid
    if pid is not None and worker._process is not None:
        worker._process.kill()
    while worker.pid in (None, pid) or not worker.ready:
        await worker._news.wait()
    usage = await do(worker)
    assert (usage.in_units, usage.out_units, usage.finish) == (1, 1, Finish.STOP)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(said=st.lists(chunks(), max_size=4), ending=st.sampled_from(ENDINGS[:4]))
@example(said=[LOADED, LOADED], ending="exit 0")
def test_whatever_is_said_instead_of_loaded_ends_as_an_error_of_the_settings(
    impatient: None, said: list[bytes], ending: str
) -> None:
    """Or as a worker, if there was the right word among it; but it ends."""

    async def main(folder: Path) -> None:
        (folder / "beginning").write_bytes(b"".join(said))
        worker = Worker("garbage", ("/bin/sh", "-c", f"cat {shlex.quote(str(folder))}/beginning; {ending}"))
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:

                async def enough() -> None:
                    await worker.until_ready(PATIENCE_S)
                    nursery.cancel_scope.cancel()

                nursery.start_soon(enough)
                with pytest.raises(SettingsError, match="garbage cannot be loaded"):
                    await worker.supervise()
                nursery.cancel_scope.cancel()

    with tempfile.TemporaryDirectory() as folder:
        trio.run(main, Path(folder))


# The other end: a real worker that is told anything.


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("garbage") / "tiny.gguf")


def orders(seed: int) -> bytes:
    """Garbage for a worker's standard input: pure, or frames that are right and stand in the wrong place."""
    rng = Random(seed)
    frames_of_workers = [LOADED, *good(1), pack(Alive())]
    frames_of_nodes = [
        pack(Start(job=rng.randrange(5), request=rng.randbytes(rng.randrange(50)), seed=1, max_out=5, credit=5)),
        pack(Stop(job=rng.randrange(5))),
        pack(Credit(job=rng.randrange(5), pieces=2**31 - 1)),
    ]
    parts = [
        rng.choice([rng.randbytes(rng.randrange(1, 200)), rng.choice(frames_of_workers), rng.choice(frames_of_nodes)])
        for _ in range(rng.randrange(1, 10))
    ]
    return b"".join([*parts, (2**32 - 1).to_bytes(4, "big")])  # this at least is wrong


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
async def test_a_worker_that_is_told_garbage_ends_and_is_replaced(model: Path, seed: int) -> None:
    """It does not hang, it does not stay with the model in memory, and it is not killed by a signal."""
    async with tiny(model) as engine:
        process = engine.worker._process
        assert process is not None
        assert process.stdin is not None
        with trio.fail_after(PATIENCE_S):
            await process.stdin.send_all(orders(seed))
            while engine.worker.pid == process.pid:
                await engine.worker._news.wait()
            await process.wait()
            assert process.returncode in (0, 1)
            heard, _ = await ask(engine, job())
        assert heard.text == ANSWER


@pytest.mark.slow
async def test_a_worker_whose_node_vanishes_while_it_loads_ends_too(model: Path) -> None:
    """Its standard input is closed before it has said anything."""
    async with trio.open_nursery() as nursery:
        async with background_worker(model, nursery) as pid:
            process = psutil.Process(pid)
        await trio.to_thread.run_sync(process.wait, PATIENCE_S)  # raises if it stays


@asynccontextmanager
async def background_worker(model: Path, nursery: trio.Nursery) -> AsyncIterator[int]:
    """The pid of a worker that has just been started; its engine is closed at the end."""
    scope = trio.CancelScope()
    pids: list[int] = []

    async def load() -> None:
        with scope:
            async with tiny(model):
                await trio.sleep_forever()

    nursery.start_soon(load)
    me = psutil.Process(os.getpid())
    before = {child.pid for child in me.children()}
    with trio.fail_after(PATIENCE_S):
        while not pids:
            await trio.sleep(0.01)
            pids += [child.pid for child in me.children() if child.pid not in before]
    yield pids[0]
    scope.cancel()
