"""Several gateway processes on one port: starts them, starts them again when they crash, and ends them together.

The supervisor opens the listening sockets and every worker inherits them, so that whichever is free accepts, and a
connection that waits to be accepted outlives the worker that crashes. Each worker is a gateway, and a peer, of its own;
what they share is the database.
"""

from __future__ import annotations

import json
import logging
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from subprocess import PIPE
from typing import Any, Final, Protocol

import trio

from cxp2p.errors import CxError

log = logging.getLogger("cxp2p.gateway.workers")

PAUSE_S_FIRST: Final = 0.5
PAUSE_S_MAX: Final = 30.0
STEADY_S: Final = 60.0  # a worker that lived so long and ends did not end for what ended it the last time
CUT_S: Final = 15.0  # over the grace that its answers have: to settle, to leave the network, to close the database
LEAVE_S: Final = 1.2  # after Ctrl-C: a worker leaves within 1.5 s by itself, and so does who waits for it
LINE_BYTES_MAX: Final = 64 * 1024

Facts = Mapping[str, Any]
"""What a program says with `--json`: an `event`, and what belongs to it."""


class WorkersFailed(CxError):
    """A worker could not even start: its own words above say why. It would not start the next time either."""


@dataclass(slots=True)
class Restarts:
    """How long a worker that ended waits for its next start: longer each time in a row. Pure."""

    times: int = 0

    def pause_s(self, lived_s: float) -> float:
        """Seconds until the next start, after a life of `lived_s`."""
        if lived_s >= STEADY_S:
            self.times = 0
        pause_s = float(min(PAUSE_S_FIRST * 2**self.times, PAUSE_S_MAX))
        self.times = min(self.times + 1, 16)
        return pause_s


class Worker(Protocol):
    """One worker that runs."""

    async def fact(self) -> Facts | None:
        """What it tells next; None when it has nothing more to tell."""

    def drain(self) -> None:
        """Has it finish what it does, and end."""

    def leave(self) -> None:
        """Has it end at once."""

    async def wait(self) -> int:
        """Its exit status, once it has ended; negative for a signal."""


StartWorker = Callable[[int], AbstractAsyncContextManager[Worker]]
"""Starts the worker of a number, from 1. Leaving the block ends it, at once if it still runs."""


class Supervisor:
    """Keeps `count` workers running. `tell`: is told what each says, with its number."""

    def __init__(self, start: StartWorker, count: int, tell: Callable[[int, Facts], None], *, grace_s: float) -> None:
        self._start = start
        self._count = count
        self._tell = tell
        self._grace_s = grace_s
        self._stopping = trio.Event()
        self._running: dict[int, Worker] = {}
        self._served: set[int] = set()

    async def run(self, stopping: trio.Event) -> None:
        """Until `stopping` is set and every worker has drained, or was cut for taking too long.

        Raises WorkersFailed if one of them fails at its first start. Cancelled, it ends all at once.
        """
        async with trio.open_nursery() as nursery:
            for number in range(1, self._count + 1):
                nursery.start_soon(self._keep, number)
            await stopping.wait()
            self._stopping.set()
            for worker in self._running.values():
                worker.drain()
            nursery.cancel_scope.deadline = trio.current_time() + self._grace_s + CUT_S
        if nursery.cancel_scope.cancelled_caught:
            log.error("workers took longer than %g s to end, and were cut", self._grace_s + CUT_S)

    async def _keep(self, number: int) -> None:
        restarts = Restarts()
        while not self._stopping.is_set():
            began = trio.current_time()
            status = await self._live(number)
            if self._stopping.is_set():
                return
            if number not in self._served and status > 0:
                raise WorkersFailed(f"worker {number} did not start (exit status {status})")
            pause_s = restarts.pause_s(trio.current_time() - began)
            log.error("worker %d ended (exit status %d); it starts again in %g s", number, status, pause_s)
            with trio.move_on_after(pause_s):
                await self._stopping.wait()

    async def _live(self, number: int) -> int:
        """One life of a worker; its exit status."""
        async with self._start(number) as worker:
            self._running[number] = worker
            try:
                if self._stopping.is_set():
                    worker.drain()
                while (facts := await worker.fact()) is not None:
                    if facts.get("event") == "ready":
                        self._served.add(number)
                    self._tell(number, facts)
                return await worker.wait()
            finally:
                del self._running[number]


class _Process:
    """A worker that is a process. Its standard input ends with this process, however that ends."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._said = b""

    async def fact(self) -> Facts | None:
        assert self._process.stdout is not None
        while b"\n" not in self._said:
            part = await self._process.stdout.receive_some()
            if not part:
                return None
            self._said = self._said[:LINE_BYTES_MAX] + part
        line, _, self._said = self._said.partition(b"\n")
        return _facts(line)

    def drain(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def leave(self) -> None:
        self._process.send_signal(signal.SIGINT)

    async def wait(self) -> int:
        return await self._process.wait()


def _facts(line: bytes) -> Facts:
    try:
        facts = json.loads(line)
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) else {}


def processes(command: Callable[[int], Sequence[str]], descriptors: Sequence[int]) -> StartWorker:
    """Workers that are processes: `command` says how one is started; all inherit `descriptors`."""

    @asynccontextmanager
    async def start(number: int) -> AsyncIterator[Worker]:
        process = await trio.lowlevel.open_process(
            list(command(number)), stdin=PIPE, stdout=PIPE, pass_fds=tuple(descriptors), start_new_session=True
        )
        worker = _Process(process)
        try:
            yield worker
        finally:
            with trio.CancelScope(shield=True):
                if process.poll() is None:
                    worker.leave()
                    with trio.move_on_after(LEAVE_S):
                        await process.wait()
                if process.poll() is None:
                    process.kill()
                    await process.wait()
                for pipe in (process.stdin, process.stdout):
                    if pipe is not None:
                        await pipe.aclose()

    return start
