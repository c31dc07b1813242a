"""Look-ups of an overlay, many at once: round by round as `kademlia.Walk`, each with its own time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from simulations.kademlia import Late, Rules
from simulations.kademlia_hosts import ASK_TRIPS, DIAL_TRIPS
from simulations.overlay import FAR, NOBODY, Keys, Mask, Overlay, Table
from simulations.sessions import Floats, Ints

TripS: TypeAlias = Callable[[Ints, Ints], Floats]
"""Seconds of a message and its answer between each two peers."""


@dataclass(slots=True)
class Finds:
    """What look-ups found: for each the closest, NOBODY where there were fewer, and what it took."""

    askers: Ints
    closest: Table
    rounds: Ints
    asked: Ints
    failed: Ints
    took_s: Floats
    late: Mask


class Walks:
    """Who asks whom over an overlay. `silent`: a peer that left does not even refuse."""

    def __init__(self, overlay: Overlay, trip_s: TripS, silent: Mask, rules: Rules) -> None:
        self.overlay = overlay
        self.trip_s = trip_s
        self.silent = silent
        self.rules = rules

    def find(self, askers: Ints, targets: Keys, begin: Floats) -> Finds:
        """Looks up all targets."""
        rules, count = self.rules, len(askers)
        closest = self.overlay.closest(askers, targets, rules.count)
        asked = closest == askers[:, None]
        over = np.zeros(count, bool)
        rounds, questions, failed = (np.zeros(count, np.int64) for _ in range(3))
        elapsed = np.zeros(count)
        for _ in range(rules.rounds_max):
            over |= elapsed > rules.walk_s_max
            free = (closest != NOBODY) & ~asked & ~over[:, None]
            asks = free & (np.cumsum(free, axis=1) <= rules.alpha)
            over |= ~asks.any(1)
            if over.all():
                break
            row, place = np.nonzero(asks)
            others = closest[row, place].astype(np.int64)
            answered, took_s = self._ask(askers[row], others, begin[row] + elapsed[row])
            answered &= took_s <= rules.round_s
            asked[row, place] = True
            rounds += asks.any(1)
            questions += asks.sum(1)
            np.add.at(failed, row[~answered], 1)
            slowest = np.zeros(count)
            np.maximum.at(slowest, row, np.minimum(took_s, rules.round_s))
            elapsed += slowest
            if not rules.keep_failed:
                closest[row[~answered], place[~answered]] = NOBODY
            closest, asked, over = self._hear(askers, targets, closest, asked, over, row[answered], others[answered])
        late = elapsed > rules.look_up_s
        if rules.late is Late.NOBODY:
            closest[late] = NOBODY
        elif rules.late is Late.TABLE and late.any():
            closest[late] = self.overlay.closest(askers[late], targets[late])
        return Finds(askers, closest, rounds, questions, failed, np.minimum(elapsed, rules.look_up_s), late)

    def _hear(
        self, askers: Ints, targets: Keys, closest: Table, asked: Mask, over: Mask, row: Ints, others: Ints
    ) -> tuple[Table, Mask, Mask]:
        """Takes the answers of a round in: the closest now, which of them were asked, and whose walk is over."""
        count, width = len(askers), closest.shape[1]
        places = np.arange(len(row)) - np.searchsorted(row, row)
        answers = np.full((count, self.rules.alpha, width), NOBODY, np.int32)
        answers[row, places] = self.overlay.closest(others, targets[row], width)
        named = answers.reshape(count, -1)
        named[named == askers[:, None]] = NOBODY
        news = (named != NOBODY).any(1)
        everybody = np.concatenate((closest, named), axis=1)
        apart = self.overlay.keys[everybody] ^ targets[:, None]
        apart[everybody == NOBODY] = FAR
        order = np.argsort(apart, axis=1, kind="stable")
        apart = np.take_along_axis(apart, order, 1)
        again = np.zeros_like(apart, bool)
        again[:, 1:] = apart[:, 1:] == apart[:, :-1]
        rank = np.cumsum(~again, axis=1) - 1
        keep = ~again & (rank < width) & (apart != FAR)
        everybody = np.take_along_axis(everybody, order, 1)
        were_asked = np.concatenate((asked, np.zeros(named.shape, bool)), axis=1)
        were_asked = np.take_along_axis(were_asked, order, 1)
        into, column = np.nonzero(keep)
        now = np.full_like(closest, NOBODY)
        now_asked = np.zeros_like(asked)
        now[into, rank[into, column]] = everybody[into, column]
        now_asked[into, rank[into, column]] = were_asked[into, column]
        now[over], now_asked[over] = closest[over], asked[over]
        waiting = ((now != NOBODY) & ~now_asked).any(1)
        return now, now_asked, over | np.where(news, (now == closest).all(1), ~waiting)

    def _ask(self, askers: Ints, others: Ints, time: Floats) -> tuple[Mask, Floats]:
        """Who answers a question at a time, and how long the answer, or that there is none, takes."""
        trip_s = self.trip_s(askers, others)
        there = self.overlay.sessions.there(others, time)
        none_s = np.where(self.silent[others], self.rules.stream_s, 2 * trip_s + self.rules.retry_s)
        return there, np.where(there, (DIAL_TRIPS + ASK_TRIPS) * trip_s, none_s)

    def tell(self, finds: Finds, begin: Floats) -> tuple[Mask, Floats]:
        """Asks all that were found, at once: which of them heard it in time, and when each look-up was over."""
        row, place = np.nonzero((finds.closest != NOBODY) & (finds.closest != finds.askers[:, None]))
        others = finds.closest[row, place].astype(np.int64)
        there, took_s = self._ask(finds.askers[row], others, (begin + finds.took_s)[row])
        heard: NDArray[np.bool_] = np.zeros(finds.closest.shape, bool)
        heard[row, place] = there & (took_s <= self.rules.ask_s)
        slowest = np.zeros(len(finds.askers))
        np.maximum.at(slowest, row, np.minimum(took_s, self.rules.ask_s))
        return heard, begin + finds.took_s + slowest
