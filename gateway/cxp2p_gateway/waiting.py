"""What the endpoints have in common that wait for a node: for how long, for how many at once, and for whom."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

import trio
from starlette.types import Receive

from cxp2p.client import Outcome, Took
from cxp2p.receipts import digest
from cxp2p_gateway.asking import Overloaded
from cxp2p_gateway.exchange import Exchange
from cxp2p_gateway.faults import Condition, Fault
from cxp2p_gateway.middleware import ClientGone
from cxp2p_gateway.reading import Lease

T = TypeVar("T")

JOBS_MAX: Final = 512  # at once; each holds a client's connection and a stream to a node
BUSY_RETRY_S: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long things may take, in seconds."""

    hold_s: float = 15.0  # the status line is held back so long for the first piece: until then a failure is a status
    keep_alive_s: float = 15.0  # proxies cut silent streams after 50 to 120 s
    deadline_s: float = 600.0  # what the official SDKs wait

    def wait_s(self, exchange: Exchange) -> float:
        """How long a client waits for its first byte: no longer than its SDK says it does."""
        return min(self.deadline_s, read_timeout_s(exchange.headers.get("x-stainless-read-timeout", "")))


def read_timeout_s(header: str) -> float:
    """How long a client's SDK says it waits for bytes; infinite if it does not say so."""
    try:
        seconds = float(header)
    except ValueError:
        return math.inf
    return seconds if seconds > 0 else math.inf


class Places:
    """How many jobs may wait for nodes at once, over all endpoints."""

    def __init__(self) -> None:
        self._free = JOBS_MAX

    @contextmanager
    def take(self, model: str, count: int = 1) -> Iterator[None]:
        """So many places, given back when the block ends. Raises Fault if there are fewer."""
        if self._free < count:
            raise Fault(Condition.OVERLOADED, None, {"model": model}, BUSY_RETRY_S)
        self._free -= count
        try:
            yield
        finally:
            self._free += count


def wants_cx(exchange: Exchange) -> bool:
    """Whether the client asked how its answer came about."""
    return exchange.headers.get("x-cx-metadata", "").lower() == "enabled"


def note_outcomes(exchange: Exchange, outcomes: Sequence[Outcome]) -> None:
    """What the access log says of the jobs of a request that were done, and which receipt its answer names."""
    agreed = [outcome.settlement.countersign for outcome in outcomes]
    if outcomes:
        exchange.receipt = digest(outcomes[-1].settlement.receipt_envelope).hex()
    exchange.notes |= {
        "node": ",".join(dict.fromkeys(outcome.node for outcome in outcomes)),
        "attempts": sum(outcome.attempts for outcome in outcomes),
        "in": sum(each.in_units for each in agreed),
        "out": sum(each.out_units for each in agreed),
    }


def room_in(lease: Lease) -> Took:
    """Takes room for what nodes send; where there is none, their work ends with Overloaded."""

    def took(size: int) -> None:
        try:
            lease.take(size)
        except Fault:
            raise Overloaded(BUSY_RETRY_S) from None

    return took


def result_of(exchange: Exchange, ending: T | Fault | None) -> T:
    """What work came to. Raises Fault for every other ending, of which None is that time ran out, or ClientGone."""
    if exchange.gone:
        raise ClientGone
    if isinstance(ending, Fault):
        raise ending
    if ending is None:
        raise Fault(Condition.DEADLINE)
    return ending


async def watch(exchange: Exchange, receive: Receive, work: trio.CancelScope) -> None:
    """Cancels `work` when the client leaves, whether or not anything was sent to it."""
    while (await receive())["type"] != "http.disconnect":
        pass
    exchange.gone = True
    work.cancel()
