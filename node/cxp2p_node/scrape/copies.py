"""Pages that are kept for a while, and what hosts said in robots.txt: both bounded, both forget what was used longest
ago. Pure: `now` is monotonic seconds."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from cxp2p_node.scrape.fetched import Fetched
from cxp2p_node.scrape.robots import Robots

COPY_BYTES: Final = 8192  # in memory, besides a page's body: its addresses and headers
SHARE: Final = 8  # no page takes more than this part of the room
ROBOTS_S: Final = 86_400.0  # RFC 9309, 2.4
ROBOTS_RETRY_S: Final = 300.0  # a host whose file cannot be had is asked again after this
ROBOTS_BYTES_MAX: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class Copy:
    """A page that came at `at`. `validators`: request headers that ask whether it is still the page."""

    fetched: Fetched
    at: float
    validators: Mapping[str, str] = field(default_factory=dict)

    @property
    def weight(self) -> int:
        return COPY_BYTES + len(self.fetched.body)


class Copies:
    """Pages by the URL that was asked for. Their bytes stay under `bytes_max`."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._copies: OrderedDict[str, Copy] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._copies)

    def of(self, url: str) -> Copy | None:
        """The copy of a page, however old."""
        copy = self._copies.get(url)
        if copy is not None:
            self._copies.move_to_end(url)
        return copy

    def young(self, url: str, age_s_max: float, now: float) -> Fetched | None:
        """The copy of a page, if it is no older than that."""
        copy = self.of(url)
        if copy is None or now - copy.at > age_s_max:
            return None
        return replace(copy.fetched, cached=True)

    def keep(self, url: str, copy: Copy) -> None:
        """Keeps a page in place of what was there, if it is not too large."""
        self.drop(url)
        if copy.weight > self._bytes_max // SHARE:
            return
        self._copies[url] = copy
        self.bytes += copy.weight
        while self.bytes > self._bytes_max:
            _, old = self._copies.popitem(last=False)
            self.bytes -= old.weight

    def drop(self, url: str) -> None:
        """Forgets a page: it is no more."""
        old = self._copies.pop(url, None)
        self.bytes -= old.weight if old else 0


class RobotsBook:
    """What hosts said, by origin."""

    def __init__(self, bytes_max: int = ROBOTS_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._known: OrderedDict[str, tuple[Robots, float]] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._known)

    def of(self, origin: str, now: float) -> Robots | None:
        """What holds at an origin now, None if that is not known."""
        robots, until = self._known.get(origin, (None, 0.0))
        return robots if now < until else None

    def last(self, origin: str) -> Robots | None:
        """What its file said last, however long ago."""
        return self._known[origin][0] if origin in self._known else None

    def learn(self, origin: str, robots: Robots, until: float) -> None:
        """From now on this holds at an origin, until then."""
        old, _ = self._known.pop(origin, (None, 0.0))
        self.bytes += _weight(robots) - (_weight(old) if old else 0)
        self._known[origin] = (robots, until)
        while self.bytes > self._bytes_max and len(self._known) > 1:
            _, (forgotten, _) = self._known.popitem(last=False)
            self.bytes -= _weight(forgotten)


def _weight(robots: Robots) -> int:
    return COPY_BYTES + robots.weight
