"""What a virtual key may at this moment: its rates, how much at once, and its spend limit. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from cxp2p.errors import InsufficientCredit
from cxp2p.records import Service
from cxp2p_gateway import rates
from cxp2p_gateway.asking import KeyEnded, KeyForbids, Limit, RateLimited
from cxp2p_gateway.keys import Key, usable
from cxp2p_gateway.rates import Rate
from cxp2p_gateway.spending import may_spend

PARALLEL_RETRY_S: Final = 1.0  # nobody knows when one of those that run will end


class Counted(StrEnum):
    """What a rate counts, each minute."""

    REQUESTS = "requests"
    TOKENS = "tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """For what credit is to be held: a request with a key. `first`: nothing was held for this request before.

    `tokens`: the most that its input may be; what it really took is told later.
    """

    key: str
    request: str
    tokens: int
    first: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What the books say of a key. `requests`: those of its requests that credit is held for."""

    spent: int
    held: int
    requests: frozenset[str]
    empty_at_us: Mapping[Counted, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """What to keep of the rates, and what to tell of them."""

    empty_at_us: Mapping[Counted, int]
    rates: Mapping[Counted, Rate]


def limits_of(key: Key) -> Mapping[Counted, int]:
    """The rates that a key has, each in units a minute."""
    both = ((Counted.REQUESTS, key.rpm), (Counted.TOKENS, key.tpm))
    return {counted: limit for counted, limit in both if limit is not None}


class Permission(Protocol):
    """What a key is for; empty: for all."""

    @property
    def services(self) -> tuple[str, ...]: ...

    @property
    def models(self) -> tuple[str, ...]: ...


def forbid(key: Permission, service: Service, model: str) -> None:
    """Raises KeyForbids if a key is not for this service or this model."""
    if key.services and service.value not in key.services:
        raise KeyForbids(Limit.SERVICE)
    if not may_use(key, model):
        raise KeyForbids(Limit.MODEL)


def may_use(key: Permission, model: str) -> bool:
    """Whether a key is for a model; `name` stands for all its tags, as `name:tag` does for one."""
    return not key.models or model in key.models or model.partition(":")[0] in key.models


def admit(key: Key | None, demand: Demand, standing: Standing, wall_ms: int) -> Admitted:
    """Whether credit may be held for `demand` now. Only the first hold of a request counts for its rates.

    Raises KeyEnded, RateLimited, InsufficientCredit.
    """
    if key is None or not usable(key, wall_ms):
        raise KeyEnded("this key has ended")
    others = standing.requests - {demand.request}
    if key.parallel_max is not None and len(others) >= key.parallel_max:
        raise RateLimited(f"{key.parallel_max} requests at once", PARALLEL_RETRY_S)
    if not may_spend(key.spend_limit, standing.spent, standing.held):
        raise InsufficientCredit(
            f"key {key.id} may spend {key.spend_limit} µcredits: {standing.spent} are spent, {standing.held} held"
        )
    if not demand.first:
        return Admitted(empty_at_us={}, rates={})
    now_us = wall_ms * 1000
    limits = limits_of(key)
    costs = {Counted.REQUESTS: 1, Counted.TOKENS: demand.tokens}
    taken = {
        counted: rates.take(limit, standing.empty_at_us.get(counted, 0), now_us, costs[counted])
        for counted, limit in limits.items()
    }
    for counted, decision in taken.items():
        if not decision.allowed:
            raise RateLimited(f"{limits[counted]} {counted.value} per minute", decision.wait_us / 1_000_000)
    return Admitted(
        empty_at_us={counted: decision.empty_at_us for counted, decision in taken.items()},
        rates={counted: decision.rate for counted, decision in taken.items()},
    )
