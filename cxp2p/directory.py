"""The live offers known here. Pure: `wall_ms` checks signed times, `now` (monotonic seconds) our own waits.

An offer is believed when its signer is its subject, its times are within the skew limit, and its sequence is higher
than the last one seen of that peer. A peer that fails is suspended for a while, longer each time in a row, and is
welcome again with its next success.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from cxp2p import protocols
from cxp2p.errors import RemoteProtocolError
from cxp2p.records import Capability, Offer, Service

SUSPEND_S_FIRST = 2.0
SUSPEND_S_MAX = 60.0
ALIVE_S = protocols.WATCH_BEAT_S * protocols.WATCH_BEATS_MISSED_MAX + 0.5


class Via(StrEnum):
    """How an offer reached us."""

    DHT = "dht"
    EXCHANGE = "exchange"
    WATCH = "watch"


@dataclass(slots=True)
class Entry:
    """One peer's newest offer, the envelope that proves it, and what we know of the peer ourselves.

    `found_via` and `lookup_ms` tell how the peer was first found; `jobs` is how many of ours run there now. The node is
    used while `alive_until` is ahead: only its own heartbeat moves that.
    """

    offer: Offer
    envelope: bytes
    found_via: Via
    lookup_ms: int
    alive_until: float = 0.0
    suspended_until: float = 0.0
    failures: int = 0
    jobs: int = 0


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
    """Offers by peer, at most `peers_max`: when full, the offer that expires first makes room."""

    def __init__(self, peers_max: int = protocols.DIRECTORY_PEERS_MAX) -> None:
        self.peers_max = peers_max
        self._entries: dict[str, Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"<Directory {len(self._entries)} peers of {self.peers_max}>"

    def get(self, peer: str) -> Entry | None:
        return self._entries.get(peer)

    def entries(self) -> tuple[Entry, ...]:
        return tuple(self._entries.values())

    def learn(self, offer: Offer, signer: str, envelope: bytes, via: Via, wall_ms: int, lookup_ms: int = 0) -> bool:
        """Takes an opened offer in. True if it is newer than what was known. Raises RemoteProtocolError."""
        check_offer(offer, signer, wall_ms)
        known = self._entries.get(offer.peer)
        if known is not None:
            if offer.sequence <= known.offer.sequence:
                return False
            known.offer, known.envelope = offer, envelope
            return True
        if len(self._entries) >= self.peers_max:
            first = min(self._entries.values(), key=lambda entry: entry.offer.expires_at_ms)
            del self._entries[first.offer.peer]
        self._entries[offer.peer] = Entry(offer, envelope, via, lookup_ms)
        return True

    def expire(self, wall_ms: int) -> tuple[str, ...]:
        """Forgets offers that ended, unless a job of ours runs there. Returns the peers."""
        gone = tuple(
            peer for peer, entry in self._entries.items() if entry.offer.expires_at_ms <= wall_ms and not entry.jobs
        )
        for peer in gone:
            del self._entries[peer]
        return gone

    def beat(self, peer: str, now: float) -> None:
        """The node itself was heard: it may be used until three beats are missed."""
        entry = self._entries.get(peer)
        if entry is not None:
            entry.alive_until = now + ALIVE_S

    def lose(self, peer: str, now: float) -> None:
        """The node's heartbeat broke: not used until it beats again, and not asked to for a while."""
        self.suspend(peer, now)
        entry = self._entries.get(peer)
        if entry is not None:
            entry.alive_until = 0.0

    def suspend(self, peer: str, now: float) -> None:
        """The peer failed: not used for 2 s, then twice as long for each failure in a row, at most 60 s."""
        entry = self._entries.get(peer)
        if entry is not None:
            entry.suspended_until = now + min(SUSPEND_S_FIRST * 2**entry.failures, SUSPEND_S_MAX)
            entry.failures = min(entry.failures + 1, 16)

    def welcome(self, peer: str) -> None:
        """The peer did what it should: its failures are forgotten."""
        entry = self._entries.get(peer)
        if entry is not None:
            entry.suspended_until, entry.failures = 0.0, 0

    def candidates(
        self, service: Service, model: str, wall_ms: int, now: float
    ) -> tuple[tuple[Entry, Capability], ...]:
        """Nodes that beat, are not suspended or draining, and offer `model`, with the capability that does."""
        found: list[tuple[Entry, Capability]] = []
        for entry in self._entries.values():
            if entry.offer.expires_at_ms <= wall_ms or entry.offer.draining:
                continue
            if entry.alive_until <= now or entry.suspended_until > now:
                continue
            found.extend(
                (entry, capability)
                for capability in entry.offer.capabilities
                if capability.service is service and capability.model == model
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
