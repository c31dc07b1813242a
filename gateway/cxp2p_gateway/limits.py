"""What a virtual key may at this moment: its rates, how much at once, and its spend limit. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from cxp2p.errors import InsufficientCredit
from cxp2p.known_models import name_of
from cxp2p.records import Service
from cxp2p_gateway import rates
from cxp2p_gateway.asking import KeyEnded, KeyForbids, Limit, RateLimited
from cxp2p_gateway.keys import Key, usable
from cxp2p_gateway.rates import Counted, Rate
from cxp2p_gateway.spending import may_spend

PARALLEL_RETRY_S: Final = 1.0  # nobody knows when one of those that run will end


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


class Rated(Protocol):
    """What a key may ask for in a minute."""

    @property
    def rpm(self) -> int | None: ...

    @property
    def tpm(self) -> int | None: ...


def limits_of(key: Rated) -> Mapping[Counted, int]:
    """The rates that a key has, each in units a minute."""
    both = ((Counted.REQUESTS, key.rpm), (Counted.TOKENS, key.tpm))
    return {counted: limit for counted, limit in both if limit is not None}


def tokens_of(service: str, in_units: int, out_units: int) -> int:
    """How many of a job's units are tokens: of embeddings those that go in, of sound and pages none."""
    match service:
        case Service.CHAT:
            return in_units + out_units
        case Service.EMBED:
            return in_units
    return 0


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
    if not _is_for_model(key, service, model):
        raise KeyForbids(Limit.MODEL)


def may_use(key: Permission, service: Service, model: str) -> bool:
    """Whether a key is for a service and a model of it."""
    return (not key.services or service.value in key.services) and _is_for_model(key, service, model)


def _is_for_model(key: Permission, service: Service, model: str) -> bool:
    """A name in `models` stands for its aliases, and `name` for all its tags. Scraping has no models to choose from."""
    if not key.models or service is Service.SCRAPE:
        return True
    meant = name_of(model, service)
    names = {meant, meant.partition(":")[0], model}
    return any(each in names or name_of(each, service) == meant for each in key.models)


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
    standing_at = {
        counted: rates.state(limit, standing.empty_at_us.get(counted, 0), now_us) for counted, limit in limits.items()
    }
    costs = {Counted.REQUESTS: 1, Counted.TOKENS: demand.tokens}
    taken = {
        counted: rates.take(limit, standing.empty_at_us.get(counted, 0), now_us, costs[counted])
        for counted, limit in limits.items()
    }
    for counted, decision in taken.items():
        if not decision.allowed:
            limit = f"{limits[counted]} {counted.value} per minute"
            raise RateLimited(limit, decision.wait_us / 1_000_000, standing_at)
    return Admitted(
        empty_at_us={counted: decision.empty_at_us for counted, decision in taken.items()},
        rates={counted: decision.rate for counted, decision in taken.items()},
    )
