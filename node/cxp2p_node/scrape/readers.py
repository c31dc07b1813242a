"""A few processes that read pages. A page that takes too much ends its process and costs only itself."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import trio

from cxp2p.errors import RemoteProtocolError
from cxp2p.net.tasks import background
from cxp2p.records import PageFault
from cxp2p.wire import decode, encode
from cxp2p_node.processors import cores_usable
from cxp2p_node.scrape.fetched import FetchRefused
from cxp2p_node.scrape.reading import CPU_S_MAX, Read, Unread, frame

log = logging.getLogger("cxp2p.node.scrape")

READERS_MAX: Final = 16  # 40 MB each; one a core, up to here
WALL_S_MAX: Final = 30.0  # for CPU_S_MAX on a machine that has much else to do
START_S_MAX: Final = 30.0
SAID_BYTES_MAX: Final = 5 << 20  # of one page: more than any ScrapedPage has
READ_BYTES_MAX: Final = 1 << 17
MODULE: Final = "cxp2p_node.scrape.reading"
OOM_SCORE: Final = 900  # of 1000: they go before the workers that hold models


class Reads(Protocol):
    """Reads pages. `Readers` does, in processes; so does a test's twin."""

    async def read(self, unread: Unread) -> Read:
        """What a page says. Raises FetchRefused for one that takes too much."""
        ...


class _Ended(Exception):
    """The process is no more. `code`: its exit status."""

    def __init__(self, code: int | None) -> None:
        super().__init__(f"exit status {code}")
        self.code = code


@dataclass(slots=True)
class _Errand:
    """A page that is being read, and what came of it. Whoever wanted it may have left."""

    unread: Unread
    done: trio.Event = field(default_factory=trio.Event)
    read: Read | None = None
    refused: FetchRefused | None = None


class Readers:
    """`Reads` in processes, which start when they are needed. Made by `open_readers`."""

    def __init__(self, count: int, nursery: trio.Nursery) -> None:
        self.count = count
        self._nursery = nursery
        self._idle: list[_Reader] = []
        self._turns = trio.Semaphore(count)
        self._all: set[_Reader] = set()

    def __repr__(self) -> str:
        return f"<Readers {len(self._idle)} of {self.count} idle>"

    @property
    def pids(self) -> tuple[int, ...]:
        """Of the processes that run now."""
        return tuple(reader.pid for reader in self._all)

    async def read(self, unread: Unread) -> Read:
        await self._turns.acquire()
        errand = _Errand(unread)
        self._nursery.start_soon(self._run, errand)  # not left half done by a cancel: that would cost a process
        await errand.done.wait()
        if errand.refused is not None:
            raise errand.refused
        assert errand.read is not None
        return errand.read

    async def _run(self, errand: _Errand) -> None:
        try:
            errand.read = await self._read(errand.unread)
        except FetchRefused as refused:
            errand.refused = refused
        finally:
            self._turns.release()
            errand.done.set()

    async def _read(self, unread: Unread) -> Read:
        """By an idle process or by a new one. One that was killed by others is not the page's fault: it has two."""
        data = frame(encode(unread))
        for last in (False, True):
            reader = await self._taken()
            try:
                read = await reader.ask(data)
            except _Ended as ended:
                await self._end(reader)
                if ended.code:  # not one that had read its last page
                    log.warning("a reader of pages ended (%s) at %s", ended, unread.url)
                if last or ended.code == -signal.SIGPROF:
                    raise _too_much(ended.code) from None
            except BaseException:
                await self._end(reader)
                raise
            else:
                self._idle.append(reader)
                return read
        raise AssertionError("the second one says something")

    async def _taken(self) -> _Reader:
        """A process that is ready. Raises FetchRefused if none can be started."""
        while self._idle:
            reader = self._idle.pop()
            if reader.runs:
                return reader
            await self._end(reader)
        try:
            reader = await _start()
        except OSError as error:
            log.error("no reader of pages can be started: %s", error.strerror)
            raise _out_of_order() from None
        self._all.add(reader)
        try:
            await reader.until_ready()
        except _Ended as ended:
            await self._end(reader)
            log.error("a reader of pages does not start (%s)", ended)
            raise _out_of_order() from None
        except BaseException:
            await self._end(reader)
            raise
        return reader

    async def _end(self, reader: _Reader) -> None:
        await reader.end()
        self._all.discard(reader)

    async def close(self) -> None:
        """Ends all processes."""
        for reader in tuple(self._all):
            await self._end(reader)


class _Reader:
    """One process, and what it has said so far."""

    def __init__(self, process: trio.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process, self._in, self._out = process, process.stdin, process.stdout
        self._buffer = bytearray()
        self.pid = process.pid

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    async def until_ready(self) -> None:
        """Raises _Ended if it does not start."""
        with trio.move_on_after(START_S_MAX):
            await self._hear()
            return
        raise _Ended(None)

    async def ask(self, data: bytes) -> Read:
        """Hands it a page, and hears what it says. Raises _Ended, with SIGPROF if it took too long."""
        try:
            with trio.move_on_after(WALL_S_MAX):
                with suppress(trio.BrokenResourceError):
                    await self._in.send_all(data)
                return decode(Read, await self._hear())
        except RemoteProtocolError as error:
            log.error("a reader of pages said what it may not: %s", error)
            raise _Ended(None) from None
        raise _Ended(-signal.SIGPROF)

    async def _hear(self) -> bytes:
        """One frame. Raises _Ended, RemoteProtocolError."""
        heard = self._buffer
        while len(heard) < 4 or len(heard) - 4 < int.from_bytes(heard[:4], "big"):
            if len(heard) >= 4 and int.from_bytes(heard[:4], "big") > SAID_BYTES_MAX:
                raise RemoteProtocolError("a frame that is too long")
            data = await self._out.receive_some(READ_BYTES_MAX)
            if not data:
                raise _Ended(await self._process.wait())
            heard += data
        size = 4 + int.from_bytes(heard[:4], "big")
        body = bytes(heard[4:size])
        del heard[:size]
        return body

    async def end(self) -> None:
        """Kills the process and waits for its end."""
        with trio.CancelScope(shield=True):
            self._process.kill()
            await self._process.wait()
            await trio.aclose_forcefully(self._in)
            await trio.aclose_forcefully(self._out)


async def _start() -> _Reader:
    """Its own session: Ctrl-C in the terminal is for the node. What it says of its faults may hold strangers' words."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", MODULE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    _hold_back(process.pid)
    return _Reader(process)


def _hold_back(pid: int) -> None:
    """When memory runs out the system should kill this process, if it can be told so."""
    with suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text(str(OOM_SCORE))


def _too_much(code: int | None) -> FetchRefused:
    if code == -signal.SIGPROF:
        return FetchRefused(PageFault.TIMEOUT, f"reading the page takes longer than {CPU_S_MAX:g} s")
    return FetchRefused(PageFault.TOO_LARGE, "the page cannot be read in the memory that there is for it")


def _out_of_order() -> FetchRefused:
    return FetchRefused(PageFault.EXTRACTION_EMPTY, "the page cannot be read now")


@asynccontextmanager
async def open_readers(count: int | None = None) -> AsyncIterator[Readers]:
    """`Reads` for as long as the block runs, in `count` processes; one a core if that is not given."""
    async with background() as nursery:
        readers = Readers(count or max(1, min(READERS_MAX, round(cores_usable()))), nursery)
        try:
            yield readers
        finally:
            nursery.cancel_scope.cancel()
            await readers.close()
