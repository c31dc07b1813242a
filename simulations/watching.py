"""Which nodes a gateway knows and watches: `cxp2p.net.discover` without the network.

Heartbeats are not sent one by one: a node that can be heard is alive until it cannot, and then three beats pass before
its gateways notice. That is the same to everybody, and saves a day of 50 nodes 21 million events.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from cxp2p.directory import Directory, Via
from cxp2p.net.discover import USEFUL_S
from cxp2p.protocols import WATCH_BEAT_S, WATCH_BEATS_MISSED_MAX, WATCHED_NODES_MAX
from cxp2p.records import Offer

if TYPE_CHECKING:
    from simulations.gateways import GatewayModel

UPKEEP_S = 10.0  # how often offers that ended are forgotten, and a watched node makes way for another
SILENCE_S = WATCH_BEAT_S * WATCH_BEATS_MISSED_MAX


class Watching:
    """A gateway's directory, and the watch that keeps it true."""

    def __init__(self, gateway: GatewayModel) -> None:
        self.gateway = gateway
        self.world = gateway.world
        self.directory = Directory()
        self.watched: dict[str, bool] = {}  # whether the node is heard
        self._silent: dict[str, int] = {}  # the event at which three beats will have been missed
        self.world.after(UPKEEP_S, self._keep_up)

    # Learning.

    def learn(self, offer: Offer, envelope: bytes, via: Via = Via.DHT, told_by: str = "") -> None:
        """An offer arrived by look-up or exchange."""
        wall_ms = self.gateway.clock.wall_ms()
        if offer.expires_at_ms > wall_ms:
            self.directory.learn(offer, offer.peer, envelope, via, wall_ms, told_by=told_by)
            self._watch_more()

    def beat(self, offer: Offer, envelope: bytes) -> None:
        """An offer arrived on its node's own watch stream."""
        if offer.peer in self.watched:
            self.directory.learn(
                offer, offer.peer, envelope, Via.WATCH, self.gateway.clock.wall_ms(), told_by=offer.peer
            )

    def _watch_more(self) -> None:
        room = WATCHED_NODES_MAX - len(self.watched)
        if room <= 0 or len(self.directory) <= len(self.watched):
            return
        now = self.gateway.clock.now()
        waiting = [
            (entry.losses + entry.failures, entry.watched_at, entry.offer.peer)
            for entry in self.directory.entries()
            if entry.offer.peer not in self.watched and entry.suspended_until <= now
        ]
        for *_, peer in sorted(waiting)[:room]:
            self.watched[peer] = False
            self._follow(peer)

    # Hearing.

    def changed(self, peer: str) -> None:
        """A node came or went, or something between it and its gateway did."""
        heard = self.watched.get(peer)
        if heard is None:
            return
        there = self.gateway.town.answers(self.gateway.peer, peer)
        if heard and not there and peer not in self._silent:
            self._silent[peer] = self.world.after(SILENCE_S, self._lose, peer)
        elif heard and there and peer in self._silent:
            self.world.cancel(self._silent.pop(peer))
        elif not heard and there:
            entry = self.directory.get(peer)
            wait_s = max(0.0, entry.suspended_until - self.gateway.clock.now()) if entry else 0.0
            self.world.after(wait_s, self._follow, peer)

    def broke(self, peer: str) -> None:
        """The node's end of the connection said goodbye."""
        if self.watched.get(peer):
            if peer in self._silent:
                self.world.cancel(self._silent.pop(peer))
            self._silent[peer] = 0
            self._lose(peer)

    def _follow(self, peer: str) -> None:
        entry = self.directory.get(peer)
        if self.watched.get(peer) is not False or entry is None:
            return
        now = self.gateway.clock.now()
        entry.watched_at = now
        if not self.gateway.town.answers(self.gateway.peer, peer):
            self.directory.lose(peer, now)
            if self._crowded():
                self._drop(peer)
            return
        self.watched[peer] = True
        node = self.gateway.town.nodes[peer]
        node.watchers[self.gateway.peer] = None
        self.directory.beat(peer, math.inf)
        self.directory.returned(peer)
        self.gateway.town.tell_offer(node, self.gateway.peer, node.offer, node.envelope)

    def _lose(self, peer: str) -> None:
        self._silent.pop(peer, None)
        self.watched[peer] = False
        self.gateway.town.nodes[peer].watchers.pop(self.gateway.peer, None)
        self.directory.lose(peer, self.gateway.clock.now())
        self.gateway.lost(peer)
        if self._crowded():
            self._drop(peer)
            self._watch_more()

    def _drop(self, peer: str) -> None:
        self.directory.rest(peer)
        self.gateway.town.nodes[peer].watchers.pop(self.gateway.peer, None)
        del self.watched[peer]
        if self._silent.get(peer):
            self.world.cancel(self._silent.pop(peer))

    def _crowded(self) -> bool:
        return len(self.directory) > len(self.watched) >= WATCHED_NODES_MAX

    # Upkeep.

    def _keep_up(self) -> None:
        self.world.after(UPKEEP_S, self._keep_up)
        for peer in self.directory.expire(self.gateway.clock.wall_ms()):
            if peer in self.watched:
                self._drop(peer)
        if self._crowded():
            now = self.gateway.clock.now()
            entries = [entry for peer in self.watched if (entry := self.directory.get(peer)) is not None]
            idle = [entry for entry in entries if not entry.jobs and entry.useful_at < now - USEFUL_S]
            if idle:
                self._drop(min(idle, key=lambda entry: (entry.useful_at, entry.watched_at)).offer.peer)
        self._watch_more()
