"""When users come, and how long their prompts and answers are.

Lengths: the mean prompt of 161 and the mean answer of 338 tokens of ShareGPT's conversations, as in Kwon et al.,
"Efficient Memory Management for Large Language Model Serving with PagedAttention" (SOSP 2023, figure 11), spread
log-normally; how widely is an assumption.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from random import Random
from typing import TypeAlias

from simulations.demands import Demand
from simulations.gateways import GatewayModel
from simulations.world import World

PROMPT_UNITS_MEAN, ANSWER_UNITS_MEAN = 161.0, 338.0
SPREAD = 1.0  # the standard deviation of the logarithm
PROMPT_UNITS_MAX, ANSWER_UNITS_MAX = 6000, 2000

RateAt: TypeAlias = Callable[[float], float]
"""Demands a second at a time."""

Make: TypeAlias = Callable[[int, Random], Demand]
"""The demand of a number, drawn."""


def drawn_units(rng: Random, mean: float, most: int) -> int:
    """A log-normal length, at least 1."""
    return max(1, min(most, round(rng.lognormvariate(math.log(mean) - SPREAD**2 / 2, SPREAD))))


def usual_demand(number: int, rng: Random, model: str = "m", users: int = 100) -> Demand:
    """One turn of a chat by one of some users."""
    return Demand(
        number=number,
        user=f"user {rng.randrange(users)}",
        model=model,
        in_units=drawn_units(rng, PROMPT_UNITS_MEAN, PROMPT_UNITS_MAX),
        out_units=drawn_units(rng, ANSWER_UNITS_MEAN, ANSWER_UNITS_MAX),
    )


class Traffic:
    """Demands that come to gateways in turn, as a Poisson process of a rate that may change (thinning: Lewis and
    Shedler, 1979), from `begin` until `end`.
    """

    def __init__(
        self,
        world: World,
        gateways: Sequence[GatewayModel],
        rate_at: RateAt,
        rate_max: float,
        *,
        begin: float = 15.0,
        end: float,
        make: Make = usual_demand,
        name: str = "traffic",
    ) -> None:
        self.world, self.gateways, self.make = world, tuple(gateways), make
        self.rate_at, self.rate_max, self.end = rate_at, rate_max, end
        self.count = 0
        self._when, self._what = world.rng(f"{name} when"), world.rng(f"{name} what")
        self._first = 0
        world.at(begin, self._wait)

    def _wait(self) -> None:
        gap_s = self._when.expovariate(self.rate_max)
        if self.world.now + gap_s < self.end:
            self.world.after(gap_s, self._come)

    def _come(self) -> None:
        if self._when.random() * self.rate_max < self.rate_at(self.world.now):
            self.count += 1
            gateway = self.gateways[self._what.randrange(len(self.gateways))]
            gateway.submit(self.make(self.count, self._what))
        self._wait()


def steady(rate: float) -> RateAt:
    """Always as many."""
    return lambda time: rate
