"""Which node gets the job, and which the next one. Pure: from what nodes offer, what we saw of them, what they said.

Nothing that a node says of itself or of a job is taken for true where it could keep jobs from the others: neither its
load, nor its price, nor that the job cannot be done.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from hashlib import sha256
from random import Random
from typing import TypeAlias

from cxp2p.directory import REQUEST_BYTES_UNIT, Entry
from cxp2p.errors import CxError, InsufficientCredit, JobFailed, JobRefused
from cxp2p.records import Capability, FailureCode, RefusalCode, Service
from cxp2p.units import TEMPLATE_UNITS_MAX

FIRST_PIECE_MS_GUESS = 300  # a node that has not measured itself yet is neither favoured nor shunned
MEASURED_HALF_LIFE_S = 60.0  # what we measured ourselves counts, but a node that was slow once may be tried again
TIE_SPREAD = 1.0  # near equals share the load, as what an asker knows of it is late; one twice as good still wins
REFUSALS_SHY = 2  # in a row, without a job done between them
WORTH_WAITING_MS = 500.0  # for each 2 kB of a prompt, at the node that may have its beginning: reading it takes as long
DEAR = 4  # a node that costs more than so many times the usual is asked when no other is left
CHEAP = 0.5  # of the usual: who asks for less than that draws no more jobs by it

BYTES_PER_UNIT_SURE = 3  # a prompt of so many bytes for each unit of context is too long; most words give four

Candidate: TypeAlias = tuple[Entry, Capability]

_REQUESTS_FAULT = (FailureCode.CONTEXT_LENGTH, FailureCode.REQUEST_UNSUPPORTED, FailureCode.SCHEMA_INVALID)


class Blame(Enum):
    """What a fault says of the node."""

    NONE = auto()
    FULL = auto()  # ask it last for a while
    FAILED = auto()  # do not use it for a while


@dataclass(frozen=True, slots=True)
class Fault:
    """How one node did not do a job whose longest input has `request_bytes`; `context_units` is what it offered."""

    node: str
    context_units: int
    request_bytes: int
    error: CxError

    @property
    def requests(self) -> bool:
        """Whether the node says that the request itself is the fault."""
        return isinstance(self.error, JobFailed) and self.error.code in _REQUESTS_FAULT

    @property
    def too_long(self) -> bool:
        return isinstance(self.error, JobFailed) and self.error.code is FailureCode.CONTEXT_LENGTH

    @property
    def sure(self) -> bool:
        """Whether the prompt is too long for this context, whoever says so."""
        return self.too_long and self.request_bytes >= BYTES_PER_UNIT_SURE * self.context_units


def blame(fault: Fault) -> Blame:
    """Full nodes, and those that call a request impossible, are asked last. A short prompt is not too long."""
    error = fault.error
    if isinstance(error, InsufficientCredit) or fault.sure:
        return Blame.NONE
    if fault.requests:
        fits = fault.request_bytes + TEMPLATE_UNITS_MAX <= fault.context_units
        return Blame.FAILED if fault.too_long and fits else Blame.FULL
    if isinstance(error, JobRefused) and error.code in (RefusalCode.BUSY, RefusalCode.DRAINING):
        return Blame.FULL
    return Blame.FAILED


def of_digest(candidates: Iterable[Candidate], digest: bytes | None) -> list[Candidate]:
    """Those that have exactly these weights; None: any."""
    return [(entry, able) for entry, able in candidates if digest in (None, able.model_digest)]


def remaining(candidates: Iterable[Candidate], faults: Sequence[Fault]) -> list[Candidate]:
    """Those that may still do the job: a prompt that is surely too long needs more context, any other as much."""
    room = max((fault.context_units + fault.sure for fault in faults if fault.too_long), default=0)
    return [(entry, able) for entry, able in candidates if able.context_units >= room]


def worst(faults: Sequence[Fault]) -> CxError:
    """The fault to tell: one that is the request's own, else a full network, else what happened last."""
    for fault in faults:
        if fault.requests and blame(fault) is not Blame.FAILED:
            return fault.error
    refused = [fault.error for fault in faults if isinstance(fault.error, JobRefused)]
    return min(refused, key=lambda error: error.retry_after_ms) if len(refused) == len(faults) else faults[-1].error


def too_dear(faults: Iterable[Fault]) -> bool:
    """Whether the account could not cover one of the nodes."""
    return any(isinstance(fault.error, InsufficientCredit) for fault in faults)


def rank(candidates: Iterable[Candidate], tried: Collection[str], rng: Random, now: float) -> list[Candidate]:
    """Candidates that were not tried, best first: least estimated wait times price, times chance.

    A node that is twice as dear must be twice as quick, or prices would go up for ever. Those that said lately that
    they are full come after all others, and so do those that said it again and again, and those that are dear: none
    can draw every job by what it says of its own speed, or by working for nothing. Vectors and speech go where fewest
    of ours are.
    """
    live = list(candidates)
    usual = usual_price(live)
    scored = [
        (
            (
                entry.busy_until > now,
                entry.refusals >= REFUSALS_SHY,
                unit_price(capability) > DEAR * usual,
                *crowd(entry, capability),
            ),
            wait_ms(entry, capability, now) * dearness(capability, usual) * (1 + rng.uniform(0, TIE_SPREAD)),
            rng.random(),
            entry,
            capability,
        )
        for entry, capability in live
        if entry.offer.peer not in tried
    ]
    scored.sort(key=lambda row: row[:3])
    return [(entry, capability) for *_, entry, capability in scored]


def attracted(ranked: Sequence[Candidate], affinity: bytes, now: float, request_bytes: int = 0) -> list[Candidate]:
    """`ranked`, with the node first that `affinity` falls on, so that what begins alike meets its own prefixes again.

    It is the same node for all who ask, of those that have room (rendezvous hashing, Thaler and Ravishankar, 1996). One
    that would take longer than the best by more than reading the whole request anew is not worth it.
    """
    waits = [(wait_ms(*each, now), each) for each in with_room(ranked, now)]
    if not affinity or not waits:
        return list(ranked)
    worth_ms = WORTH_WAITING_MS * max(1.0, request_bytes / REQUEST_BYTES_UNIT)
    latest_ms = min(wait for wait, _ in waits) + worth_ms
    near = [each for wait, each in waits if wait <= latest_ms]
    home = max(near, key=lambda each: sha256(affinity + each[0].offer.peer.encode()).digest())
    return [home, *(each for each in ranked if each[1] is not home[1])]


def crowd(entry: Entry, capability: Capability) -> tuple[bool, int]:
    """How many of ours are there already, where that counts before the wait: vectors and speech take a whole machine.

    So the parts of a request go to all nodes, and whoever is done first gets the next; no node is quicker for the slots
    or the speed that it says it has. One that is full, or has to load the model first, comes after the others.
    """
    if capability.service not in (Service.EMBED, Service.SPEECH):
        return False, 0
    load = capability.load
    full = max(load.running + load.queued, entry.jobs) >= capability.slots
    return full or load.loading_ms > 0, entry.jobs


def unit_price(capability: Capability) -> int:
    """What a unit costs there in a job of three parts input to one part output, to compare nodes of any size."""
    return 3 * capability.prices.input + capability.prices.output


def usual_price(candidates: Iterable[Candidate]) -> int:
    """The median of what a unit costs at these nodes."""
    prices = sorted(unit_price(capability) for _, capability in candidates)
    return prices[(len(prices) - 1) // 2] if prices else 0


def dearness(capability: Capability, usual: int) -> float:
    """By how much its price makes a wait there seem longer, or shorter: 1 at the usual price."""
    return max(CHEAP, unit_price(capability) / usual) if usual else 1.0


def with_room(candidates: Iterable[Candidate], now: float) -> list[Candidate]:
    """Those among which an asker may choose freely: they have a free slot, seldom say no, and are not dear."""
    live = list(candidates)
    usual = usual_price(live)
    return [
        (entry, able)
        for entry, able in live
        if max(able.load.running + able.load.queued, entry.jobs) < able.slots
        and entry.busy_until <= now
        and entry.refusals < REFUSALS_SHY
        and unit_price(able) <= DEAR * usual
    ]


def most_it_costs(capability: Capability) -> int:
    """What a whole context in and out costs there: what an account must have to be let in."""
    return capability.context_units * capability.prices.input + capability.output_units_max * capability.prices.output


def wait_ms(entry: Entry, capability: Capability, now: float) -> float:
    """Estimated time to the first piece: the node's own median, stretched by how full its slots are, and its loading.

    Our own running jobs count even before the node's next offer tells of them, so that a burst spreads out; and what
    we measured counts, if it is worse than what the node says.
    """
    load = capability.load
    busy = max(load.running + load.queued, entry.jobs)
    measured = entry.first_piece_ms * math.pow(0.5, (now - entry.measured_at) / MEASURED_HALF_LIFE_S)
    first_piece_ms = max(load.first_piece_ms or FIRST_PIECE_MS_GUESS, measured)
    return (
        load.loading_ms
        + first_piece_ms * (1 + busy / max(1, capability.slots))
        + (1000.0 if busy >= capability.slots else 0.0)
    )
