"""The network as it is now, in the few numbers that a page shows. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from cxp2p.directory import Entry
from cxp2p.records import Service


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRow:
    """One live node: what it calls itself, what it serves, and how busy it is."""

    peer: str
    agent: str
    owner: str
    models: tuple[str, ...]
    running: int
    queued: int
    slots: int
    found_via: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """`units_per_s`, `first_piece_ms`: medians of what chat nodes measured themselves, 0 if none did.

    `units_per_s` is of one answer.
    """

    nodes: int = 0
    models: int = 0
    running: int = 0
    units_per_s: int = 0
    first_piece_ms: int = 0
    rows: Sequence[NodeRow] = ()

    def told(self) -> dict[str, int]:
        """What anybody may know."""
        return {
            "nodes": self.nodes,
            "models": self.models,
            "running": self.running,
            "units_per_s": self.units_per_s,
            "first_piece_ms": self.first_piece_ms,
        }


class Recent:
    """What `look` says, looked up anew when it is older than `fresh_s`: pages ask more often than nodes tell."""

    def __init__(self, look: Callable[[], Live], now: Callable[[], float], fresh_s: float = 1.0) -> None:
        self._look = look
        self._now = now
        self._fresh_s = fresh_s
        self._live = Live()
        self._until = float("-inf")

    def __call__(self) -> Live:
        """What is known, at most `fresh_s` old."""
        if self._now() >= self._until:
            self._live = self._look()
            self._until = self._now() + self._fresh_s
        return self._live


def live_of(entries: Iterable[Entry]) -> Live:
    """The numbers of these entries, which are of live nodes."""
    known = tuple(entries)
    offered = [each for entry in known for each in entry.offer.capabilities]
    chat = [each.load for each in offered if each.service is Service.CHAT]
    return Live(
        nodes=len(known),
        models=len({(each.service, each.model) for each in offered}),
        running=sum(each.load.running for each in offered),
        units_per_s=_median(load.units_per_s for load in chat),
        first_piece_ms=_median(load.first_piece_ms for load in chat),
        rows=tuple(_row(entry) for entry in sorted(known, key=lambda entry: entry.offer.peer)),
    )


def _row(entry: Entry) -> NodeRow:
    offered = entry.offer.capabilities
    return NodeRow(
        peer=entry.offer.peer,
        agent=entry.offer.agent,
        owner=entry.offer.owner,
        models=tuple(sorted({each.model for each in offered})),
        running=sum(each.load.running for each in offered),
        queued=sum(each.load.queued for each in offered),
        slots=sum(each.slots for each in offered),
        found_via=str(entry.found_via),
    )


def _median(values: Iterable[int]) -> int:
    known = [value for value in values if value]
    return round(median(known)) if known else 0
