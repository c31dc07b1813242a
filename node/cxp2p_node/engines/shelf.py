"""Several models on one node: loads and unloads them as `residency` says, and keeps their jobs waiting meanwhile."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace

import trio

from cxp2p.errors import CxError, JobFailed
from cxp2p.net.tasks import background
from cxp2p.records import Capability, FailureCode, Job, Usage
from cxp2p_node.engines import Counted, Emit, Engine
from cxp2p_node.engines.residency import (
    MIB,
    Plan,
    Resident,
    State,
    first_loads,
    guess_load_s,
    plan,
    ready_in_s,
    retry_at,
    wanted_since,
)

log = logging.getLogger("cxp2p.node.shelf")

WAIT_S_MAX = 110.0  # an asker leaves a node that says nothing for two minutes

Room = Callable[[int], int]
"""Takes the bytes that the models in memory need, and says how many all together may have now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loadable:
    """A model that can stand on a shelf. `described` is what it offers, known without loading it."""

    described: Capability
    bytes_needed: int
    file_bytes: int
    open: Callable[[], AbstractAsyncContextManager[Engine]]
    keep: bool = False
    idle_s: float | None = None


@dataclass(slots=True, eq=False)
class _Wait:
    """A job that waits for its model."""

    since: float
    over: trio.Event = field(default_factory=trio.Event)
    taken: bool = False
    fault: str = ""


class Shelved:
    """One model of a shelf as the node's other parts see it: an engine that is loaded when jobs take it."""

    def __init__(self, shelf: Shelf, loadable: Loadable) -> None:
        self._shelf = shelf
        self.loadable = loadable
        self.resident = Resident(
            name=loadable.described.model,
            bytes_needed=loadable.bytes_needed,
            load_s=guess_load_s(loadable.file_bytes),
            keep=loadable.keep,
            idle_s=math.inf if loadable.idle_s is None else loadable.idle_s,
        )
        self.described = loadable.described
        self.engine: Engine | None = None
        self.fault = ""  # why the last loading failed
        self.waits: list[_Wait] = []
        self.leave = trio.Event()
        self.changed: Callable[[], None] = lambda: None

    @property
    def loaded(self) -> bool:
        """Whether the model is in memory, and its engine at work."""
        return self.engine is not None and self.engine.ready

    @property
    def ready(self) -> bool:
        """False while nobody can say that it can be loaded: it failed, or its worker ended and is not back."""
        return self.resident.state is not State.FAILED and (self.engine is None or self.engine.ready)

    def on_change(self, call: Callable[[], None]) -> None:
        self.changed = call

    def describe(self) -> Capability:
        self.remember()
        return replace(self.described, load=replace(self.described.load, loading_ms=self._shelf.loading_ms(self)))

    def remember(self) -> None:
        """What a loaded engine says of itself is offered also when it is not loaded."""
        if self.engine is not None:
            self.described = self.engine.describe()

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """Keeps the model in memory while the block runs, after loading it if it is not there. Raises JobFailed."""
        await self._shelf.take(self)
        try:
            yield
        finally:
            self._shelf.give_back(self)

    def wish(self) -> None:
        """A job was sent away because it would have waited too long: it should not when it comes again."""
        self._shelf.wish(self)

    async def run(self, job: Job, seed: int, max_out: int, emit: Emit, counted: Counted) -> Usage:
        if self.engine is None:
            raise JobFailed(FailureCode.ENGINE_DIED, f"{self.resident.name} is not in memory any more")
        return await self.engine.run(job, seed, max_out, emit, counted)


class Shelf:
    """All models of a node that need memory. Made by `open_shelf`."""

    def __init__(self, loadables: Sequence[Loadable], bytes_max: int, room: Room | None, nursery: trio.Nursery) -> None:
        self.models = tuple(Shelved(self, loadable) for loadable in loadables)
        self.bytes_max = bytes_max
        self._room = room
        self._nursery = nursery
        self._residents = tuple(model.resident for model in self.models)
        self._of = {model.resident: model for model in self.models}
        self._plan = Plan((), (), frozenset(), math.inf)
        self._news = trio.Event()
        self._replanned = trio.Event()

    # What the node's other parts ask.

    def loading_ms(self, model: Shelved) -> int:
        """How long until the model is in memory and takes a job, as far as can be told; 0: now."""
        closed, now = self._plan.closed, trio.current_time()
        left_s = ready_in_s(model.resident, self._residents, self.bytes_max, closed, now)
        return math.ceil(left_s * 1000)

    async def take(self, model: Shelved) -> None:
        """Waits until the model is in memory, and keeps it there until `give_back`. Raises JobFailed."""
        wait = _Wait(trio.current_time())
        model.waits.append(wait)
        self.step()
        try:
            with trio.move_on_after(WAIT_S_MAX):
                await wait.over.wait()
        except trio.Cancelled:
            if wait.taken:
                self.give_back(model)
            raise
        finally:
            if wait in model.waits:
                model.waits.remove(wait)
                self.step()
        if not wait.taken:
            fault = wait.fault or f"{model.resident.name} could not be loaded within {WAIT_S_MAX:g} s"
            raise JobFailed(FailureCode.ENGINE_DIED, fault)

    def give_back(self, model: Shelved) -> None:
        """A job that had taken the model has ended."""
        model.resident.takers -= 1
        model.resident.used_at = trio.current_time()
        self.step()

    def wish(self, model: Shelved) -> None:
        """The model should be loaded for a job that may come again."""
        if model.resident.state is not State.LOADED or model.resident.name in self._plan.closed:
            model.resident.wished_at = trio.current_time()
            self.step()

    async def settled(self) -> None:
        """Returns when nothing is being loaded. What is still due then waits for memory that others have."""
        self.step()
        while any(each.state is State.LOADING for each in self._residents):
            await self._news.wait()

    # Doing what the rules say.

    async def run(self) -> None:
        """Looks again when time alone changes what is to be done; ends only by cancellation."""
        while True:
            self.step()
            replanned = self._replanned
            with trio.move_on_at(self._plan.wake_at) as patience:
                await replanned.wait()
            if patience.cancelled_caught:
                self._tell()

    def step(self) -> None:
        """Plans anew, and does it. To be called after everything that changes what the plan depends on."""
        now = trio.current_time()
        for model in self.models:
            model.resident.waiting = [wait.since for wait in model.waits]
        before = self._plan
        self._plan = plan(self._residents, self._bytes_allowed(), now)
        for resident in self._plan.load:
            resident.enter(State.LOADING, now)
            log.info("loading %s: %d MiB", resident.name, resident.bytes_needed // MIB)
            self._nursery.start_soon(self._live, self._of[resident])
        for resident in self._plan.unload:
            resident.enter(State.LEAVING, now)
            log.info("unloading %s", resident.name)
            self._of[resident].remember()
            self._of[resident].engine = None
            self._of[resident].leave.set()
        for model in self.models:
            if model.resident.state is State.LOADED and model.resident.name not in self._plan.closed:
                self._let_in(model)
        if self._plan.load or self._plan.unload or self._plan.closed != before.closed:
            self._tell()
        if self._plan.wake_at != before.wake_at:
            self._replanned.set()
            self._replanned = trio.Event()

    def _let_in(self, model: Shelved) -> None:
        for wait in model.waits:
            wait.taken = True
            wait.over.set()
            model.resident.takers += 1
        model.waits.clear()
        model.resident.waiting.clear()

    def _bytes_allowed(self) -> int:
        """What the models may have now: less than at the start if other programs have taken it."""
        now = trio.current_time()
        if self._room is None or all(wanted_since(each, now) is None for each in self._residents):
            return self.bytes_max
        held = sum(each.bytes_needed for each in self._residents if each.state in (State.LOADED, State.LEAVING))
        return min(self.bytes_max, self._room(held))

    async def _live(self, model: Shelved) -> None:
        """One stay of a model in memory, from loading to unloading."""
        begun = trio.current_time()
        model.leave = trio.Event()
        try:
            async with model.loadable.open() as engine:
                self._enter(model, engine, begun)
                await model.leave.wait()
        except (CxError, OSError) as error:
            model.engine = None
            self._fail(model, str(error))
        else:
            model.resident.enter(State.ABSENT, trio.current_time())
        self.step()
        self._tell()

    def _enter(self, model: Shelved, engine: Engine, begun: float) -> None:
        now = trio.current_time()
        model.engine, model.fault = engine, ""
        model.resident.load_s = now - begun
        model.resident.enter(State.LOADED, now)
        engine.on_change(lambda: model.changed())
        log.info("%s is loaded after %.1f s", model.resident.name, now - begun)
        self._let_in(model)  # whoever waited gets it, whatever else is wanted by now
        self.step()
        self._tell()

    def _fail(self, model: Shelved, fault: str) -> None:
        now = trio.current_time()
        model.fault = fault
        model.resident.enter(State.FAILED, now)
        again_s = retry_at(model.resident) - now
        log.error("%s; it is not offered, and tried again in %.0f s", fault, again_s)
        for wait in model.waits:
            wait.fault = fault
            wait.over.set()
        model.waits.clear()

    def _tell(self) -> None:
        """One model's change may be another one's longer wait."""
        self._news.set()
        self._news = trio.Event()
        for model in self.models:
            model.changed()


@asynccontextmanager
async def open_shelf(loadables: Sequence[Loadable], bytes_max: int, room: Room | None = None) -> AsyncIterator[Shelf]:
    """A shelf for as long as the block runs. Entered when every model that fits is loaded, or could not be.

    Raises SettingsError if there is a model that can never be loaded.
    """
    async with background() as nursery:
        shelf = Shelf(loadables, bytes_max, room, nursery)
        for resident in first_loads([model.resident for model in shelf.models], bytes_max):
            resident.due = True
        nursery.start_soon(shelf.run)
        await shelf.settled()
        yield shelf
