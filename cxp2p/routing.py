"""Which node gets the job. Pure: a ranking of candidates from what they offer and what we sent them ourselves."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from random import Random

from cxp2p.directory import Entry
from cxp2p.records import Capability

FIRST_PIECE_MS_GUESS = 300  # a node that has not measured itself yet is neither favoured nor shunned
MEASURED_HALF_LIFE_S = 60.0  # what we measured ourselves counts, but a node that was slow once may be tried again
TIE_SPREAD = 0.15  # equal nodes share the load; a clearly better one still wins
DEAR = 4  # a node that costs more than so many times the usual is asked when no other is left


def rank(
    candidates: Iterable[tuple[Entry, Capability]], tried: Collection[str], rng: Random, now: float
) -> list[tuple[Entry, Capability]]:
    """Candidates that were not tried, best first: least estimated wait, with a random spread of 15 % between equals.

    Those that said lately that they are full come after all others, and so do those that are dear: neither can draw
    every job by what it says of its own speed.
    """
    live = list(candidates)
    prices = sorted(unit_price(capability) for _, capability in live)
    usual = prices[(len(prices) - 1) // 2] if prices else 0
    scored = [
        (
            (entry.busy_until > now, unit_price(capability) > DEAR * usual),
            wait_ms(entry, capability, now) * (1 + rng.uniform(0, TIE_SPREAD)),
            rng.random(),
            entry,
            capability,
        )
        for entry, capability in live
        if entry.offer.peer not in tried
    ]
    scored.sort(key=lambda row: row[:3])
    return [(entry, capability) for *_, entry, capability in scored]


def unit_price(capability: Capability) -> int:
    """What a unit costs there in a job of three parts input to one part output, to compare nodes of any size."""
    return 3 * capability.prices.input + capability.prices.output


def most_it_costs(capability: Capability) -> int:
    """What a whole context in and out costs there: what an account must have to be let in."""
    return capability.context_units * capability.prices.input + capability.output_units_max * capability.prices.output


def wait_ms(entry: Entry, capability: Capability, now: float) -> float:
    """Estimated time to the first piece: the node's own median, stretched by how full its slots are.

    Our own running jobs count even before the node's next offer tells of them, so that a burst spreads out; and what
    we measured counts, if it is worse than what the node says.
    """
    load = capability.load
    busy = max(load.running + load.queued, entry.jobs)
    measured = entry.first_piece_ms * math.pow(0.5, (now - entry.measured_at) / MEASURED_HALF_LIFE_S)
    first_piece_ms = max(load.first_piece_ms or FIRST_PIECE_MS_GUESS, measured)
    return first_piece_ms * (1 + busy / max(1, capability.slots)) + (1000.0 if busy >= capability.slots else 0.0)
