"""Which inputs go through an embedding model together: several jobs at once, each with up to thousands. Pure.

A pack is computed at once, and every input in it whole. A small one costs as much as a larger one nearly, a large one
keeps the others waiting; so it is filled up to a goal that takes about PACK_S_GOAL, and an input that is larger goes
alone. The next pack begins with the job that had least so far, so that a short job is not behind a long one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

PACK_S_GOAL = 0.05  # what a new job waits for at most, with what it waits for at least
PACK_UNITS_MIN = 64  # less is slow for what it does
PACK_INPUTS_MAX = 63  # more do not make it quicker, even if they are short
WINDOW = 64  # inputs of a job that are sorted by size: its vectors are sent in order, so they may not end too late
WEIGHT = 0.3


class Pick(NamedTuple):
    """The input at a place of a job, and its size."""

    job: int
    place: int
    units: int


@dataclass(slots=True)
class _Job:
    """`window` holds sizes and places of the inputs that are next, the smallest first; `had` is its share so far."""

    number: int
    sizes: Sequence[int]
    had: int
    begun: int = 0
    window: list[tuple[int, int]] = field(default_factory=list)
    paused: bool = False

    def refill(self) -> None:
        if not self.window and self.begun < len(self.sizes):
            end = min(self.begun + WINDOW, len(self.sizes))
            # Of equal size the first one is last: it is taken first.
            self.window = sorted((self.sizes[at], -at) for at in range(self.begun, end))
            self.begun = end

    def take(self, room: int) -> Pick | None:
        """The largest input in the window that fits."""
        at = bisect_right(self.window, (room, 0)) - 1
        if at < 0:
            return None
        units, place = self.window.pop(at)
        self.had += units
        self.refill()
        return Pick(self.number, -place, units)


class Packs:
    """The jobs that are not done, in one queue."""

    def __init__(self, units_max: int) -> None:
        self.goal = min(2 * PACK_UNITS_MIN, units_max)
        self._units_max = units_max
        self._jobs: dict[int, _Job] = {}

    def add(self, job: int, sizes: Sequence[int]) -> None:
        """A new job: the sizes of its inputs, in order."""
        made = _Job(job, sizes, self._least())
        made.refill()
        self._jobs[job] = made

    def drop(self, job: int) -> None:
        """The job is not wanted any more, or all of it was taken."""
        self._jobs.pop(job, None)

    def pause(self, job: int, paused: bool) -> None:
        """Nothing of a paused job is taken. It does not get back later what it left to others."""
        found = self._jobs.get(job)
        if found is None or found.paused == paused:
            return
        found.paused = paused
        if not paused:
            found.had = max(found.had, self._least(besides=job))

    @property
    def empty(self) -> bool:
        """Whether nothing waits to be taken."""
        return not any(job.window and not job.paused for job in self._jobs.values())

    def take(self, room: int) -> list[Pick]:
        """The next pack, of at most `room` units; empty if nothing waits that is as small."""
        pack: list[Pick] = []
        left = room
        for job in sorted(self._jobs.values(), key=lambda each: (each.had, each.number)):
            while not job.paused and left > 0 and len(pack) < PACK_INPUTS_MAX:
                pick = job.take(left)
                if pick is None:
                    break
                # The first one may be larger than the goal; what is added to it may not.
                left = (min(self.goal, room) if not pack else left) - pick.units
                pack.append(pick)
        return pack

    def done(self, units: int, seconds: float) -> None:
        """A pack of so many units took so long: the goal follows the machine."""
        if units < PACK_UNITS_MIN or seconds <= 0:
            return
        fitting = units * PACK_S_GOAL / seconds
        tuned = self.goal + WEIGHT * (fitting - self.goal)
        self.goal = round(min(max(tuned, PACK_UNITS_MIN), self._units_max))

    def _least(self, besides: int = -1) -> int:
        others = (job for job in self._jobs.values() if job.number != besides)
        return min((job.had for job in others if job.window and not job.paused), default=0)
