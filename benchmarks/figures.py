"""Measuring two things side by side, and what a measurement says."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import TypeAlias

ROUNDS = 5

Work: TypeAlias = Callable[[], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """How often something was done in a second: the median of the rounds, the slowest and the fastest."""

    median: float
    least: float
    most: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measurement. `ratio` is ours over the peer's; `peer_is` says what the peer is. Higher is better."""

    name: str
    ours: Rate
    peer: Rate
    peer_is: str

    @property
    def ratio(self) -> float:
        return self.ours.median / self.peer.median


def side_by_side(name: str, ours: Work, peer: Work, peer_is: str, seconds: float) -> Figure:
    """Does both in turn, `ROUNDS` times each, so that a busy machine slows both. Takes about `seconds` in all."""
    share = seconds / (2 * ROUNDS)
    batches = {work: _batch(work, share) for work in (ours, peer)}
    rates: dict[Work, list[float]] = {ours: [], peer: []}
    for _ in range(ROUNDS):
        for work in (ours, peer):
            rates[work].append(_rate(work, batches[work]))
    return Figure(name=name, ours=_summary(rates[ours]), peer=_summary(rates[peer]), peer_is=peer_is)


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


def _summary(rates: list[float]) -> Rate:
    return Rate(median=median(rates), least=min(rates), most=max(rates))
