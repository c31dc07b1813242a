"""The live offers known here. Pure: `wall_ms` checks signed times, `now` (monotonic seconds) our own waits.

An offer is believed when its signer is its subject, its times are within the skew limit, and its sequence is higher
than the last one seen of that peer. A peer that fails is suspended for a while, longer each time in a row, and is
welcome again with its next success. One that says it is full is asked last for a while.

Anybody can make any number of peer ids, and offers signed by them. So a full directory never lets go of a node whose
own heartbeat was heard, and of the others those go first that were told by whoever told most.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from cxp2p import protocols
from cxp2p.errors import RemoteProtocolError
from cxp2p.records import Capability, Offer, Service

OFFERS_BYTES_MAX = 8 * 1024 * 1024  # of all envelopes; decoded they take about four times as much
SUSPEND_S_FIRST = 2.0
SUSPEND_S_MAX = 60.0
BUSY_S_FIRST = 0.25
FIRST_PIECE_WEIGHT = 0.3
REQUEST_BYTES_UNIT = 2_000  # the first piece of a long prompt takes longer: about in proportion
ALIVE_S = protocols.WATCH_BEAT_S * protocols.WATCH_BEATS_MISSED_MAX + 0.5


class Via(StrEnum):
    """How an offer reached us."""

    DHT = "dht"
    EXCHANGE = "exchange"
    WATCH = "watch"


@dataclass(slots=True)
class Entry:
    """One peer's newest offer, the envelope that proves it, and what we know of the peer ourselves.

    `found_via` and `lookup_ms` tell how the peer was first found, `told_by` who told of it ("" for the DHT); `jobs` is
    how many of ours run there now. The node is used while `alive_until` is ahead: only its own heartbeat moves that.
    `failures`, `losses` and `refusals` are in a row: of jobs, of the heartbeat, and for want of room. `first_piece_ms`
    is what we measured ourselves, at `measured_at`, for a prompt of 2 kB. `useful_at`: when it last did a job of ours.
    `suspended_model`: the only model that it is suspended for; None: it is for all.
    """

    offer: Offer
    envelope: bytes
    found_via: Via
    lookup_ms: int
    alive_until: float = 0.0
    suspended_until: float = 0.0
    suspended_model: str | None = None
    busy_until: float = 0.0
    failures: int = 0
    losses: int = 0
    refusals: int = 0
    jobs: int = 0
    useful_at: float = -math.inf
    watched_at: float = -math.inf
    first_piece_ms: float = 0.0
    measured_at: float = 0.0
    told_by: str = ""


def check_offer(offer: Offer, signer: str, wall_ms: int) -> None:
    """Raises RemoteProtocolError for an offer that nobody should believe or pass on."""
    skew = protocols.CLOCK_SKEW_MS_MAX
    if signer != offer.peer:
        raise RemoteProtocolError("the offer is not signed by the peer that it is about")
    if offer.issued_at_ms > wall_ms + skew:
        raise RemoteProtocolError(f"the offer was issued {offer.issued_at_ms - wall_ms} ms in the future")
    if offer.expires_at_ms <= wall_ms:
        raise RemoteProtocolError("the offer has expired")
    if not 0 < offer.expires_at_ms - offer.issued_at_ms <= protocols.OFFER_LIFE_MS_MAX:
        raise RemoteProtocolError(f"the offer's life is not within {protocols.OFFER_LIFE_MS_MAX} ms")


class Directory:
    """Offers by peer: at most `peers_max`, and `bytes_max` of envelopes."""

    def __init__(self, peers_max: int = protocols.DIRECTORY_PEERS_MAX, bytes_max: int = OFFERS_BYTES_MAX) -> None:
        self.peers_max = peers_max
        self.bytes_max = bytes_max
        self._entries: dict[str, Entry] = {}
        self._beating: dict[str, Entry] = {}  # those that were heard and not given up: a few of all that are known
        self._told: dict[str, OrderedDict[str, None]] = {}  # by whom: which peers, the first told first
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"<Directory {len(self._entries)} peers of {self.peers_max}>"

    def get(self, peer: str) -> Entry | None:
        return self._entries.get(peer)

    def entries(self) -> tuple[Entry, ...]:
        return tuple(self._entries.values())

    def learn(
        self,
        offer: Offer,
        signer: str,
        envelope: bytes,
        via: Via,
        wall_ms: int,
        lookup_ms: int = 0,
        told_by: str = "",
    ) -> bool:
        """Takes an opened offer in. True if it is newer than what was known and kept. Raises RemoteProtocolError."""
        check_offer(offer, signer, wall_ms)
        known = self._entries.get(offer.peer)
        if known is None:
            self._entries[offer.peer] = Entry(offer, envelope, via, lookup_ms, told_by=told_by)
            self._told.setdefault(told_by, OrderedDict())[offer.peer] = None
            self._bytes += len(envelope)
        elif offer.sequence > known.offer.sequence:
            self._bytes += len(envelope) - len(known.envelope)
            known.offer, known.envelope = offer, envelope
            if told_by == offer.peer:
                self._told_by_itself(known)
        else:
            return False
        while len(self._entries) > self.peers_max or self._bytes > self.bytes_max:
            if not self._make_room():
                break
        return offer.peer in self._entries

    def _told_by_itself(self, entry: Entry) -> None:
        """A peer that speaks for itself does not go with those that somebody else told of."""
        self._untell(entry)
        entry.told_by = entry.offer.peer
        self._told.setdefault(entry.told_by, OrderedDict())[entry.offer.peer] = None

    def _untell(self, entry: Entry) -> None:
        told = self._told[entry.told_by]
        del told[entry.offer.peer]
        if not told:
            del self._told[entry.told_by]

    def _make_room(self) -> bool:
        """Forgets the first peer of whoever told most, but none that beats or works for us."""
        for _, peers in sorted(self._told.items(), key=lambda told: len(told[1]), reverse=True):
            for peer in peers:
                entry = self._entries[peer]
                if not entry.alive_until and not entry.jobs:
                    self._forget(peer)
                    return True
        return False

    def _forget(self, peer: str) -> None:
        entry = self._entries.pop(peer)
        self._beating.pop(peer, None)
        self._bytes -= len(entry.envelope)
        self._untell(entry)

    def expire(self, wall_ms: int) -> tuple[str, ...]:
        """Forgets offers that ended, unless a job of ours runs there. Returns the peers."""
        gone = tuple(
            peer for peer, entry in self._entries.items() if entry.offer.expires_at_ms <= wall_ms and not entry.jobs
        )
        for peer in gone:
            self._forget(peer)
        return gone

    def beat(self, peer: str, now: float, alive_s: float = ALIVE_S) -> None:
        """The node itself was heard: it may be used for `alive_s`, until three beats are missed."""
        entry = self._entries.get(peer)
        if entry is not None:
            entry.alive_until = now + alive_s
            self._beating[peer] = entry

    def rest(self, peer: str) -> None:
        """The node is not watched any more, through no fault of its own."""
        entry = self._entries.get(peer)
        if entry is not None:
            entry.alive_until = 0.0
            self._beating.pop(peer, None)

    def lose(self, peer: str, now: float) -> None:
        """The node's heartbeat broke: not used until it beats again, and not watched for a while."""
        entry = self._entries.get(peer)
        if entry is not None:
            entry.alive_until = 0.0
            self._beating.pop(peer, None)
            entry.suspended_until = max(entry.suspended_until, now + _pause_s(entry.losses))
            entry.suspended_model = None
            entry.losses = min(entry.losses + 1, 16)

    def returned(self, peer: str) -> None:
        """The node beats again: its losses are forgotten, its failed jobs are not."""
        entry = self._entries.get(peer)
        if entry is not None:
            entry.losses = 0
            if not entry.failures:
                entry.suspended_until = 0.0

    def suspend(self, peer: str, now: float, model: str | None = None) -> None:
        """The peer failed a job: not used for 2 s, then twice as long for each failure in a row, at most 60 s.

        If it said itself that it failed, with `model`, its others are used on, until another one fails too.
        """
        entry = self._entries.get(peer)
        if entry is not None:
            again = entry.suspended_until <= now or entry.suspended_model == model
            entry.suspended_model = model if again else None
            entry.suspended_until = now + _pause_s(entry.failures)
            entry.failures = min(entry.failures + 1, 16)

    def full(self, peer: str, now: float, retry_after_ms: int) -> None:
        """The peer had no room for a job: asked last until then, and longer if it says so again and again."""
        entry = self._entries.get(peer)
        if entry is not None:
            pause_s = max(retry_after_ms / 1000, BUSY_S_FIRST * 2**entry.refusals)
            entry.busy_until = now + min(pause_s, SUSPEND_S_MAX)
            entry.refusals = min(entry.refusals + 1, 16)

    def welcome(self, peer: str, now: float, model: str | None = None) -> None:
        """The peer did a job as it should: its failures are forgotten, unless it is suspended for another model."""
        entry = self._entries.get(peer)
        if entry is not None:
            if entry.suspended_until <= now or entry.suspended_model in (None, model):
                entry.suspended_until, entry.failures = 0.0, 0
            entry.busy_until, entry.refusals = 0.0, 0
            entry.useful_at = now

    def measure(self, peer: str, first_piece_ms: float, request_bytes: int, now: float) -> None:
        """How long a job really waited for its first piece, whatever the node's offer says."""
        entry = self._entries.get(peer)
        if entry is not None:
            measured, old = _for_a_unit(first_piece_ms, request_bytes), entry.first_piece_ms
            entry.first_piece_ms = old + FIRST_PIECE_WEIGHT * (measured - old) if old else measured
            entry.measured_at = now

    def waited(self, peer: str, waited_ms: float, request_bytes: int, now: float) -> None:
        """A job was given up before its first piece: it would have taken longer than that."""
        entry = self._entries.get(peer)
        if entry is not None and _for_a_unit(waited_ms, request_bytes) > entry.first_piece_ms:
            self.measure(peer, waited_ms, request_bytes, now)

    def candidates(
        self, service: Service, model: str, wall_ms: int, now: float
    ) -> tuple[tuple[Entry, Capability], ...]:
        """Nodes that beat, are not suspended or draining, and offer `model`, with the capability that does."""
        found: list[tuple[Entry, Capability]] = []
        for entry in self._beating.values():
            if entry.offer.expires_at_ms <= wall_ms or entry.offer.draining:
                continue
            if entry.alive_until <= now:
                continue
            if entry.suspended_until > now and entry.suspended_model in (None, model):
                continue
            found.extend(
                (entry, capability)
                for capability in entry.offer.capabilities
                if capability.service is service and capability.model == model and _has_room(capability)
            )
        return tuple(found)

    def fresh(self, service: Service | None, model: str | None, limit: int, wall_ms: int, rng: Random) -> list[bytes]:
        """Envelopes to pass on: live offers that match, newest first; a random sample when there are more than fit."""
        matching = [
            entry
            for entry in self._entries.values()
            if entry.offer.expires_at_ms > wall_ms and _matches(entry.offer, service, model)
        ]
        if len(matching) > limit:
            matching = rng.sample(matching, limit)
        matching.sort(key=lambda entry: entry.offer.issued_at_ms, reverse=True)
        return _within(matching, protocols.OFFERS_ANSWER_BYTES_MAX)


def _has_room(capability: Capability) -> bool:
    return min(capability.context_units, capability.output_units_max) > 0


def _for_a_unit(first_piece_ms: float, request_bytes: int) -> float:
    return first_piece_ms / max(1.0, request_bytes / REQUEST_BYTES_UNIT)


def _pause_s(times: int) -> float:
    return float(min(SUSPEND_S_FIRST * 2**times, SUSPEND_S_MAX))


def _matches(offer: Offer, service: Service | None, model: str | None) -> bool:
    if service is None:
        return True
    return any(capability.service is service and model in (None, capability.model) for capability in offer.capabilities)


def _within(entries: Iterable[Entry], bytes_max: int) -> list[bytes]:
    chosen, total = [], 0
    for entry in entries:
        total += len(entry.envelope)
        if total > bytes_max:
            break
        chosen.append(entry.envelope)
    return chosen
