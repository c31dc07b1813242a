"""Measuring two things side by side, and what a measurement says."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import TypeAlias

ROUNDS = 5

Work: TypeAlias = Callable[[], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """How often something was done in a second: the median of the rounds, the slowest and the fastest."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Rate:
        """Of the values of some rounds."""
        return cls(median=median(values), least=min(values), most=max(values))

    @classmethod
    def mean_of(cls, values: Sequence[float]) -> Rate:
        """The mean in the place of the median: of scores of pages, each of which counts."""
        return cls(median=fmean(values), least=min(values), most=max(values))


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What a figure should reach: at least a ratio of the peer's, at most so much more than the peer's, at most so
    much, or at least so much.
    """

    ratio: float | None = None
    ratio_max: float | None = None
    difference_max: float | None = None
    difference_of_most_max: float | None = None
    value_max: float | None = None
    value_min: float | None = None

    def met(self, ours: Rate, peer: Rate) -> bool:
        return (
            (self.ratio is None or ours.median >= self.ratio * peer.median)
            and (self.ratio_max is None or ours.median <= self.ratio_max * peer.median)
            and (self.difference_max is None or ours.median - peer.median <= self.difference_max)
            and (self.value_max is None or ours.median <= self.value_max)
            and (self.value_min is None or ours.median >= self.value_min)
            and (self.difference_of_most_max is None or ours.most - peer.most <= self.difference_of_most_max)
        )

    def __str__(self) -> str:
        parts = [
            f"{sign}{value:g}{unit}"
            for sign, value, unit in (
                ("≥ ", self.ratio, "x"),
                ("≤ ", self.ratio_max, "x"),
                ("≤ +", self.difference_max, ""),
                ("≤ ", self.value_max, ""),
                ("≥ ", self.value_min, ""),
                ("most ≤ +", self.difference_of_most_max, ""),
            )
            if value is not None
        ]
        return ", ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measurement. `ratio` is ours over the peer's; `peer_is` says what the peer is. The unit is in the name."""

    name: str
    ours: Rate
    peer: Rate
    peer_is: str
    goal: Goal | None = None

    @property
    def ratio(self) -> float:
        return self.ours.median / self.peer.median

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None without one."""
        return self.goal.met(self.ours, self.peer) if self.goal else None


def side_by_side(name: str, ours: Work, peer: Work, peer_is: str, seconds: float) -> Figure:
    """Does both in turn, `ROUNDS` times each, so that a busy machine slows both. Takes about `seconds` in all."""
    share = seconds / (2 * ROUNDS)
    batches = {work: _batch(work, share) for work in (ours, peer)}
    rates: dict[Work, list[float]] = {ours: [], peer: []}
    for _ in range(ROUNDS):
        for work in (ours, peer):
            rates[work].append(_rate(work, batches[work]))
    return Figure(name=name, ours=Rate.of(rates[ours]), peer=Rate.of(rates[peer]), peer_is=peer_is)


def _batch(work: Work, seconds: float) -> int:
    """How many times fit into `seconds`; finding out also warms up."""
    count = 1
    while (took := count / _rate(work, count)) < seconds / 10:
        count *= 2
    return max(1, round(count * seconds / took))


def _rate(work: Work, count: int) -> float:
    started = time.perf_counter()
    for _ in range(count):
        work()
    return count / (time.perf_counter() - started)
