"""A worker process that is started again whenever it ends, and the jobs that run in it."""

from __future__ import annotations

import logging
import math
import os
import resource
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import MappingProxyType

import trio

from cxp2p.errors import JobFailed, RemoteProtocolError, SettingsError
from cxp2p.net.tasks import background
from cxp2p.records import FailureCode, Finish, Usage
from cxp2p.units import units_of
from cxp2p_node.engines import Counted as CountedCall
from cxp2p_node.engines import Emit
from cxp2p_node.engines.frames import (
    Alive,
    Counted,
    Credit,
    Done,
    Failed,
    Frames,
    Loaded,
    Made,
    Message,
    Start,
    Stop,
    Unfit,
    pack,
)
from cxp2p_node.engines.last_words import LastWords

log = logging.getLogger("cxp2p.node.worker")

PIECES_ON_THE_WAY = 32  # a job whose reader is slow pauses in the worker after so many
RESTART_S_FIRST = 0.2
RESTART_S_MAX = 30.0
STEADY_S = 60.0  # a worker that lived so long starts the back-off anew
READY_WAIT_S = 3.0  # a restart with a small model takes about a second
LEAVE_S = 1.0
SEND_S = 5.0
READ_BYTES_MAX = 1 << 16
LOAD_S_MAX = 1800.0  # tens of gigabytes from a slow disk
OOM_SCORE = 800  # of -1000 to 1000: a worker goes before all else when memory runs out; its jobs move on
# Threads that compute together spin while they wait for each other. Where other programs want the cores too, two that
# spin as long as they would by default take 20 times as long as they need; so short they lose nothing where none do.
ENVIRONMENT = MappingProxyType({"GOMP_SPINCOUNT": "300"})
SILENT_S_MAX = 180.0  # a worker beats every few seconds, between decodes: longer than any decode that is of use


def restart_pause_s(failures: int) -> float:
    """How long to wait before the start after so many short lives in a row."""
    return min(RESTART_S_FIRST * 2.0 ** min(failures, 16), RESTART_S_MAX)


class Worker:
    """A supervised worker. Made by `open_worker`. It may map at most `address_bytes_max` bytes, if that is given."""

    def __init__(self, name: str, command: Sequence[str], address_bytes_max: int | None = None) -> None:
        self.name = name
        self.loaded: Loaded | None = None
        self.pid: int | None = None
        self._command = tuple(command)
        self._address_bytes_max = address_bytes_max
        self._given_up = ""  # why we killed the process
        self._changed: Callable[[], None] = lambda: None
        self._news = trio.Event()
        self._jobs: dict[int, trio.MemorySendChannel[Message]] = {}
        self._numbers = 0
        self._process: trio.Process | None = None
        self._sending = trio.Lock()

    @property
    def ready(self) -> bool:
        return self.loaded is not None

    def on_change(self, call: Callable[[], None]) -> None:
        self._changed = call

    async def until_ready(self, patience_s: float = READY_WAIT_S) -> None:
        """Raises JobFailed(ENGINE_DIED) if the worker is not back in time."""
        with trio.move_on_after(patience_s):
            while not self.ready:
                await self._news.wait()
            return
        raise JobFailed(FailureCode.ENGINE_DIED, f"the worker of {self.name} is not running")

    async def run(self, request: bytes, seed: int, max_out: int, emit: Emit, counted: CountedCall) -> Usage:
        """One job, as `Engine.run`. Raises JobFailed, with ENGINE_DIED when the process ends under it."""
        await self.until_ready()
        self._numbers += 1
        number = self._numbers
        # The worker never has more on the way than the credit; the rest is for Counted, Done and the last piece.
        inbox, messages = trio.open_memory_channel[Message](PIECES_ON_THE_WAY + 4)
        self._jobs[number] = inbox
        try:
            start = Start(job=number, request=request, seed=seed, max_out=max_out, credit=PIECES_ON_THE_WAY)
            await self._send(start)
            usage = await self._follow(start, messages, emit, counted)
            self._jobs.pop(number, None)  # the worker may have ended meanwhile
            return usage
        finally:
            if self._jobs.pop(number, None) is not None:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + LEAVE_S), suppress(JobFailed):
                    await self._send(Stop(job=number))
            messages.close()

    async def _follow(
        self, start: Start, messages: trio.MemoryReceiveChannel[Message], emit: Emit, counted: CountedCall
    ) -> Usage:
        number, in_units, cached_units, out_units, taken = start.job, 0, 0, 0, 0
        async for message in messages:
            match message:
                case Counted():
                    in_units, cached_units = message.in_units, message.cached_units
                    counted(in_units, cached_units)
                case Made():
                    out_units += units_of(message.piece)
                    if out_units > start.max_out:
                        reason = f"the worker of {self.name} made more than the {start.max_out} units ordered"
                        raise JobFailed(FailureCode.INTERNAL, reason)
                    await emit(message.piece)
                    taken += 1
                    if taken * 2 >= PIECES_ON_THE_WAY:
                        await self._send(Credit(job=number, pieces=taken))
                        taken = 0
                case Done():
                    return Usage(
                        in_units=in_units, cached_units=cached_units, out_units=out_units, finish=Finish(message.finish)
                    )
                case Failed():
                    self._jobs.pop(number, None)
                    raise JobFailed(message.code, message.reason, message.limit, message.actual)
        self._jobs.pop(number, None)
        raise JobFailed(FailureCode.ENGINE_DIED, f"the worker of {self.name} ended in the middle of the job")

    async def _send(self, message: Message) -> None:
        """One frame to the worker. A cancel in the middle would break the pipe's framing, so it waits."""
        process = self._process
        if process is None or process.stdin is None:
            raise JobFailed(FailureCode.ENGINE_DIED, f"the worker of {self.name} is not running")
        async with self._sending:
            try:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + SEND_S) as patience:
                    await process.stdin.send_all(pack(message))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                reason = f"the worker of {self.name} ended"
                raise JobFailed(FailureCode.ENGINE_DIED, reason) from None
        if patience.cancelled_caught:
            self._given_up = "it did not listen, and was killed"  # half a frame is in its pipe
            process.kill()
            raise JobFailed(FailureCode.ENGINE_DIED, f"the worker of {self.name} does not listen")

    # Supervision.

    async def supervise(self) -> None:
        """Keeps a process running; ends only by cancellation, or with SettingsError if the first one never loads."""
        failures, ever = 0, False
        while True:
            begun = trio.current_time()
            ending = await self._live()
            ever = ever or (ending.was_loaded and not ending.broke_off)
            # One that is killed while it loads has hardly room enough: to try again at once would only harm the others.
            if not ever and (ending.unfit or ending.was_killed or failures >= 2):
                raise SettingsError(f"{self.name} cannot be loaded: {ending.unfit or ending.how}")
            failures = 0 if trio.current_time() - begun > STEADY_S else failures + 1
            pause_s = restart_pause_s(failures - 1)
            log.error("the worker of %s ended (%s); starting it again in %.1f s", self.name, ending.how, pause_s)
            await trio.sleep(pause_s)

    async def _live(self) -> _Ending:
        """One life of the process, from start to end."""
        ending = _Ending()
        try:
            # Its own session: Ctrl-C in the terminal is for the node, which then stops its workers.
            process = await trio.lowlevel.open_process(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                env={**ENVIRONMENT, **os.environ},
            )
        except OSError as error:  # no files, processes or memory left, which may pass
            ending.how = f"it cannot be started: {error.strerror or error}"
            return ending
        self.pid = process.pid
        _hold_back(process.pid, self._address_bytes_max)
        words = LastWords()
        async with background() as hearing:
            assert process.stderr is not None
            hearing.start_soon(words.hear, process.stderr)
            heeded = await self._until_its_end(process, ending)
            with trio.move_on_after(LEAVE_S):  # a process that it started may have its standard error
                await words.over.wait()
        blamed, self._given_up = self._given_up, ""
        if not ending.how:
            said = words.said(trio.current_time())
            ending.how = blamed or (
                describe_exit(process.returncode, said) if heeded else "it closed its pipe and stayed"
            )
            ending.was_killed = heeded and not blamed and process.returncode == -signal.SIGKILL
        return ending

    async def _until_its_end(self, process: trio.Process, ending: _Ending) -> bool:
        """Hears what the process has to say, and sees it off. Whether it left by itself."""
        try:
            await self._listen(process, ending)
        except RemoteProtocolError as error:
            ending.broke_off = True
            ending.how = f"it broke the pipe's protocol: {error}"
        except trio.BrokenResourceError as error:
            ending.how = f"its pipe broke: {error}"
        finally:
            self._process, self.loaded, self.pid = None, None, None
            for inbox in self._jobs.values():
                inbox.close()
            self._jobs.clear()
            self._tell()
            with trio.CancelScope(shield=True):
                heeded = await _finish(process)
        return heeded

    async def _listen(self, process: trio.Process, ending: _Ending) -> None:
        assert process.stdout is not None
        frames = Frames()
        heard_at = trio.current_time()
        while True:
            patience_s = SILENT_S_MAX if self.ready else LOAD_S_MAX
            with trio.move_on_at(heard_at + patience_s) as patience:
                data = await process.stdout.receive_some(READ_BYTES_MAX)
            if patience.cancelled_caught:
                process.kill()
                raise RemoteProtocolError(f"it said nothing whole for {patience_s:g} s")
            if not data:
                return
            messages = frames.feed(data)
            if messages:
                heard_at = trio.current_time()
            for message in messages:
                match message:
                    case Loaded() if not self.ready:
                        self._process, self.loaded, ending.was_loaded = process, message, True
                        self._tell()
                    case Unfit(reason=reason):
                        ending.unfit = reason
                    case Alive():
                        pass
                    case Counted(job=number) | Made(job=number) | Done(job=number) | Failed(job=number):
                        self._deliver(number, message)
                    case _:
                        raise RemoteProtocolError(f"{type(message).__name__} is not for the node now")

    def _deliver(self, number: int, message: Message) -> None:
        inbox = self._jobs.get(number)  # none: the job was stopped meanwhile
        if inbox is None:
            return
        try:
            inbox.send_nowait(message)
        except trio.WouldBlock:
            raise RemoteProtocolError(f"job {number} got more pieces than its credit") from None
        except trio.BrokenResourceError:
            log.debug("job %d was left while a piece was on its way", number)

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()
        self._changed()


class _Ending:
    """How one life of the process went."""

    was_loaded = False
    was_killed = False  # by others
    broke_off = False  # what it said was no protocol: perhaps in the breath that said it is loaded, unseen by anybody
    unfit = ""
    how = ""


async def _finish(process: trio.Process) -> bool:
    """Closes its input, which ends it, and kills it if it does not heed. Whether it did."""
    if process.stdin is not None:
        await process.stdin.aclose()
    with trio.move_on_after(LEAVE_S):
        await process.wait()
    heeded = process.returncode is not None
    if not heeded:
        process.kill()
        await process.wait()
    if process.stdout is not None:
        await process.stdout.aclose()
    return heeded


def _hold_back(pid: int, address_bytes_max: int | None) -> None:
    """When memory runs out the system should kill this process, not the node, if it can be told so."""
    with suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text(str(OOM_SCORE))
    with suppress(ProcessLookupError):
        if address_bytes_max is not None:
            resource.prlimit(pid, resource.RLIMIT_AS, (address_bytes_max, address_bytes_max))


def describe_exit(code: int | None, said: str = "") -> str:
    """An exit status in words. `said`: by the process itself, at last; it knows nothing of being killed by others."""
    if code == -signal.SIGKILL:
        return "killed by SIGKILL (out of memory?)"
    if code is None or code >= 0:
        how = f"exit code {code}"
    elif -code in set(signal.Signals):
        how = f"killed by {signal.Signals(-code).name}"
    else:
        how = f"killed by signal {-code}"
    return f"{how}: {said}" if said else how


@asynccontextmanager
async def open_worker(
    name: str, module: str, arguments: Sequence[str] = (), address_bytes_max: int | None = None
) -> AsyncIterator[Worker]:
    """Runs `python -m MODULE ARGUMENTS` as a supervised worker for as long as the block runs.

    Entered when it is loaded. Raises SettingsError if it cannot be loaded at all. `address_bytes_max`: what it may map.
    """
    worker = Worker(name, (sys.executable, "-m", module, *arguments), address_bytes_max)
    async with background() as nursery:
        nursery.start_soon(worker.supervise)
        await worker.until_ready(math.inf)
        yield worker
