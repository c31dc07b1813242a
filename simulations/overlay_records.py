"""What the peers of an overlay hold for others: announcements and offers, until their holder ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from simulations.overlay import Mask
from simulations.overlay_walks import Finds
from simulations.sessions import Sessions

Holders: TypeAlias = dict[int, "Held"]


@dataclass(slots=True)
class Held:
    """One peer's records under one key: whom it knows to provide it, since when. `since`: the holder's own session."""

    since: float
    providers: dict[int, float]


@dataclass(slots=True)
class Copy:
    """One peer's copy of an offer: the newest that it heard, and when."""

    since: float
    heard_at: float
    offer: Any


class Records:
    """All records, by key. `provider_life_s`: how long an announcement counts; a key has `per_key` at one holder."""

    def __init__(self, sessions: Sessions, provider_life_s: float, per_key: int) -> None:
        self.sessions = sessions
        self.provider_life_s = provider_life_s
        self.per_key = per_key
        self.providers: dict[str, Holders] = {}
        self.offers: dict[int, dict[int, Copy]] = {}

    def announce(self, key: str, provider: int, finds: Finds, heard: Mask, row: int, time: float) -> int:
        """Those who heard it keep it, if the key has room there. Returns how many heard it."""
        holders = self.providers.setdefault(key, {})
        for holder in _heard(finds, heard, row):
            since = float(self.sessions.came_at[holder])
            held = holders.get(holder)
            if held is None or held.since != since:  # what it held before it left is lost
                held = holders[holder] = Held(since, {})
            live = held.providers
            if provider not in live and len(live) >= self.per_key:
                held.providers = live = {
                    each: at_s for each, at_s in live.items() if at_s > time - self.provider_life_s
                }
            if provider in live or len(live) < self.per_key:
                live[provider] = time
        return int(heard[row].sum())

    def providers_of(self, key: str, finds: Finds, heard: Mask, row: int, time: float) -> dict[int, None]:
        """Whom those who were asked name."""
        named: dict[int, None] = {}
        holders = self.providers.get(key, {})
        for holder in _heard(finds, heard, row):
            held = holders.get(holder)
            if held is not None and held.since == self.sessions.came_at[holder]:
                named.update(
                    (each, None) for each, at_s in held.providers.items() if at_s > time - self.provider_life_s
                )
        return named

    def put(self, peer: int, offer: Any, finds: Finds, heard: Mask, row: int, time: float) -> int:
        """Those who heard an offer keep it. Returns how many they are."""
        copies = self.offers.setdefault(peer, {})
        for holder in _heard(finds, heard, row):
            copies[holder] = Copy(float(self.sessions.came_at[holder]), time, offer)
        return int(heard[row].sum())

    def get(self, peer: int, finds: Finds, heard: Mask, row: int) -> Any:
        """The newest offer of a peer that those who were asked hold; None if there is none."""
        best: Copy | None = None
        copies = self.offers.get(peer, {})
        for holder in _heard(finds, heard, row):
            copy = copies.get(holder)
            fresh = copy is not None and copy.since == self.sessions.came_at[holder]
            if fresh and copy is not None and (best is None or copy.heard_at > best.heard_at):
                best = copy
        return None if best is None else best.offer

    def faults(self) -> list[str]:
        """No holder keeps more announcements under a key than it may."""
        return [
            f"peer {holder} holds {len(held.providers)} announcements of {key}"
            for key, holders in self.providers.items()
            for holder, held in holders.items()
            if len(held.providers) > self.per_key
        ]


def _heard(finds: Finds, heard: Mask, row: int) -> Sequence[int]:
    holders: list[int] = finds.closest[row][np.flatnonzero(heard[row])].tolist()
    return holders
