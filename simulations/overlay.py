"""The DHT's routing tables of ten thousand peers, as arrays.

What look-ups do to tables is done to all of them at once, every ten minutes: how many look-ups touch a bucket follows
from its depth, whom they find dead is forgotten, and whom they name is copied from the tables of those in the bucket,
the dead ones too. So nothing is assumed of how fresh tables are: it follows from who asks how often.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from simulations.sessions import Ints, Sessions

Keys: TypeAlias = NDArray[np.uint64]
Table: TypeAlias = NDArray[np.int32]
Mask: TypeAlias = NDArray[np.bool_]

K: Final = 20
DEPTH: Final = 16  # a bucket for each bit in common with the own key; deeper ones are empty with 10,000 peers
NOBODY: Final = -1
FAR: Final = np.uint64(2**64 - 1)
ASKS: Final = 25  # questions of one look-up, about
NAMED_NEAR: Final = 60  # peers that a look-up names near its key, about
STALE_S: Final = 3600.0
STALE_CHECKS_S: Final = 60.0  # one stale peer is pinged in so long
PASSES: Final = 3
WITNESSES: Final = 1  # asked in the rounds after the one in which somebody was found dead, and near to it
STRIDE: Final = 4  # buckets that are searched together


def bits_in_common(one: Keys, other: Keys) -> Ints:
    """How many leading bits two keys share, up to the deepest bucket."""
    apart = (one ^ other).astype(np.float64)
    common: Ints = np.minimum(64 - np.frexp(apart)[1], DEPTH - 1).astype(np.int64)
    return common


class Overlay:
    """The tables: `table[peer, bucket]` has 20 places for those that share so many bits with the peer."""

    def __init__(self, keys: Keys, sessions: Sessions, rng: np.random.Generator) -> None:
        self.keys = keys
        self.sessions = sessions
        self._rng = rng
        count = len(keys)
        self.table: Table = np.full((count, DEPTH, K), NOBODY, np.int32)
        self._seen: NDArray[np.float32] = np.zeros((count, DEPTH, K), np.float32)
        self._online: Ints = np.empty(0, np.int64)
        self._sorted: Keys = np.empty(0, np.uint64)
        self._is_there: Mask = np.zeros(count, bool)

    # Looking up.

    def closest(self, peers: Ints, targets: Keys, count: int = K) -> Table:
        """The `count` closest to each target that each peer knows, the closest first; NOBODY where it knows fewer."""
        found = np.empty((len(peers), count), np.int32)
        common = bits_in_common(self.keys[peers], targets)
        nearest = self.table[peers, common]
        # Whoever is in the bucket that the target would be in is closer to it than anybody else in the table.
        full = (nearest != NOBODY).all(1) if count <= K else np.zeros(len(peers), bool)
        found[full] = self._sort(nearest[full], targets[full], count)
        for least in range(0, DEPTH, STRIDE):
            rows = np.flatnonzero(~full & (common >= least) & (common < least + STRIDE))
            if not rows.size:
                continue
            first = max(0, least - 2)
            known = self.table[peers[rows], first:].reshape(len(rows), (DEPTH - first) * K)
            found[rows] = self._sort(known, targets[rows], count)
            rows = rows[(known != NOBODY).sum(1) < count]
            if rows.size:
                found[rows] = self._sort(self.table[peers[rows]].reshape(len(rows), DEPTH * K), targets[rows], count)
        return found

    def _sort(self, known: Table, targets: Keys, count: int) -> Table:
        apart = self.keys[known] ^ targets[:, None]
        apart[known == NOBODY] = FAR
        if known.shape[1] > count:
            places = np.argpartition(apart, count - 1, axis=1)[:, :count]
            known, apart = np.take_along_axis(known, places, 1), np.take_along_axis(apart, places, 1)
        return np.take_along_axis(known, np.argsort(apart, axis=1), 1)

    # Coming.

    def meet(self, time: float) -> None:
        """Notes who is there now, by key."""
        online = self.sessions.online(time)
        self._online = online[np.argsort(self.keys[online], kind="stable")]
        self._sorted = self.keys[self._online]
        self._is_there = np.zeros(len(self.keys), bool)
        self._is_there[online] = True

    def join(self, peers: Ints, time: float) -> None:
        """Newcomers look themselves up and refresh: they know whom those in each part of the space know, and they are
        known to those near them."""
        if not peers.size:
            return
        self.table[peers] = NOBODY
        parts = self._parts(peers)
        for met in (False, True):
            holes = self._room(self.table[peers], parts)
            self._fill(peers, parts, holes, np.full((peers.size, DEPTH), met), time)
        near = self._nearest(peers)
        self._insert(near.ravel(), np.repeat(peers, near.shape[1]), time)

    def _nearest(self, peers: Ints) -> Ints:
        """Those who are there and closest to each peer: whom its look-up of itself asks."""
        places = np.searchsorted(self._sorted, self.keys[peers])
        window = np.clip(places[:, None] + np.arange(-2 * K, 2 * K), 0, len(self._online) - 1)
        around = self._online[window]
        apart = self.keys[around] ^ self.keys[peers][:, None]
        order = np.argsort(apart, axis=1)[:, : K + 1]
        return np.take_along_axis(around, order, 1)

    def _insert(self, owners: Ints, others: Ints, time: float) -> None:
        """Each owner hears of another, and keeps it if it has room."""
        fits = owners != others
        owners, others = owners[fits], others[fits]
        buckets = bits_in_common(self.keys[owners], self.keys[others])
        rows = self.table[owners, buckets]
        known = (rows == others[:, None]).any(1)
        room = (rows == NOBODY).any(1) & ~known
        place = np.argmax(rows == NOBODY, axis=1)
        self.table[owners[room], buckets[room], place[room]] = others[room]
        self._seen[owners[room], buckets[room], place[room]] = time

    # Upkeep.

    def keep_up(self, time: float, seconds: float, look_ups_s: float, refresh_s: float) -> None:
        """What the look-ups of `seconds` did to the tables of all who are there: each peer makes `look_ups_s` a second
        of keys that fall anywhere, and one of its own every `refresh_s`."""
        peers = self._online
        tables, seen = self.table[peers], self._seen[peers]
        part = 0.5 ** (np.arange(DEPTH) + 1)
        anywhere = self._rng.poisson(look_ups_s * seconds * part, (peers.size, DEPTH))
        own = self._rng.poisson(seconds / refresh_s, peers.size)
        known = tables != NOBODY
        near = np.cumsum(known.sum(2)[:, ::-1], axis=1)[:, ::-1] <= K
        dead = known & ~self._is_there[tables]
        asked = self._rng.random(tables.shape, np.float32) < (1.0 - 0.5**anywhere).astype(np.float32)[:, :, None]
        asked |= (near & (own > 0)[:, None])[:, :, None]
        gone = dead & asked & ~self._named_again(tables, dead & asked)
        gone |= dead & self._pinged(seen, known, time, seconds)
        tables[gone] = NOBODY
        dead &= ~gone
        hearings = self._rng.poisson(ASKS * look_ups_s * seconds * part, (peers.size, DEPTH))
        self._retire(tables, seen, dead, anywhere * K + hearings)
        around = np.maximum(1.0, len(peers) * part)
        again = 1.0 - np.exp(-(anywhere * np.minimum(1.0, NAMED_NEAR / around)))
        again += hearings / around
        fresh = self._rng.random(tables.shape, np.float32) < again.astype(np.float32)[:, :, None]
        seen[fresh] = time
        self.table[peers], self._seen[peers] = tables, seen
        parts = self._parts(peers)
        learned = (anywhere > 0) | (near & (own > 0)[:, None])
        holes = self._room(tables, parts)
        holes &= learned[:, :, None] | (np.cumsum(holes, axis=2, dtype=np.int8) <= hearings[:, :, None])
        self._fill(peers, parts, holes, ~learned, time)

    # What can be said of the tables.

    def dead_part(self) -> float:
        """Which part of what the tables of those who are there hold is gone."""
        tables = self.table[self._online]
        known = tables != NOBODY
        return float((known & ~self._is_there[tables]).sum() / max(1, known.sum()))

    def table_faults(self, sample: int = 40) -> list[str]:
        """Nobody is in its own table, twice in a bucket, or in a bucket where it does not belong."""
        faults = []
        for peer in self._online[:: max(1, len(self._online) // sample)]:
            for bucket, places in enumerate(self.table[peer]):
                known = places[places != NOBODY]
                common = bits_in_common(np.full(known.size, self.keys[peer]), self.keys[known])
                if (known == peer).any() or np.unique(known).size < known.size or (common != bucket).any():
                    faults.append(f"peer {peer} has {known.tolist()} in bucket {bucket}")
        return faults

    def _parts(self, peers: Ints) -> tuple[Ints, Ints]:
        """For each bucket, from where to where its peers are in `_online`."""
        width = np.uint64(1) << (np.uint64(63) - np.arange(DEPTH, dtype=np.uint64))
        low = (self.keys[peers][:, None] ^ width) & ~(width - np.uint64(1))
        first = np.searchsorted(self._sorted, low)
        return first, np.searchsorted(self._sorted, low + (width - np.uint64(1)), side="right")

    def _room(self, tables: Table, parts: tuple[Ints, Ints]) -> Mask:
        """Places that are free, as many as there are peers who are not known yet."""
        free = tables == NOBODY
        unknown = parts[1] - parts[0] - (~free & self._is_there[tables]).sum(2)
        room: Mask = free & (np.cumsum(free, axis=2, dtype=np.int8) <= unknown[:, :, None])
        return room

    def _named_again(self, tables: Table, found_dead: Mask) -> Mask:
        """Which of the dead are learned once more in the same look-up: those whom somebody near them still names."""
        again = np.zeros_like(found_dead)
        row, bucket, place = np.nonzero(found_dead)
        dead = tables[row, bucket, place]
        at = np.searchsorted(self._sorted, self.keys[dead])
        for _ in range(WITNESSES):
            near = self._online[np.clip(at + self._rng.integers(-K // 2, K // 2, len(row)), 0, len(self._online) - 1)]
            names = self.table[near, bits_in_common(self.keys[near], self.keys[dead])]
            again[row, bucket, place] |= (names == dead[:, None]).any(1)
        return again

    def _pinged(self, seen: NDArray[np.float32], known: Mask, time: float, seconds: float) -> Mask:
        """The stale peers whose turn it is to be pinged, the first of each table first."""
        stale = known & (seen < time - STALE_S)
        order = np.cumsum(stale.reshape(len(stale), -1), axis=1, dtype=np.int32).reshape(stale.shape)
        turns: Mask = stale & (order <= seconds / STALE_CHECKS_S)
        seen[turns] = time
        return turns

    def _retire(self, tables: Table, seen: NDArray[np.float32], dead: Mask, attempts: Ints) -> None:
        """Of a full bucket into which somebody wants, the oldest goes if it is dead; then the next is the oldest."""
        for turn in range(PASSES):
            oldest = np.argmin(np.where(tables == NOBODY, np.float32(np.inf), seen), axis=2)[:, :, None]
            full = (tables != NOBODY).sum(2) >= K - turn
            goes = np.take_along_axis(dead, oldest, 2)[:, :, 0] & full & (attempts > turn)
            if not goes.any():
                return
            row, bucket = np.nonzero(goes)
            place = oldest[row, bucket, 0]
            tables[row, bucket, place] = NOBODY
            dead[row, bucket, place] = False

    def _fill(self, peers: Ints, parts: tuple[Ints, Ints], holes: Mask, met: Mask, time: float) -> None:
        """Fills places of tables: with those who came and asked, where `met`; else with those whom others named."""
        row, bucket, place = np.nonzero(holes)
        if not row.size:
            return
        owners, first, last = peers[row], parts[0][row, bucket], parts[1][row, bucket]
        chosen = self._online[first + (self._rng.random(row.size) * (last - first)).astype(np.int64)]
        named = ~met[row, bucket]
        chosen[named] = self._named_by(chosen[named], bucket[named])
        rows = self.table[owners, bucket]
        good = (chosen != NOBODY) & (chosen != owners) & ~(rows == chosen[:, None]).any(1)
        owners, bucket, place, chosen = owners[good], bucket[good], place[good], chosen[good]
        # Of the same one drawn twice for a bucket, one stays.
        names = (owners * DEPTH + bucket) * np.int64(len(self.keys)) + chosen
        once = np.unique(names, return_index=True)[1]
        self.table[owners[once], bucket[once], place[once]] = chosen[once]
        self._seen[owners[once], bucket[once], place[once]] = time

    def _named_by(self, there: Ints, bucket: Ints) -> Ints:
        """Somebody out of the tables of these peers who shares more bits with them than `bucket`; else themselves."""
        deeper = np.minimum(bucket + self._rng.geometric(0.5, len(bucket)), DEPTH - 1)
        place = self._rng.integers(0, K, len(bucket))
        named = self.table[there, deeper, place].astype(np.int64)
        return np.where((named == NOBODY) | (deeper <= bucket), there, named)
