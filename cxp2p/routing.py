"""Which node gets the job. Pure: a ranking of candidates from what they offer and what we sent them ourselves."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from random import Random

from cxp2p.directory import Entry
from cxp2p.records import Capability

FIRST_PIECE_MS_GUESS = 300  # a node that has not measured itself yet is neither favoured nor shunned
TIE_SPREAD = 0.15  # equal nodes share the load; a clearly better one still wins


def rank(
    candidates: Iterable[tuple[Entry, Capability]], tried: Collection[str], rng: Random
) -> list[tuple[Entry, Capability]]:
    """Candidates that were not tried, best first: least estimated wait, with a random spread of 15 % between equals."""
    scored = [
        (wait_ms(entry, capability) * (1 + rng.uniform(0, TIE_SPREAD)), rng.random(), entry, capability)
        for entry, capability in candidates
        if entry.offer.peer not in tried
    ]
    scored.sort(key=lambda row: row[:2])
    return [(entry, capability) for _, _, entry, capability in scored]


def most_it_costs(capability: Capability) -> int:
    """What a whole context in and out costs there, to compare nodes by price."""
    return capability.context_units * capability.prices.input + capability.output_units_max * capability.prices.output


def wait_ms(entry: Entry, capability: Capability) -> float:
    """Estimated time to the first piece: the node's own median, stretched by how full its slots are.

    Our own running jobs count even before the node's next offer tells of them, so that a burst spreads out.
    """
    load = capability.load
    busy = max(load.running + load.queued, entry.jobs)
    first_piece_ms = load.first_piece_ms or FIRST_PIECE_MS_GUESS
    return first_piece_ms * (1 + busy / max(1, capability.slots)) + (1000.0 if busy >= capability.slots else 0.0)
