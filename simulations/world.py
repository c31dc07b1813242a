"""A world of discrete events: one heap, one seed, virtual time. Two runs of one seed are the same, byte for byte."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from heapq import heappop, heappush
from random import Random
from struct import Struct
from typing import Any, Protocol, TypeAlias

Act: TypeAlias = Callable[..., Any]

TRACE_BYTES_MAX = 64 * 1024  # hashed and forgotten when there are so many
_EVENT = Struct("<dQ")


class Watched(Protocol):
    """What an event may have changed, and what has to hold of it afterwards."""

    def faults(self) -> list[str]:
        """What is wrong with it now, in words; nothing, if all is as it must be."""


class BrokenInvariant(AssertionError):
    """Something that must always hold did not. The message says what, of which seed, and at which event."""


class World:
    """Virtual time, the events to come, and where every chance comes from.

    `now` is in seconds and begins at 0. An event is a call: it may change things, and ask for more events. After each
    one, whatever was passed to `touch` has to be without faults, or BrokenInvariant is raised.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.now = 0.0
        self.events = 0
        self._heap: list[tuple[float, int, Act, tuple[Any, ...]]] = []
        self._order = 0
        self._cancelled: set[int] = set()
        self._rngs: dict[str, Random] = {}
        self._touched: dict[int, Watched] = {}
        self._trace = bytearray()
        self._hash = sha256()

    def __repr__(self) -> str:
        return f"<World seed {self.seed} at {self.now:.3f} s, {self.events} events, {len(self._heap)} to come>"

    # Chance.

    def rng(self, purpose: str) -> Random:
        """The generator of one purpose, made from the seed and its name: what others draw does not shift it."""
        rng = self._rngs.get(purpose)
        if rng is None:
            drawn = sha256(f"{self.seed} {purpose}".encode()).digest()
            rng = self._rngs[purpose] = Random(int.from_bytes(drawn, "big"))
        return rng

    # Time.

    def at(self, time: float, act: Act, *arguments: Any) -> int:
        """Calls `act` at `time`; of two at the same time the first that was asked for comes first.

        Returns what `cancel` takes. Raises ValueError for a time that is over.
        """
        if time < self.now:
            raise ValueError(f"an event at {time!r} s cannot be: it is {self.now!r} s already")
        self._order += 1
        heappush(self._heap, (time, self._order, act, arguments))
        return self._order

    def after(self, delay_s: float, act: Act, *arguments: Any) -> int:
        """Calls `act` in `delay_s`."""
        return self.at(self.now + delay_s, act, *arguments)

    def cancel(self, event: int) -> None:
        """An event that is still to come does not happen. It must not have happened yet."""
        self._cancelled.add(event)

    def run(self, until: float) -> None:
        """Does every event up to and including the time `until`. Raises BrokenInvariant."""
        heap, cancelled, trace, pack = self._heap, self._cancelled, self._trace, _EVENT.pack
        while heap and heap[0][0] <= until:
            time, order, act, arguments = heappop(heap)
            if cancelled and order in cancelled:
                cancelled.remove(order)
                continue
            if time < self.now:
                raise BrokenInvariant(f"time ran back from {self.now!r} s to {time!r} s (seed {self.seed})")
            self.now = time
            self.events += 1
            trace += pack(time, order)
            act(*arguments)
            if self._touched:
                self.check()
            if len(trace) > TRACE_BYTES_MAX:
                self._fold()
        self.now = max(self.now, until)

    # What must hold.

    def touch(self, thing: Watched) -> None:
        """This event changes `thing`: it is looked at when the event is over."""
        self._touched[id(thing)] = thing

    def check(self) -> None:
        """Looks at everything that was touched. Raises BrokenInvariant."""
        touched, self._touched = self._touched, {}
        for thing in touched.values():
            faults = thing.faults()
            if faults:
                where = f"seed {self.seed}, at {self.now:.6f} s, event {self.events}"
                raise BrokenInvariant(f"{'; '.join(faults)} ({where})")

    # What happened.

    def note(self, fact: str) -> None:
        """Makes a fact part of the trace, so that two runs with another result have another digest."""
        self._trace += fact.encode()

    def digest(self) -> str:
        """SHA-256 over all events and facts so far."""
        self._fold()
        return self._hash.hexdigest()

    def _fold(self) -> None:
        self._hash.update(self._trace)
        self._trace.clear()
