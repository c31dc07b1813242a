"""Other ways to choose a node, to compare with the network's own. They too ask last who just said that it is full."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from random import Random

from cxp2p.routing import Candidate


def by_chance(candidates: Iterable[Candidate], tried: Collection[str], rng: Random, now: float) -> list[Candidate]:
    """Any node that was not tried."""
    left = [candidate for candidate in candidates if candidate[0].offer.peer not in tried]
    rng.shuffle(left)
    left.sort(key=lambda candidate: candidate[0].busy_until > now)
    return left


class InTurn:
    """Every node once, then all again: one gateway's turn."""

    def __init__(self) -> None:
        self._asked: dict[str, int] = {}
        self._count = 0

    def __call__(
        self, candidates: Iterable[Candidate], tried: Collection[str], rng: Random, now: float
    ) -> list[Candidate]:
        left = [candidate for candidate in candidates if candidate[0].offer.peer not in tried]
        left.sort(key=lambda each: (each[0].busy_until > now, self._asked.get(each[0].offer.peer, 0)))
        if left:
            self._count += 1
            self._asked[left[0][0].offer.peer] = self._count
        return left
