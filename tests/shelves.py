"""A memory with scripted models: what is loaded is counted, and nothing runs that is not loaded. For virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from cxp2p.errors import SettingsError
from cxp2p.records import Job, Piece, Usage
from cxp2p_node.engines import Counted, Emit
from cxp2p_node.engines.residency import BYTES_PER_S_GUESS, LOAD_S_LEAST
from cxp2p_node.engines.shelf import Loadable, Shelf, Shelved, open_shelf
from worlds import ScriptedEngine, capability, chat_job

LEAVE_S = 0.1


@dataclass
class Memory:
    """Fails the test that puts more into it than fits."""

    size: int
    held: int = 0
    most: int = 0
    history: list[tuple[float, str, str]] = field(default_factory=list)

    def take(self, size: int) -> None:
        self.held += size
        self.most = max(self.most, self.held)
        assert self.held <= self.size, "more models than memory"

    def note(self, what: str, name: str) -> None:
        self.history.append((trio.current_time(), what, name))

    def times(self, what: str, name: str) -> list[float]:
        return [at for at, noted, of in self.history if (noted, of) == (what, name)]


@dataclass
class Script:
    """One model in a `Memory`. Each loading takes one of `faults`, and fails with it unless it is ""."""

    memory: Memory
    name: str
    size: int = 1
    load_s: float = 1.0
    keep: bool = False
    idle_s: float | None = None
    faults: list[str] = field(default_factory=list)
    slots: int = 2
    queue_max: int = 100
    engine: ScriptedEngine = field(init=False)
    present: bool = False
    runs: int = 0

    def __post_init__(self) -> None:
        self.engine = _Checked(self, name=self.name, slots=self.slots, queue_max=self.queue_max)

    @property
    def loadable(self) -> Loadable:
        return Loadable(
            described=capability(self.name, slots=self.slots, queue_max=self.queue_max, runtime="guessed"),
            bytes_needed=self.size,
            file_bytes=round(max(0.0, self.load_s - LOAD_S_LEAST) * BYTES_PER_S_GUESS),
            open=self.open,
            keep=self.keep,
            idle_s=self.idle_s,
        )

    @asynccontextmanager
    async def open(self) -> AsyncIterator[ScriptedEngine]:
        self.memory.take(self.size)
        self.memory.note("loading", self.name)
        try:
            await trio.sleep(self.load_s)
            if self.faults and (fault := self.faults.pop(0)):
                self.memory.note("failed", self.name)
                raise SettingsError(fault)
            self.memory.note("loaded", self.name)
            self.present = True
            yield self.engine
            assert not self.runs, "unloaded in the middle of a job"
        finally:
            self.present = False
            with trio.CancelScope(shield=True):
                await trio.sleep(LEAVE_S)
            self.memory.note("gone", self.name)
            self.memory.held -= self.size


class _Checked(ScriptedEngine):
    """Fails the test that runs a job on a model that is not loaded."""

    def __init__(self, script: Script, *, name: str, slots: int, queue_max: int) -> None:
        super().__init__(name=name, slots=slots, queue_max=queue_max)
        self._script = script

    async def run(self, job: Job, seed: int, max_out: int, emit: Emit, counted: Counted) -> Usage:
        assert self._script.present, f"{self.name} is not loaded"
        self._script.runs += 1
        try:
            return await super().run(job, seed, max_out, emit, counted)
        finally:
            self._script.runs -= 1


@asynccontextmanager
async def shelf_of(memory: Memory, *scripts: Script) -> AsyncIterator[Shelf]:
    async with open_shelf([script.loadable for script in scripts], memory.size) as shelf:
        yield shelf


async def use(model: Shelved, words: int = 3) -> list[str]:
    """One job as the node does it: so many words, a tenth of a second each."""
    said: list[str] = []

    async def emit(piece: Piece) -> None:
        await trio.lowlevel.checkpoint()
        said.append(piece.text)

    async with model.taken():
        await model.run(chat_job("word " * words, model.resident.name), 1, words, emit, lambda units, cached: None)
    return said
