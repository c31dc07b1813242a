"""How often somebody may try: so many at once, then one every so often. Pure; GCRA, as `rates`, but in memory."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """`burst` attempts at once, and one more every `every_s`."""

    burst: int
    every_s: float


class Attempts:
    """Counts attempts under names, of which at most `names_max` are remembered: the longest untouched goes first."""

    def __init__(self, pace: Pace, names_max: int = 10_000) -> None:
        self._pace = pace
        self._names_max = names_max
        self._empty_at: OrderedDict[str, float] = OrderedDict()

    def wait_s(self, name: str | None, now: float) -> float:
        """Seconds until this name may try again; 0 if it may now. Who has no name may always."""
        if name is None:
            return 0.0
        full = self._pace.every_s * self._pace.burst
        return max(0.0, self._empty_at.get(name, now) + self._pace.every_s - full - now)

    def note(self, name: str | None, now: float) -> None:
        """Counts one attempt."""
        if name is None:
            return
        self._empty_at[name] = max(self._empty_at.get(name, now), now) + self._pace.every_s
        self._empty_at.move_to_end(name)
        while len(self._empty_at) > self._names_max:
            self._empty_at.popitem(last=False)

    def forget(self, name: str) -> None:
        """This name begins anew."""
        self._empty_at.pop(name, None)

    def __len__(self) -> int:
        return len(self._empty_at)
