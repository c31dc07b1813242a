"""Hosts of a DHT, each with its own table and records, question by question, as events of a world.

Exact but slow: a thousand look-ups a second. For networks as small as one can start for real, and to check
`simulations.overlay`, which is for ten thousand peers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import partial
from typing import Any, TypeAlias

from simulations.kademlia import FIND_KEY_BYTES_MAX, OURS, Late, Rules, Table, Walk, key_of
from simulations.world import World

DIAL_TRIPS = 4  # TCP, the choice of Noise, Noise itself, the choice of Yamux
ASK_TRIPS = 2  # the choice of the protocol, the question
THRESHOLD = 5  # with fewer in its table a peer asks those that it is connected to, too
BLOCKED_MAX = 4096


class State(Enum):
    """What becomes of a question to a host."""

    UP = auto()
    REFUSING = auto()  # its machine says that nobody listens
    SILENT = auto()  # nothing comes back, as from a machine that is off


@dataclass(frozen=True, slots=True)
class Found:
    """The end of a look-up: the closest, and what it took. `late`: it was cut off."""

    closest: tuple[int, ...]
    rounds: int
    asked: int
    failed: int
    took_s: float
    late: bool = False


@dataclass(slots=True)
class Host:
    """One peer of the DHT."""

    table: Table
    state: State = State.UP
    connected: dict[int, None] = field(default_factory=dict)
    blocked: dict[int, float] = field(default_factory=dict)  # until when a peer is not tried
    providers: dict[bytes, dict[int, float]] = field(default_factory=dict)  # since when
    values: dict[bytes, tuple[int, float]] = field(default_factory=dict)  # sequence, since when
    epoch: int = 0  # grows with each start: what was planned before is void
    refreshing: bool = False


Done: TypeAlias = Callable[[Found], Any]
Answer: TypeAlias = Callable[[Host], Any]
Heard: TypeAlias = Callable[[Any], Any]


class Hosts:
    """The hosts of one DHT. `trip_s` says how long a message and its answer take between two of them."""

    def __init__(
        self, world: World, ids: Sequence[bytes], trip_s: Callable[[int, int], float], rules: Rules = OURS
    ) -> None:
        self.world = world
        self.rules = rules
        self.keys = [key_of(name) for name in ids]
        self.ids = list(ids)
        self.trip_s = trip_s
        self.hosts: dict[int, Host] = {}
        self.questions = 0
        self.look_ups = 0

    # Coming and going.

    def start(self, peer: int, bootstrap: int | None, done: Done | None = None) -> None:
        """A host begins, with an empty table. With a `bootstrap` peer it joins, as `Libp2pDht.join` does."""
        epoch = self.hosts[peer].epoch + 1 if peer in self.hosts else 0
        host = self.hosts[peer] = Host(Table(self.keys, peer, self.rules), epoch=epoch)
        if bootstrap is not None:
            host.connected[bootstrap] = None
            self.hosts[bootstrap].connected[peer] = None
            host.table.add(bootstrap, self.world.now, self._alive)
            self.refresh(peer, done)
        self.world.after(self.rules.refresh_s, self._upkeep, peer, epoch)
        self.world.after(self.rules.stale_check_s, self._check_stale, peer, epoch)

    def stop(self, peer: int, state: State = State.REFUSING) -> None:
        """A host ends. Its connections are gone; what others know of it is not."""
        host = self.hosts[peer]
        host.state = state
        host.epoch += 1
        for other in host.connected:
            self.hosts[other].connected.pop(peer, None)
        host.connected.clear()

    def _alive(self, peer: int) -> bool:
        return self.hosts[peer].state is State.UP

    def _upkeep(self, peer: int, epoch: int) -> None:
        if self.hosts[peer].epoch == epoch:
            self.refresh(peer)
            self.world.after(self.rules.refresh_s, self._upkeep, peer, epoch)

    def _check_stale(self, peer: int, epoch: int) -> None:
        host = self.hosts[peer]
        if host.epoch != epoch:
            return
        for other in host.table.stale(self.world.now):
            if self._alive(other):
                host.table.add(other, self.world.now, self._alive)
            else:
                host.table.remove(other)
        self.world.after(self.rules.stale_check_s, self._check_stale, peer, epoch)

    def refresh(self, peer: int, done: Done | None = None) -> None:
        """Looks up the own key, then a random one for each bucket, one after the other."""
        host = self.hosts[peer]
        if host.refreshing:
            return
        host.refreshing = True
        rng = self.world.rng(f"refresh {peer}")
        left = [0]

        def next_one(found: Found) -> None:
            if self.hosts[peer] is not host:
                return
            left[0] -= 1
            if left[0] >= 0:
                # The random key of a bucket is hashed again before it is looked up: it falls anywhere.
                self.find(peer, rng.getrandbits(256).to_bytes(32, "big"), next_one, at_once=True)
                return
            host.refreshing = False
            if done is not None:
                done(found)

        def first(found: Found) -> None:
            left[0] = host.table.refreshed()
            next_one(found)

        self.find(peer, self.ids[peer], first, at_once=True)

    # Look-ups.

    def find(self, peer: int, name: bytes, done: Done, *, at_once: bool = False) -> None:
        """Finds the closest to `name`; `done` gets what was found. `at_once`: upkeep, whose time is not limited."""
        self.look_ups += 1
        _LookUp(self, peer, name, done, limited=not at_once).begin()

    def _ask(self, peer: int, other: int, answer: Answer, heard: Heard, *, learn: bool = False) -> None:
        """One question on a stream of its own. `heard` gets the answer, or None."""
        host, now = self.hosts[peer], self.world.now
        self.questions += 1
        if host.blocked.get(other, 0.0) > now:
            self.world.after(0.0, self._failed, peer, other, heard, 0.0, learn)
            return
        trip_s = self.trip_s(peer, other)
        trips = ASK_TRIPS if other in host.connected else DIAL_TRIPS + ASK_TRIPS
        if self.hosts[other].state is State.REFUSING:
            took_s = 2 * trip_s + self.rules.retry_s
            self.world.after(took_s, self._failed, peer, other, heard, self.rules.refused_s, learn)
        elif self.hosts[other].state is State.SILENT:
            self.world.after(self.rules.stream_s, self._failed, peer, other, heard, self.rules.suspect_s, learn)
        else:
            self.world.after((trips - 0.5) * trip_s, self._arrive, peer, other, answer, heard, trip_s, learn)

    def _failed(self, peer: int, other: int, heard: Heard, block_s: float, learn: bool) -> None:
        host = self.hosts[peer]
        if learn:
            host.table.remove(other)
        if block_s:
            if len(host.blocked) >= BLOCKED_MAX:
                host.blocked.clear()
            host.blocked[other] = self.world.now + block_s
        heard(None)

    def _arrive(self, peer: int, other: int, answer: Answer, heard: Heard, trip_s: float, learn: bool) -> None:
        there, here = self.hosts[other], self.hosts[peer]
        if there.state is not State.UP or here.state is not State.UP:
            heard(None)
            return
        here.connected[other] = None
        if peer in there.connected:  # else its addresses are not known yet: they come after its first question
            there.table.add(peer, self.world.now, self._alive)
        there.connected[peer] = None
        said = answer(there)
        if learn and said is not None:
            said = [each for each in said if each != peer]
        self.world.after(trip_s / 2, self._hear, peer, said, heard, learn)

    def _hear(self, peer: int, said: Any, heard: Heard, learn: bool) -> None:
        if learn and said is not None:
            table = self.hosts[peer].table
            for each in said:
                table.add(each, self.world.now, self._alive)
        heard(said)

    # Records: the closest are found, and then all asked at once.

    def provide(self, peer: int, name: bytes, done: Callable[[int, Found], Any]) -> None:
        """Announces `peer` under `name`; `done` gets how many hosts took it."""
        since = self.world.now

        def take(at: Host) -> bool:
            live = {
                each: at_s
                for each, at_s in at.providers.get(name, {}).items()
                if at_s > self.world.now - self.rules.provider_life_s
            }
            if peer not in live and len(live) >= self.rules.providers_per_key:
                return False
            at.providers[name] = {**live, peer: since}
            return True

        self._ask_closest(peer, name, take, lambda told, found: done(sum(map(bool, told)), found))

    def find_providers(self, peer: int, name: bytes, done: Callable[[list[int], Found], Any]) -> None:
        """Who announced itself under `name`."""

        def look(at: Host) -> list[int]:
            live_since = self.world.now - self.rules.provider_life_s
            return [each for each, since in at.providers.get(name, {}).items() if since > live_since]

        def end(told: list[Any], found: Found) -> None:
            own = look(self.hosts[peer])
            done(list(dict.fromkeys(each for answer in (own, *told) for each in answer)), found)

        self._ask_closest(peer, name, look, end)

    def put(self, peer: int, name: bytes, sequence: int, done: Callable[[int, Found], Any]) -> None:
        """Stores a value, here too; a higher `sequence` replaces a lower one. `done` gets how many others took it."""

        def take(at: Host) -> bool:
            held = at.values.get(name)
            if held is not None and held[0] >= sequence and held[1] > self.world.now - self.rules.value_life_s:
                return False
            at.values[name] = (sequence, self.world.now)
            return True

        take(self.hosts[peer])
        self._ask_closest(peer, name, take, lambda told, found: done(sum(map(bool, told)), found))

    def get(self, peer: int, name: bytes, done: Callable[[int | None, Found], Any]) -> None:
        """The highest sequence that is stored under `name`, or None."""

        def look(at: Host) -> int:
            held = at.values.get(name)
            return held[0] if held is not None and held[1] > self.world.now - self.rules.value_life_s else -1

        def end(told: list[Any], found: Found) -> None:
            best = max((look(self.hosts[peer]), *told))
            done(best if best >= 0 else None, found)

        self._ask_closest(peer, name, look, end)

    def _ask_closest(self, peer: int, name: bytes, answer: Answer, done: Callable[[list[Any], Found], Any]) -> None:
        def ask(found: Found) -> None:
            asks = [other for other in found.closest if other != peer]
            told: list[Any] = []
            waiting = [len(asks)]

            def end() -> None:
                if waiting[0] >= 0:
                    waiting[0] = -1
                    done(told, found)

            def heard(said: Any) -> None:
                if waiting[0] < 0:
                    return
                if said is not None:
                    told.append(said)
                waiting[0] -= 1
                if not waiting[0]:
                    end()

            if not asks:
                end()
            for other in asks:
                self._ask(peer, other, answer, heard)
            self.world.after(self.rules.ask_s, end)

        self.find(peer, name, ask)


class _LookUp:
    """One walk of a host, and the events that it waits for."""

    def __init__(self, hosts: Hosts, peer: int, name: bytes, done: Done, *, limited: bool) -> None:
        self.hosts, self.world, self.rules = hosts, hosts.world, hosts.rules
        self.peer, self.host, self.done, self.limited = peer, hosts.hosts[peer], done, limited
        self.key = key_of(name)
        self.answered = self.rules.long_keys or len(name) <= FIND_KEY_BYTES_MAX
        self.walk = Walk(hosts.keys, peer, self.key, self._start(), self.rules)
        self.began = self.world.now
        self.failed = 0
        self.over = False
        self.waiting: dict[int, None] = {}
        self.named: dict[int, None] = {}

    def _start(self) -> list[int]:
        keys, count = self.hosts.keys, self.rules.count
        start = self.host.table.closest(self.key, count)
        if len(start) < THRESHOLD:
            start = sorted(dict.fromkeys((*start, *self.host.connected)), key=lambda each: keys[each] ^ self.key)
        return start[:count]

    def begin(self) -> None:
        """Asks the first."""
        if self.limited:
            self.world.after(self.rules.look_up_s, self._end, True)
        self._go()

    def _go(self) -> None:
        asks = self.walk.ask(self.world.now - self.began)
        if not asks or self.over:
            self._end(False)
            return
        self.named, self.waiting = {}, dict.fromkeys(asks)
        round_of = self.walk.rounds
        for other in asks:
            self.host.table.add(other, self.world.now, self.hosts._alive)
            self.hosts._ask(self.peer, other, self._answer, partial(self._heard, round_of, other), learn=True)
        if self.limited and math.isfinite(self.rules.round_s):
            self.world.after(self.rules.round_s, self._cut, round_of)

    def _answer(self, at: Host) -> list[int] | None:
        return at.table.closest(self.key, self.rules.bucket_size) if self.answered else None

    def _heard(self, round_of: int, other: int, answer: list[int] | None) -> None:
        if round_of != self.walk.rounds or other not in self.waiting:
            return
        del self.waiting[other]
        if answer is None:
            self.failed += 1
        else:
            self.named.update(dict.fromkeys(answer))
        if not self.waiting:
            self._go_on()

    def _cut(self, round_of: int) -> None:
        if round_of == self.walk.rounds and self.waiting:
            self._go_on()

    def _go_on(self) -> None:
        for other in self.waiting:
            self.failed += 1
            self.host.table.remove(other)
        self.waiting = {}
        if not self.over:
            self.walk.hear(self.named)
            self._go()

    def _end(self, late: bool) -> None:
        if self.over:
            return
        self.over = True
        closest = self.walk.closest
        if late and self.rules.late is not Late.MET:
            closest = [] if self.rules.late is Late.NOBODY else self.host.table.closest(self.key, self.rules.count)
        took_s = self.world.now - self.began
        self.done(Found(tuple(closest), self.walk.rounds, self.walk.asked, self.failed, took_s, late))
