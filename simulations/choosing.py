"""Other ways to choose among nodes that are near equal, to compare with the network's own."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from hashlib import sha256
from random import Random

from cxp2p import routing
from cxp2p.directory import Entry
from cxp2p.records import Capability
from cxp2p.routing import Candidate, wait_ms, with_room
from simulations.rules import Attract, Rank


class _Widened(Random):
    """Draws like another generator, but as wide as it is told."""

    def __init__(self, rng: Random, width: float) -> None:
        super().__init__(0)
        self._rng, self._width = rng, width

    def random(self) -> float:
        return self._rng.random()

    def uniform(self, a: float, b: float) -> float:
        return self._rng.uniform(a, a + self._width)


def with_spread(spread: float) -> Rank:
    """The network's own ranking with another `TIE_SPREAD`."""

    def rank(candidates: Iterable[Candidate], tried: Collection[str], rng: Random, now: float) -> list[Candidate]:
        return routing.rank(candidates, tried, _Widened(rng, spread), now)

    return rank


def is_full(entry: Entry, capability: Capability) -> bool:
    """Whether a job would have to wait there, as far as an asker knows."""
    return max(capability.load.running + capability.load.queued, entry.jobs) >= capability.slots


def by_two_choices(candidates: Iterable[Candidate], tried: Collection[str], rng: Random, now: float) -> list[Candidate]:
    """Of two that are drawn the one with less wait (Mitzenmacher, 2001); the others after it, by chance."""
    left = [candidate for candidate in candidates if candidate[0].offer.peer not in tried]
    rng.shuffle(left)
    left[:2] = sorted(left[:2], key=lambda each: wait_ms(each[0], each[1], now))
    left.sort(key=lambda candidate: candidate[0].busy_until > now)
    return left


def never_attracted(ranked: Sequence[Candidate], affinity: bytes, now: float, request_bytes: int) -> list[Candidate]:
    """As if no prompts began alike."""
    return list(ranked)


def attracted_within(worth_ms: float) -> Attract:
    """The home node, if it has room and its wait is at most so much longer than that of the first."""

    def attract(ranked: Sequence[Candidate], affinity: bytes, now: float, request_bytes: int) -> list[Candidate]:
        latest_ms = wait_ms(*ranked[0], now) + worth_ms if ranked else 0.0
        near = [each for each in with_room(ranked, now) if wait_ms(*each, now) <= latest_ms]
        if not near:
            return list(ranked)
        home = max(near, key=lambda each: sha256(affinity + each[0].offer.peer.encode()).digest())
        return [home, *(each for each in ranked if each[1] is not home[1])]

    return attract


def always_home(ranked: Sequence[Candidate], affinity: bytes, now: float, request_bytes: int) -> list[Candidate]:
    """Everybody's own node, however full it is, unless it just said so."""
    if not ranked:
        return []
    home = max(
        ranked,
        key=lambda each: (each[0].busy_until <= now, sha256(affinity + each[0].offer.peer.encode()).digest()),
    )
    return [home, *(each for each in ranked if each[1] is not home[1])]
