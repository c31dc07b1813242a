"""Keeps a directory true: three layers, none of them on the path of a job.

The DHT tells who might serve a model; a pull exchange with peers spreads signed offers; a watch stream to each node in
use carries its load changes in under a second and is the heartbeat. libp2p never notices a peer that hangs: here three
missed beats end its connection.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from random import Random

import trio

from cxp2p import protocols
from cxp2p.directory import Directory, Entry, Via
from cxp2p.errors import CxError, PeerUnreachable, RemoteProtocolError
from cxp2p.identity import Kind, open_envelope
from cxp2p.net import Network, Stream
from cxp2p.net.pump import RecordReader, send_record
from cxp2p.net.rhythm import Rhythm
from cxp2p.records import JOB_OF, Offer, OfferSent, OffersKnown, OffersWanted, Service
from cxp2p.wire import decode

log = logging.getLogger("cxp2p.discover")

LOOKUP_S_FIRST = 1.0
EXCHANGE_S_FIRST = 1.0
MODELS_WANTED_MAX = 64
ASK_AGAIN_S = 1.0
EXCHANGE_TIMEOUT_S = 5.0
LOOKUPS_AT_ONCE = 8
OPENED_MAX = 1024  # offers that were opened lately are remembered, with what they say about 10 kB each
OPENED_BYTES_MAX = 2048  # larger ones are not
BEAT_S_MIN = 0.05  # a node has nothing to tell more often: one that does is read more slowly
FAILURES_WATCHED_MAX = 3  # a node that failed so many jobs in a row makes way, when others wait to be watched
USEFUL_S = 60.0  # a node that did a job of ours so lately keeps its place


def offer_sequence(peer: str, envelope: bytes) -> int:
    """What the DHT asks before it stores an offer under a peer's id: is it that peer's? Raises RemoteProtocolError."""
    opened = open_envelope(Kind.OFFER, envelope, protocols.OFFER_BYTES_MAX)
    offer = decode(Offer, opened.body)
    if not opened.peer == offer.peer == peer:
        raise RemoteProtocolError("the offer is not signed by the peer that it is stored for")
    return offer.sequence


def _open_offer(envelope: bytes) -> tuple[str, Offer]:
    """Who signed an offer, and what it says: it comes by many ways, and is checked once. Raises RemoteProtocolError."""
    return (_opened_lately if len(envelope) <= OPENED_BYTES_MAX else _opened)(envelope)


def _opened(envelope: bytes) -> tuple[str, Offer]:
    opened = open_envelope(Kind.OFFER, envelope, protocols.OFFER_BYTES_MAX)
    return opened.peer, decode(Offer, opened.body)


_opened_lately = lru_cache(maxsize=OPENED_MAX)(_opened)


def hint_keys(service: Service, model: str | None, peer: str) -> tuple[str, ...]:
    """DHT keys under which `peer` announces: the plain key, and one shard, as a key holds 20 peers at most."""
    plain = hint_key(service, model)
    return plain, shard_key(plain, hashlib.sha256(peer.encode()).digest()[0] % protocols.PROVIDER_SHARDS)


def hint_key(service: Service, model: str | None) -> str:
    """`<service>/<model>`, or `<service>` for any model; a name too long for the DHT is replaced by its SHA-256."""
    key = f"{service}/{model}" if model else str(service)
    if len(key.encode()) > protocols.KAD_KEY_BYTES_MAX - 3:
        key = f"{service}/{hashlib.sha256(key.encode()).hexdigest()}"
    return key


def shard_key(key: str, shard: int) -> str:
    """The key of one of the `PROVIDER_SHARDS` that take what a full key cannot hold."""
    return f"{key}#{shard:x}"


class Discovery:
    """Follows the offers of the network. `run` does the work; `directory` is what it knows.

    `watching` False: a peer that only passes offers on (a node, a bootstrap peer) and needs no heartbeats. A node sets
    `own_offer`, so that its neighbours hear of it first-hand.
    """

    def __init__(
        self,
        network: Network,
        directory: Directory,
        wall_ms: Callable[[], int],
        rng: Random,
        *,
        watching: bool,
        rhythm: Rhythm | None = None,
    ) -> None:
        self.network = network
        self.directory = directory
        self._wall_ms = wall_ms
        self._rng = rng
        self._watching = watching
        self._rhythm = rhythm or Rhythm()
        self._watched: dict[str, trio.CancelScope] = {}
        self._wanted: OrderedDict[tuple[Service, str | None], None] = OrderedDict(
            ((service, None), None) for service in JOB_OF
        )
        self._news = trio.Event()
        self._limit = trio.CapacityLimiter(LOOKUPS_AT_ONCE)
        self.own_offer: Callable[[], bytes] | None = None

    def want(self, service: Service, model: str) -> None:
        """Includes a model in the next look-ups; at most 64, the longest unasked is dropped."""
        key = (service, model)
        if key not in self._wanted:
            self._wake()
        self._wanted[key] = None
        self._wanted.move_to_end(key)
        while len(self._wanted) > MODELS_WANTED_MAX:
            del self._wanted[next(k for k in self._wanted if k[1] is not None)]

    async def until(self, ready: Callable[[], bool]) -> None:
        """Waits until `ready()`, asked again when a node comes, goes or returns, and every second: time heals too."""
        while not ready():
            with trio.move_on_after(ASK_AGAIN_S):
                await self._news.wait()

    async def run(self) -> None:
        """Serves the exchange and keeps the directory; ends only by cancellation."""
        self.network.serve(protocols.OFFERS, self._answer_exchange)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._exchange_often)
            nursery.start_soon(self._expire)
            if self._watching:
                nursery.start_soon(self._look_up_often)
                nursery.start_soon(self._take_turns)

    # Offers coming in.

    def learn(self, envelope: bytes, via: Via, lookup_ms: int = 0, told_by: str = "") -> Offer:
        """Opens an offer and takes it into the directory; `told_by` "" is the DHT. Raises RemoteProtocolError."""
        signer, offer = _open_offer(envelope)
        if offer.peer == self.network.peer:
            return offer
        new = self.directory.get(offer.peer) is None
        if self.directory.learn(offer, signer, envelope, via, self._wall_ms(), lookup_ms, told_by):
            self.network.remember(offer.peer, offer.addresses)
            if new:
                self._watch_more()
                log.info("found %s via %s in %d ms", offer.peer, via, lookup_ms)
                self._wake()
        return offer

    def _wake(self) -> None:
        self._news.set()
        self._news = trio.Event()

    # Layer 1: the DHT.

    async def look_up(self, service: Service, model: str | None) -> None:
        """Asks the DHT who serves `model`, and learns the offers of those that it names."""
        started = trio.current_time()
        key = hint_key(service, model)
        peers = set(await self.network.dht.find_providers(key, protocols.PROVIDERS_PER_KEY_MAX))
        if len(peers) >= protocols.PROVIDERS_PER_KEY_MAX:
            for shard in range(protocols.PROVIDER_SHARDS):
                peers.update(
                    await self.network.dht.find_providers(shard_key(key, shard), protocols.PROVIDERS_PER_KEY_MAX)
                )
        async with trio.open_nursery() as nursery:
            for peer in sorted(peers - {self.network.peer}):
                entry = self.directory.get(peer)
                if entry is None or entry.alive_until <= trio.current_time():
                    nursery.start_soon(self._fetch_offer, peer, started)

    async def _fetch_offer(self, peer: str, started: float) -> None:
        async with self._limit:
            try:
                envelope = await self.network.dht.get_offer(peer)
                if envelope is not None:
                    self.learn(envelope, Via.DHT, round((trio.current_time() - started) * 1000))
            except CxError as error:
                log.debug("offer of %s: %s", peer, error)

    async def _look_up_often(self) -> None:
        pause = LOOKUP_S_FIRST
        while True:
            known = len(self.directory)
            for service, model in tuple(self._wanted):
                try:
                    await self.look_up(service, model)
                except CxError as error:
                    log.debug("look-up of %s: %s", hint_key(service, model), error)
            calm = known and len(self.directory) == known
            pause = min(pause * 2, self._rhythm.lookup_s_max) if calm else LOOKUP_S_FIRST
            await trio.sleep(LOOKUP_S_FIRST)
            with trio.move_on_after(pause - LOOKUP_S_FIRST):
                await self._news.wait()

    # Layer 2: the exchange.

    async def _exchange_often(self) -> None:
        """Who knows nobody asks every second: between two peers there is no third that keeps DHT records."""
        while True:
            await self._exchange()
            await trio.sleep(self._rhythm.exchange_s if len(self.directory) else EXCHANGE_S_FIRST)

    async def _exchange(self) -> None:
        peers = self.network.connected()
        async with trio.open_nursery() as nursery:
            for peer in self._rng.sample(peers, min(len(peers), self._rhythm.peers_asked)):
                nursery.start_soon(self._ask_for_offers, peer)

    async def _ask_for_offers(self, peer: str) -> None:
        started = trio.current_time()
        try:
            with trio.fail_after(EXCHANGE_TIMEOUT_S):
                stream = await self.network.open(peer, protocols.OFFERS)
                try:
                    limit = protocols.OFFERS_PER_ANSWER_MAX
                    await send_record(stream, OffersWanted(service=None, model=None, limit=limit))
                    answer = await RecordReader(stream, protocols.OFFERS_ANSWER_BYTES_MAX + 1024).next()
                finally:
                    await stream.reset()
            if not isinstance(answer, OffersKnown):
                raise RemoteProtocolError(f"{peer} did not answer with offers")
        except (CxError, trio.TooSlowError) as error:
            log.debug("exchange with %s: %s", peer, error)
            return
        for envelope in answer.envelopes:
            try:
                self.learn(envelope, Via.EXCHANGE, round((trio.current_time() - started) * 1000), peer)
            except RemoteProtocolError as error:
                log.debug("an offer from %s: %s", peer, error)

    async def _answer_exchange(self, stream: Stream) -> None:
        with trio.fail_after(EXCHANGE_TIMEOUT_S):
            wanted = await RecordReader(stream, protocols.FRAME_BYTES_MAX).next()
            if not isinstance(wanted, OffersWanted):
                raise RemoteProtocolError(f"{stream.peer} must ask for offers here")
            found = self.directory.fresh(wanted.service, wanted.model, wanted.limit, self._wall_ms(), self._rng)
            if self.own_offer is not None:
                found = [self.own_offer(), *found[: wanted.limit - 1]]
            await send_record(stream, OffersKnown(envelopes=tuple(found)))

    # Layer 3: the watch.

    def _watch_more(self) -> None:
        """Watches more nodes while there is room: first those with a model that is asked for, that failed least, and
        that were not watched lately."""
        room = protocols.WATCHED_NODES_MAX - len(self._watched)
        if not self._watching or room <= 0:
            return
        now = trio.current_time()
        waiting = [
            (not self._is_wanted(entry), entry.losses + entry.failures, entry.watched_at, entry.offer.peer)
            for entry in self.directory.entries()
            if entry.offer.peer not in self._watched and entry.suspended_until <= now
        ]
        for *_, peer in sorted(waiting)[:room]:
            self._watched[peer] = trio.CancelScope()
            self._nursery.start_soon(self._keep_watching, peer, self._watched[peer])

    def _is_wanted(self, entry: Entry) -> bool:
        return any((capability.service, capability.model) in self._wanted for capability in entry.offer.capabilities)

    def _crowded(self) -> bool:
        """Whether more nodes are known than are watched."""
        return len(self.directory) > len(self._watched) >= protocols.WATCHED_NODES_MAX

    async def _keep_watching(self, peer: str, turn: trio.CancelScope) -> None:
        """Follows a node until it is forgotten; if others wait, until it cannot be followed or its turn is over."""
        with turn:
            while (entry := self.directory.get(peer)) is not None:
                entry.watched_at = trio.current_time()
                await trio.sleep(max(0.0, entry.suspended_until - trio.current_time()))
                try:
                    await self._follow(peer)
                except CxError as error:
                    log.info("lost %s: %s", peer, error)
                self.directory.lose(peer, trio.current_time())
                self._wake()
                if self._crowded():
                    break
        self.directory.rest(peer)
        del self._watched[peer]
        self._watch_more()

    async def _take_turns(self) -> None:
        """If more nodes are known than can be watched, now and then the one that was of least use to us makes way."""
        while True:
            await trio.sleep(self._rhythm.turn_s)
            now = trio.current_time()
            watched = [entry for peer in self._watched if (entry := self.directory.get(peer)) is not None]
            idle = [entry for entry in watched if not entry.jobs and entry.useful_at < now - USEFUL_S]
            if idle and self._crowded():
                least = min(idle, key=lambda entry: (entry.useful_at, entry.watched_at))
                self._watched[least.offer.peer].cancel()

    async def _follow(self, peer: str) -> None:
        stream = await self.network.open(peer, protocols.OFFER_WATCH)
        try:
            reader = RecordReader(stream, protocols.OFFER_BYTES_MAX + 1024)
            while True:
                with trio.fail_after(self._rhythm.silence_s):
                    beat = await reader.next()
                self._beat(peer, beat)
                await trio.sleep(BEAT_S_MIN)
        except trio.TooSlowError:
            await self.network.kill(peer)
            raise PeerUnreachable(f"{protocols.WATCH_BEATS_MISSED_MAX} beats were missed") from None
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await stream.reset()

    def _beat(self, peer: str, beat: object) -> None:
        if not isinstance(beat, OfferSent):
            raise PeerUnreachable("the watch stream ended")
        entry = self.directory.get(peer)
        if entry is None or entry.envelope != beat.envelope:
            offer = self.learn(beat.envelope, Via.WATCH, told_by=peer)
            if offer.peer != peer:
                raise RemoteProtocolError(f"{peer} sent another peer's offer as its own")
        if entry is not None and entry.failures >= FAILURES_WATCHED_MAX and self._crowded():
            raise PeerUnreachable(f"{entry.failures} jobs failed there, and others wait")
        came_back = entry is None or not entry.alive_until
        self.directory.beat(peer, trio.current_time(), self._rhythm.alive_s)
        if came_back:
            self.directory.returned(peer)
            self._wake()

    # Upkeep.

    async def _expire(self) -> None:
        while True:
            await trio.sleep(self._rhythm.beat_s)
            if self.directory.expire(self._wall_ms()):
                self._wake()
            self._watch_more()
