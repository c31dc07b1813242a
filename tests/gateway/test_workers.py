"""Several processes on one port: started, started again, and ended together."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
from trio.testing import MockClock

from cxp2p_gateway.workers import (
    CUT_S,
    PAUSE_S_FIRST,
    PAUSE_S_MAX,
    STEADY_S,
    Facts,
    Restarts,
    StartWorker,
    Supervisor,
    Worker,
    WorkersFailed,
    processes,
)

GRACE_S = 30.0


@dataclass
class MemoryWorker:
    """A worker without a process: it is ready after a second, and ends when it is told to, or by `end`."""

    number: int
    drain_s: float = 1.0
    starts: bool = True
    status: int | None = None
    drained: bool = False
    is_told: bool = False
    ended: trio.Event = field(default_factory=trio.Event)
    draining: trio.Event = field(default_factory=trio.Event)

    async def fact(self) -> Facts | None:
        if self.is_told:
            await self.ended.wait()
            return None
        await trio.sleep(1)
        self.is_told = True
        if self.starts:
            return {"event": "ready", "number": self.number}
        self.end(1)
        return None

    async def live(self) -> None:
        await self.draining.wait()
        await trio.sleep(self.drain_s)
        self.end(0)

    def end(self, status: int) -> None:
        self.status = status if self.status is None else self.status
        self.ended.set()

    def drain(self) -> None:
        self.drained = True
        self.draining.set()

    def leave(self) -> None:
        self.end(130)

    async def wait(self) -> int:
        await self.ended.wait()
        assert self.status is not None
        return self.status


@dataclass
class Hall:
    """Starts workers in memory, and remembers them and when they started."""

    drain_s: float = 1.0
    failing: set[int] = field(default_factory=set)
    workers: list[MemoryWorker] = field(default_factory=list)
    started_at: list[float] = field(default_factory=list)
    told: list[tuple[int, Facts]] = field(default_factory=list)

    @asynccontextmanager
    async def start(self, number: int) -> AsyncIterator[Worker]:
        worker = MemoryWorker(number, self.drain_s, starts=number not in self.failing)
        self.workers.append(worker)
        self.started_at.append(trio.current_time())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker.live)
            try:
                yield worker
            finally:
                worker.leave()
                nursery.cancel_scope.cancel()

    def supervisor(self, count: int) -> Supervisor:
        return Supervisor(self.start, count, lambda number, facts: self.told.append((number, facts)), grace_s=GRACE_S)


# The rule.


def test_restarts_wait_longer_each_time() -> None:
    """Twice as long up to a limit, and from the start again after a steady life."""
    restarts = Restarts()
    pauses = [restarts.pause_s(1.0) for _ in range(10)]

    assert pauses[:4] == [PAUSE_S_FIRST, 2 * PAUSE_S_FIRST, 4 * PAUSE_S_FIRST, 8 * PAUSE_S_FIRST]
    assert pauses[-1] == PAUSE_S_MAX
    assert restarts.pause_s(STEADY_S) == PAUSE_S_FIRST


# The supervisor, over workers in memory.


async def test_workers_are_started_and_drained_together(autojump_clock: MockClock) -> None:
    """Each has its number, what it says is passed on, and all end when it is time."""
    hall, stopping = Hall(), trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hall.supervisor(3).run, stopping)
        await trio.sleep(5)
        assert sorted(worker.number for worker in hall.workers) == [1, 2, 3]
        assert sorted(number for number, facts in hall.told if facts["event"] == "ready") == [1, 2, 3]
        stopping.set()
        with trio.fail_after(2):
            await trio.testing.wait_all_tasks_blocked()
    assert all(worker.drained and worker.status == 0 for worker in hall.workers)
    assert len(hall.workers) == 3


async def test_a_worker_that_crashes_is_started_again(autojump_clock: MockClock) -> None:
    """The others go on; the pauses grow."""
    hall, stopping = Hall(), trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hall.supervisor(2).run, stopping)
        await trio.sleep(5)
        for pause_s in (PAUSE_S_FIRST, 2 * PAUSE_S_FIRST, 4 * PAUSE_S_FIRST):
            last = [worker for worker in hall.workers if worker.number == 1][-1]
            at = trio.current_time()
            last.end(-signal.SIGSEGV)
            await trio.sleep(20)
            assert hall.started_at[-1] - at == pytest.approx(pause_s)
        assert [worker.number for worker in hall.workers].count(2) == 1
        stopping.set()


async def test_a_worker_that_cannot_start_ends_all(autojump_clock: MockClock) -> None:
    """What was wrong at its first start would be wrong the next time."""
    hall = Hall(failing={2})
    with pytest.raises(ExceptionGroup) as caught:
        await hall.supervisor(3).run(trio.Event())

    assert caught.group_contains(WorkersFailed, match=r"worker 2 did not start \(exit status 1\)")
    assert all(worker.status is not None for worker in hall.workers)


async def test_a_worker_that_served_once_is_tried_for_ever(autojump_clock: MockClock) -> None:
    """A database that is away for a while does not end the gateway."""
    hall, stopping = Hall(), trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hall.supervisor(1).run, stopping)
        await trio.sleep(5)
        hall.failing.add(1)
        hall.workers[-1].end(1)
        await trio.sleep(300)
        assert len(hall.workers) > 8
        hall.failing.clear()
        await trio.sleep(60)
        assert hall.workers[-1].status is None
        stopping.set()


async def test_workers_that_do_not_end_are_cut(autojump_clock: MockClock) -> None:
    """They have the grace, and a while to leave; then they are ended."""
    hall, stopping = Hall(drain_s=10_000), trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hall.supervisor(2).run, stopping)
        await trio.sleep(5)
        stopping.set()
        began = trio.current_time()
    assert trio.current_time() - began == pytest.approx(GRACE_S + CUT_S)
    assert [worker.status for worker in hall.workers] == [130, 130]


async def test_none_starts_again_while_all_end(autojump_clock: MockClock) -> None:
    """One that crashes then, or waits for its next start, stays down."""
    hall, stopping = Hall(drain_s=5), trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hall.supervisor(2).run, stopping)
        await trio.sleep(5)
        hall.workers[0].end(-9)
        await trio.sleep(0.1)
        stopping.set()
        await trio.sleep(0.1)
        hall.workers[1].end(-9)
    assert len(hall.workers) == 2


# The contract of a worker, in memory and as a process.

SERVER = """
import json, signal, socket, sys, threading, os
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
signal.signal(signal.SIGINT, lambda *_: os._exit(130))
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(7)), daemon=True).start()
listening = socket.socket(fileno=int(sys.argv[1]))
print(json.dumps({"event": "ready", "pid": os.getpid()}), flush=True)
print("no JSON", flush=True)
while True:
    connection, _ = listening.accept()
    connection.sendall(str(os.getpid()).encode())
    connection.close()
"""


@asynccontextmanager
async def in_memory() -> AsyncIterator[StartWorker]:
    yield Hall(drain_s=0).start


@asynccontextmanager
async def as_processes() -> AsyncIterator[StartWorker]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        descriptor = listening.fileno()
        yield processes(lambda number: [sys.executable, "-c", SERVER, str(descriptor)], [descriptor])


Kind = Callable[[], AbstractAsyncContextManager[StartWorker]]
KINDS = [pytest.param(in_memory, id="memory"), pytest.param(as_processes, id="process", marks=pytest.mark.slow)]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_worker_tells_and_drains(kind: Kind) -> None:
    """It says that it is ready, and ends with 0 when it is told to drain."""
    with trio.fail_after(20):
        async with kind() as start, start(1) as worker:
            fact = await worker.fact()
            assert fact is not None
            assert fact["event"] == "ready"
            worker.drain()
            assert await worker.wait() == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_a_worker_ends_with_its_block(kind: Kind) -> None:
    """Whoever leaves the block has ended it."""
    with trio.fail_after(20):
        async with kind() as start:
            async with start(1) as worker:
                assert await worker.fact() is not None
            assert await worker.wait() == 130


@asynccontextmanager
async def ending(pid: int) -> AsyncIterator[None]:
    """Waits at the end of the block until a process, of whomever, has ended."""
    descriptor = os.pidfd_open(pid)
    try:
        yield
        await trio.lowlevel.wait_readable(descriptor)
    finally:
        os.close(descriptor)


async def killed(pid: int) -> None:
    async with ending(pid):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
async def test_real_workers_share_a_port() -> None:
    """Both accept; one that is killed is replaced, and whoever connects meanwhile is served by the other."""
    pids: dict[int, int] = {}
    changed = trio.Event()

    def tell(number: int, facts: Facts) -> None:
        nonlocal changed
        if facts:
            pids[number] = facts["pid"]
            changed.set()
            changed = trio.Event()

    async def until(wanted: Callable[[], bool]) -> None:
        while not wanted():
            await changed.wait()

    async def ask(port: int) -> int:
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            return int(await stream.receive_some())

    with trio.fail_after(60), socket.create_server(("127.0.0.1", 0)) as listening:
        port, descriptor = listening.getsockname()[1], listening.fileno()
        start = processes(lambda number: [sys.executable, "-c", SERVER, str(descriptor)], [descriptor])
        stopping = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Supervisor(start, 2, tell, grace_s=1).run, stopping)
            await until(lambda: len(pids) == 2)
            first = dict(pids)
            assert {await ask(port) for _ in range(50)} <= set(first.values())
            await killed(first[1])
            assert await ask(port) in first.values()
            await until(lambda: pids[1] != first[1])
            await killed(first[2])
            assert {await ask(port) for _ in range(20)} == {pids[1]}
            stopping.set()


PARENT = """
import sys, trio
from cxp2p_gateway.workers import Supervisor, processes
def tell(number, facts):
    if facts: print(facts["pid"], flush=True)
start = processes(lambda number: [sys.executable, "-c", sys.argv[1], sys.argv[2]], [int(sys.argv[2])])
trio.run(Supervisor(start, 1, tell, grace_s=1).run, trio.Event())
"""


@pytest.mark.slow
async def test_no_worker_outlives_a_supervisor_that_was_killed() -> None:
    """Its standard input ends then, which it hears."""
    with trio.fail_after(20), socket.create_server(("127.0.0.1", 0)) as listening:
        descriptor = listening.fileno()
        command = [sys.executable, "-c", PARENT, SERVER, str(descriptor)]
        parent = await trio.lowlevel.open_process(command, stdout=-1, pass_fds=[descriptor])
        assert parent.stdout is not None
        pid = int(await parent.stdout.receive_some())
        async with ending(pid):
            parent.kill()
            await parent.wait()
        await parent.stdout.aclose()
