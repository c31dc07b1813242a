"""What lies between peers: distance, jitter, loss, bandwidth, and walls.

Distances are the average round-trip times between ten cities that IBM Cloud published for 17 August to 15 September
2024 (ibm-cloud-docs/vpc, `network-latency.md`, Table 1). Within a city 2 ms, as between two of its data centres.

What the last mile adds to a round trip is what the FCC measured at peak hours (A Report on Consumer Wireline Broadband
Performance in the U.S., February 2013): 18 ms by fibre, 26 ms by cable, 44 ms by DSL. Bandwidth, loss and how many
have which line are assumptions: see docs/simulations.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum, auto
from random import Random
from types import MappingProxyType
from typing import Any, Final

from simulations.world import Act, World

CITIES: Final = (
    "Dallas",
    "Toronto",
    "Washington",
    "Frankfurt",
    "London",
    "Madrid",
    "Osaka",
    "Sydney",
    "Tokyo",
    "Sao Paulo",
)
_UPPER: Final = (  # round trips in ms, each city to those after it
    (34, 31, 123, 113, 117, 150, 185, 143, 145),
    (19, 92, 82, 109, 169, 215, 161, 130),
    (91, 76, 88, 173, 214, 166, 118),
    (13, 29, 232, 250, 228, 197),
    (27, 244, 261, 242, 187),
    (259, 275, 256, 207),
    (122, 9, 292),
    (115, 327),
    (284,),
)
WITHIN_CITY_MS: Final = 2.0


class Access(Enum):
    """How a peer is connected."""

    DATA_CENTRE = auto()
    FIBRE = auto()
    CABLE = auto()
    DSL = auto()


@dataclass(frozen=True, slots=True)
class Line:
    """What the last mile adds to a round trip, and what goes through it."""

    round_trip_ms: float
    down_bytes_s: float
    up_bytes_s: float
    loss: float


LINES: Final = MappingProxyType(
    {
        Access.DATA_CENTRE: Line(0.2, 125e6, 125e6, 0.00001),
        Access.FIBRE: Line(18.0, 25e6, 12.5e6, 0.0005),
        Access.CABLE: Line(26.0, 12.5e6, 1.25e6, 0.002),
        Access.DSL: Line(44.0, 4e6, 0.75e6, 0.002),
    }
)
JITTER: Final = 0.1  # the mean of what queues on the way add, as a part of the trip: exponential
RESEND_S_MIN: Final = 0.2  # the least time until TCP sends again what was lost (Linux; RFC 6298 says 1 s)


def _table() -> dict[tuple[str, str], float]:
    trips = {(city, city): WITHIN_CITY_MS for city in CITIES}
    for index, row in enumerate(_UPPER):
        for offset, trip_ms in enumerate(row, 1):
            here, there = CITIES[index], CITIES[index + offset]
            trips[here, there] = trips[there, here] = float(trip_ms)
    return trips


ROUND_TRIP_MS: Final = MappingProxyType(_table())


@dataclass(frozen=True, slots=True)
class Place:
    """Where a peer is, and how it is connected."""

    city: str
    access: Access = Access.DATA_CENTRE

    def __post_init__(self) -> None:
        if self.city not in CITIES:
            raise ValueError(f"city: {self.city!r} is not one of {', '.join(CITIES)}")


def drawn_place(rng: Random, cities: Iterable[str] = CITIES) -> Place:
    """Some city, and a connection: 40 of 100 have fibre, 30 cable, 10 DSL; 20 are in data centres."""
    access = rng.choices((Access.FIBRE, Access.CABLE, Access.DSL, Access.DATA_CENTRE), (40, 30, 10, 20))[0]
    return Place(rng.choice(list(cities)), access)


class Links:
    """The network between placed peers. A message arrives late, or not at all where a wall is or a peer is down."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.places: dict[str, Place] = {}
        self.extra_ms: dict[str, float] = {}  # what a peer's own line adds at the moment, one way
        self.on_change: Callable[[Iterable[str] | None], None] = _nobody  # told of whom; None: of anybody
        self._walls: list[_Wall] = []
        self._down: set[str] = set()
        self._rngs: dict[str, Random] = {}

    def place(self, peer: str, place: Place) -> None:
        """Puts a peer on the map."""
        self.places[peer] = place

    def delay_s(self, source: str, target: str, size_bytes: int = 200) -> float:
        """How long a message takes now, one way: the way, jitter, what is sent again, and its own bytes."""
        here, there = self.places[source], self.places[target]
        one, other = LINES[here.access], LINES[there.access]
        rng = self._rngs.get(source) or self._rng(source)
        trip_s = (ROUND_TRIP_MS[here.city, there.city] + one.round_trip_ms + other.round_trip_ms) / 1000
        way_s = trip_s / 2 * (1.0 + rng.expovariate(1.0 / JITTER))
        again_s = max(RESEND_S_MIN, 2 * trip_s)
        while rng.random() < one.loss + other.loss:
            way_s += again_s
            again_s *= 2
        way_s += size_bytes / min(one.up_bytes_s, other.down_bytes_s)
        if self.extra_ms:
            way_s += (self.extra_ms.get(source, 0.0) + self.extra_ms.get(target, 0.0)) / 1000
        return way_s

    def _rng(self, source: str) -> Random:
        """Each peer's messages are delayed by chances of its own."""
        rng = self._rngs[source] = self.world.rng("link " + source)
        return rng

    def send(self, source: str, target: str, size_bytes: int, act: Act, *arguments: Any) -> None:
        """Calls `act` when the message arrives; never, if something is in the way then or now."""
        if self.reaches(source, target):
            self.world.after(self.delay_s(source, target, size_bytes), self._arrive, source, target, act, arguments)

    def _arrive(self, source: str, target: str, act: Act, arguments: tuple[Any, ...]) -> None:
        if self.reaches(source, target):
            act(*arguments)

    # Walls.

    def reaches(self, source: str, target: str) -> bool:
        """Whether messages get from `source` to `target` now."""
        if self._down and (source in self._down or target in self._down):
            return False
        return not any(source in wall.sources and target in wall.targets for wall in self._walls)

    def cut(self, sources: Iterable[str], targets: Iterable[str]) -> None:
        """Nothing gets from these to those any more; the other way is open, unless it is cut too."""
        self._walls.append(_Wall(frozenset(sources), frozenset(targets)))
        self.on_change(None)

    def heal(self, sources: Iterable[str], targets: Iterable[str]) -> None:
        """Ends the `cut` of the same peers. Raises ValueError if there is none."""
        self._walls.remove(_Wall(frozenset(sources), frozenset(targets)))
        self.on_change(None)

    def split(self, one: Iterable[str], other: Iterable[str]) -> None:
        """A partition: nothing gets from one group to the other, in neither direction. `join` ends it."""
        here, there = frozenset(one), frozenset(other)
        self.cut(here, there)
        self.cut(there, here)

    def join(self, one: Iterable[str], other: Iterable[str]) -> None:
        """Ends the `split` of the same groups. Raises ValueError if there is none."""
        here, there = frozenset(one), frozenset(other)
        self.heal(here, there)
        self.heal(there, here)

    def take_down(self, peer: str) -> None:
        """The peer is gone: nothing reaches it or comes from it, not even that it is gone."""
        self._down.add(peer)
        self.on_change((peer,))

    def bring_up(self, peer: str) -> None:
        """The peer is back."""
        self._down.discard(peer)
        self.on_change((peer,))

    def is_up(self, peer: str) -> bool:
        """Whether the peer itself is there."""
        return peer not in self._down


class Way:
    """One direction of a stream: what is sent first arrives first."""

    def __init__(self, links: Links, source: str, target: str) -> None:
        self.links, self.source, self.target = links, source, target
        self._last = 0.0

    def send(self, size_bytes: int, act: Act, *arguments: Any) -> None:
        """Like `Links.send`."""
        links = self.links
        if links.reaches(self.source, self.target):
            arrives = links.world.now + links.delay_s(self.source, self.target, size_bytes)
            self._last = arrives = max(arrives, self._last)
            links.world.at(arrives, links._arrive, self.source, self.target, act, arguments)


@dataclass(frozen=True, slots=True)
class _Wall:
    sources: frozenset[str]
    targets: frozenset[str]


def _nobody(peers: Iterable[str] | None) -> None:
    """Nobody wants to know."""
