"""Checks answers in processes of their own: some schemas take for ever, and what the checker cannot take ends it."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

import trio

from cxp2p_gateway.schemas import CheckerDown, Uncheckable
from cxp2p_gateway.schemas.worker import READY

log = logging.getLogger("cxp2p.schemas")

WORKERS_MAX: Final = 2  # 25 MB each; a check takes well under a millisecond, so more would never be busy
CHECK_S_MAX: Final = 1.0
START_S_MAX: Final = 10.0  # Python and the library load in 0.2 s, on a machine that is not busy
READ_BYTES_MAX: Final = 1 << 16


class Broken(Exception):
    """The process ended by itself."""


class Apart:
    """`Schemas` in worker processes, which start when they are needed. Made by `open_schemas`."""

    def __init__(self) -> None:
        self._idle: list[_Worker] = []
        self._turns = trio.CapacityLimiter(WORKERS_MAX)

    def __repr__(self) -> str:
        return f"<Apart {len(self._idle)} idle>"

    async def refusal(self, schema: str) -> str:
        try:
            return await self._ask(schema, None)
        except Uncheckable as error:
            return str(error)

    async def breach(self, schema: str, answer: str) -> str:
        return await self._ask(schema, answer)

    async def _ask(self, schema: str, answer: str | None) -> str:
        """One check; raises Uncheckable, CheckerDown. It is never left half done: that would cost a worker."""
        line = json.dumps([schema, answer]).encode() + b"\n"
        async with self._turns:
            with trio.CancelScope(shield=True):
                while self._idle:
                    with suppress(Broken):  # somebody killed an idle one: that is not the schema's fault
                        return await self._ask_one(self._idle.pop(), line)
                try:
                    return await self._ask_one(await _start(), line)
                except Broken:
                    log.warning("a schema ended its checker")
                    raise _out_of_reach() from None

    async def _ask_one(self, worker: _Worker, line: bytes) -> str:
        """One check by this worker, which is idle then, or ended. Raises Uncheckable, Broken."""
        said: str | None = None
        try:
            with trio.move_on_after(CHECK_S_MAX):
                said = json.loads(await worker.ask(line))
        finally:
            if said is None:
                await worker.end()
        if said is None:
            raise _out_of_reach()
        self._idle.append(worker)
        return said

    async def close(self) -> None:
        """Ends all workers."""
        while self._idle:
            await self._idle.pop().end()


class _Worker:
    """One process, and what it has said so far."""

    def __init__(self, process: trio.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process, self._in, self._out = process, process.stdin, process.stdout
        self._buffer = bytearray()

    async def ask(self, line: bytes) -> bytes:
        """Says a line and hears one. Raises Broken."""
        try:
            await self._in.send_all(line)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise Broken from None
        return await self.hear()

    async def hear(self) -> bytes:
        """The next line. Raises Broken."""
        while (end := self._buffer.find(b"\n")) < 0:
            data = await self._out.receive_some(READ_BYTES_MAX)
            if not data:
                raise Broken
            self._buffer += data
        line = bytes(self._buffer[: end + 1])
        del self._buffer[: end + 1]
        return line

    async def end(self) -> None:
        """Kills the process and waits for its end."""
        with trio.CancelScope(shield=True):
            self._process.kill()
            await self._process.wait()
            await trio.aclose_forcefully(self._in)
            await trio.aclose_forcefully(self._out)


def _out_of_reach() -> Uncheckable:
    return Uncheckable(f"an answer cannot be checked against it in {CHECK_S_MAX:g} s")


async def _start() -> _Worker:
    """A worker that is ready. Raises CheckerDown."""
    command = [sys.executable, "-m", "cxp2p_gateway.schemas.worker"]
    try:
        process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    except OSError as error:
        log.error("the checker of schemas cannot be started: %s", error.strerror)
        raise CheckerDown("it cannot be started") from None
    worker = _Worker(process)
    with suppress(Broken), trio.move_on_after(START_S_MAX):
        if await worker.hear() == READY:
            return worker
    await worker.end()
    log.error("the checker of schemas was not ready in %g s", START_S_MAX)
    raise CheckerDown("it is not ready")


@asynccontextmanager
async def open_schemas() -> AsyncIterator[Apart]:
    """`Schemas` for as long as the block runs."""
    schemas = Apart()
    try:
        yield schemas
    finally:
        await schemas.close()
