"""Tells the network what this node does: a signed offer in the DHT, and on a watch stream to every gateway in use."""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from cxp2p import protocols
from cxp2p.errors import CxError, PeerUnreachable
from cxp2p.identity import Identity, Kind
from cxp2p.net import Network, Stream
from cxp2p.net.discover import hint_keys
from cxp2p.net.pump import send_record
from cxp2p.net.rhythm import Rhythm
from cxp2p.records import Capability, Offer, OfferSent
from cxp2p.wire import encode

log = logging.getLogger("cxp2p.node.advertise")

CHANGE_S_MIN = 0.05  # load changes with every job: more than 20 offers a second tell nobody more
PUT_RETRY_S_FIRST = 1.0
WATCHER_WAIT_S = 10.0  # for a watcher that does not read; it drops us after three missed beats anyhow
OFFER_LIFE_MS = protocols.OFFER_LIFE_MS_MAX


class Advertiser:
    """Signs the node's offer anew whenever it changes, and pushes it.

    `capabilities` is asked each time; `draining` says that the node takes no more jobs. Call `change` after anything
    that an asker should know.
    """

    def __init__(
        self,
        identity: Identity,
        network: Network,
        capabilities: Callable[[], tuple[Capability, ...]],
        draining: Callable[[], bool],
        wall_ms: Callable[[], int],
        *,
        agent: str,
        owner: str = "",
        rhythm: Rhythm | None = None,
    ) -> None:
        self._identity = identity
        self._network = network
        self._capabilities = capabilities
        self._draining = draining
        self._wall_ms = wall_ms
        self._agent = agent
        self._owner = owner
        self._beat_s = (rhythm or Rhythm()).beat_s
        self._sequence = 0
        self._dirty = trio.Event()
        self._signed = trio.Event()
        self._models: frozenset[tuple[str, str]] = frozenset()
        self._models_changed = trio.Event()
        self._watchers: dict[str, trio.CancelScope] = {}
        self.envelope = self._sign()

    def change(self) -> None:
        """Something in the offer is different now."""
        self._dirty.set()

    async def run(self) -> None:
        """Keeps the offer fresh in the DHT and serves watchers; ends only by cancellation."""
        self._network.serve(protocols.OFFER_WATCH, self._beat)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow_changes)
            nursery.start_soon(self._keep_in_dht)

    def _sign(self) -> bytes:
        wall_ms = self._wall_ms()
        self._sequence = max(self._sequence + 1, wall_ms)
        capabilities = self._capabilities()
        offer = Offer(
            peer=self._identity.peer,
            sequence=self._sequence,
            issued_at_ms=wall_ms,
            expires_at_ms=wall_ms + OFFER_LIFE_MS,
            addresses=self._network.addresses[:16],
            agent=self._agent,
            owner=self._owner,
            draining=self._draining(),
            capabilities=capabilities,
        )
        models = frozenset((str(capability.service), capability.model) for capability in capabilities)
        if models != self._models:
            self._models = models
            self._models_changed.set()
        return self._identity.seal(Kind.OFFER, encode(offer))

    async def _follow_changes(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty = trio.Event()
            self.envelope = self._sign()
            self._signed.set()
            self._signed = trio.Event()
            await trio.sleep(CHANGE_S_MIN)

    async def _beat(self, stream: Stream) -> None:
        """One watcher: the offer when it changes, and at least every beat. A peer's newer watch ends its older."""
        older = self._watchers.pop(stream.peer, None)
        if older is not None:
            older.cancel()
        with trio.CancelScope() as watch:
            self._watchers[stream.peer] = watch
            try:
                while True:
                    with trio.fail_after(WATCHER_WAIT_S):
                        await send_record(stream, OfferSent(envelope=self.envelope))
                    with trio.move_on_after(self._beat_s):
                        await self._signed.wait()
            finally:
                if self._watchers.get(stream.peer) is watch:
                    del self._watchers[stream.peer]
        raise PeerUnreachable(f"{stream.peer} watches anew")

    async def _keep_in_dht(self) -> None:
        pause = PUT_RETRY_S_FIRST
        while True:
            self._models_changed = trio.Event()
            try:
                copies = await self._put()
            except CxError as error:
                log.info("the offer could not be put into the DHT: %s", error)
                copies = 0
            if copies:
                log.info("the offer is with %d peers of the DHT", copies)
            pause = protocols.OFFER_PUT_INTERVAL_S if copies else min(pause * 2, 30.0)
            with trio.move_on_after(pause):
                await self._models_changed.wait()

    async def _put(self) -> int:
        if not self._network.connected():
            return 0
        # The DHT refuses to extend the life of a value that it has: a new sequence each time.
        self.envelope = self._sign()
        copies = await self._network.dht.put_offer(self.envelope)
        for service, model in sorted({(c.service, c.model) for c in self._capabilities()}):
            for key in (
                *hint_keys(service, None, self._identity.peer),
                *hint_keys(service, model, self._identity.peer),
            ):
                await self._network.dht.provide(key)
        return copies
