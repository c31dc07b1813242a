"""Kademlia as py-libp2p 0.8.1 does it with our fixes: keys, routing tables, and the walk of a look-up. Pure.

Peers are numbers: `keys[peer]` is the place of one among 2**256. Read off `libp2p/kad_dht`, and compared with real
hosts in `tests/simulations/test_kademlia_hosts.py`.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from hashlib import sha256

KEY_BITS = 256


class Late(Enum):
    """Whom a look-up found that was cut off."""

    NOBODY = auto()
    TABLE = auto()  # those in the asker's table
    MET = auto()  # the closest that it met so far


@dataclass(frozen=True, slots=True)
class Rules:
    """What a DHT does, as it is installed; a policy is a change of one of these.

    `split_any`: any full bucket is split, as py-libp2p does it; False: only the one of the own key, as Kademlia has it
    (Maymounkov and Mazières, 2002) and our fix. `long_keys`: a look-up of a key of more than 50 bytes is answered, as
    with our fix. `late`: whom a look-up found that is not over in `look_up_s`.
    """

    bucket_size: int = 20
    buckets_max: int = 256
    alpha: int = 10
    count: int = 20  # how many of the closest a walk keeps
    rounds_max: int = 20
    walk_s_max: float = 30.0
    stream_s: float = 5.0  # until a peer that says nothing is given up: STREAM_OPEN_TIMEOUT_S
    suspect_s: float = 5.0  # and not tried again
    retry_s: float = 0.1  # after an address refused, before it is dialled once more: py-libp2p's RetryConfig
    refused_s: float = 60.0  # one whose address refused is not dialled again: py-libp2p's negative cache
    look_up_s: float = 8.0
    ask_s: float = 3.0
    refresh_s: float = 600.0
    stale_s: float = 3600.0
    stale_check_s: float = 300.0
    stale_checks: int = 5
    providers_per_key: int = 20
    provider_life_s: float = 48 * 3600.0
    value_life_s: float = 24 * 3600.0
    split_any: bool = False
    round_s: float = 2.0  # a round ends then, with those who answered; the others are forgotten
    keep_failed: bool = True  # among the closest; False: who did not answer is not one of them
    long_keys: bool = True
    late: Late = Late.MET


OURS = Rules()
STOCK = Rules(split_any=True, long_keys=False, round_s=math.inf, late=Late.NOBODY)
FIND_KEY_BYTES_MAX = 50  # without our fix a FIND_NODE for a longer key is refused (kad_dht.py, `valid_peer_id`)


def key_of(name: bytes) -> int:
    """The place of a peer id, or of what is looked up, in the space of keys."""
    return int.from_bytes(sha256(name).digest(), "big")


class Bucket:
    """Peers whose keys are in [low, low + 2**bits), the least recently seen first."""

    __slots__ = ("bits", "low", "seen")

    def __init__(self, low: int, bits: int) -> None:
        self.low = low
        self.bits = bits
        self.seen: dict[int, float] = {}

    def __repr__(self) -> str:
        return f"<Bucket {self.low >> self.bits:b} of {KEY_BITS - self.bits} bits, {len(self.seen)} peers>"


class Table:
    """The peers that one peer knows."""

    __slots__ = ("_lows", "buckets", "keys", "own", "rules")

    def __init__(self, keys: Sequence[int], own: int, rules: Rules = OURS) -> None:
        self.keys = keys
        self.own = own
        self.rules = rules
        self.buckets = [Bucket(0, KEY_BITS)]
        self._lows = [0]

    def __len__(self) -> int:
        return sum(len(bucket.seen) for bucket in self.buckets)

    def __contains__(self, peer: int) -> bool:
        return peer in self._bucket(self.keys[peer]).seen

    def peers(self) -> Iterable[int]:
        """All of them."""
        for bucket in self.buckets:
            yield from bucket.seen

    def add(self, peer: int, now: float, alive: Callable[[int], bool]) -> bool:
        """Takes a peer in, or sees it again. Of a full bucket the oldest goes, if it does not answer a ping."""
        if peer == self.own:
            return False
        key = self.keys[peer]
        bucket = self._bucket(key)
        seen = bucket.seen
        if peer in seen:
            del seen[peer]
            seen[peer] = now
            return True
        while len(seen) >= self.rules.bucket_size and self._may_split(bucket):
            self._split(bucket)
            bucket = self._bucket(key)
            seen = bucket.seen
        if len(seen) >= self.rules.bucket_size:
            oldest = next(iter(seen))
            if alive(oldest):
                return False
            del seen[oldest]
        seen[peer] = now
        return True

    def remove(self, peer: int) -> None:
        """Forgets a peer that could not be reached."""
        self._bucket(self.keys[peer]).seen.pop(peer, None)

    def closest(self, key: int, count: int) -> list[int]:
        """The peers closest to a key, the closest first."""
        found: list[int] = []
        keys = self.keys
        for bucket in sorted(self.buckets, key=lambda each: (each.low ^ key) >> each.bits << each.bits):
            # Buckets are whole subtrees: every peer of a nearer one is closer than all of those farther off.
            found += sorted(bucket.seen, key=lambda peer: keys[peer] ^ key)
            if len(found) >= count:
                return found[:count]
        return found

    def stale(self, now: float) -> list[int]:
        """Peers not seen for an hour, as many as are pinged at once."""
        since = now - self.rules.stale_s
        found = [peer for bucket in self.buckets for peer, seen in bucket.seen.items() if seen < since]
        return found[: self.rules.stale_checks]

    def refreshed(self) -> int:
        """How many keys are looked up at a refresh, besides the own."""
        return sum(1 for bucket in self.buckets if bucket.seen)

    def _bucket(self, key: int) -> Bucket:
        return self.buckets[bisect_right(self._lows, key) - 1]

    def _may_split(self, bucket: Bucket) -> bool:
        if len(self.buckets) >= self.rules.buckets_max:
            return False
        return self.rules.split_any or self.keys[self.own] >> bucket.bits == bucket.low >> bucket.bits

    def _split(self, bucket: Bucket) -> None:
        index = bisect_right(self._lows, bucket.low) - 1
        bits = bucket.bits - 1
        low, high = Bucket(bucket.low, bits), Bucket(bucket.low + (1 << bits), bits)
        for peer, seen in bucket.seen.items():
            (high if self.keys[peer] >= high.low else low).seen[peer] = seen
        self.buckets[index : index + 1] = [low, high]
        self._lows.insert(index + 1, high.low)


class Walk:
    """A look-up: in rounds, the closest that were not asked are asked, all at once, until a round finds none closer.

    As `Libp2pDht._find_closest` and kad-dht's `find_closest_peers_network`: who did not answer keeps its place.
    """

    __slots__ = ("_asked", "_keys", "_own", "_rules", "closest", "key", "over", "rounds")

    def __init__(self, keys: Sequence[int], own: int, key: int, start: Sequence[int], rules: Rules = OURS) -> None:
        self.key = key
        self.closest = list(start)
        self.rounds = 0
        self.over = False
        self._keys = keys
        self._own = own
        self._rules = rules
        self._asked: set[int] = set()

    @property
    def asked(self) -> int:
        """How many peers were asked so far."""
        return len(self._asked)

    def ask(self, elapsed_s: float) -> list[int]:
        """Whom to ask in the next round; nobody, when it is over."""
        if self.over or self.rounds >= self._rules.rounds_max or elapsed_s > self._rules.walk_s_max:
            self.over = True
            return []
        asks = self._waiting()[: self._rules.alpha]
        if not asks:
            self.over = True
            return []
        self.rounds += 1
        self._asked.update(asks)
        return asks

    def hear(self, named: Iterable[int]) -> None:
        """What the answers of a round named, all together."""
        new = {peer for peer in named if peer != self._own}
        if not new:
            self.over = not self._waiting()
            return
        keys, key = self._keys, self.key
        closest = sorted(new.union(self.closest), key=lambda peer: keys[peer] ^ key)[: self._rules.count]
        self.over = closest == self.closest
        self.closest = closest

    def _waiting(self) -> list[int]:
        return [peer for peer in self.closest if peer not in self._asked and peer != self._own]
