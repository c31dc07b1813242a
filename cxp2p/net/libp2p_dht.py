"""The DHT over py-libp2p's kad-dht, asked so that its answers are fresh and its failures honest.

The stock calls answer from a local copy, count stores that did not happen, and walk every peer. Here the closest peers
are found by a walk of our own, and then asked directly, all at once, in bounded time.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import trio
from libp2p.kad_dht.common import ALPHA
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.kad_dht.peer_routing import MIN_PEERS_THRESHOLD
from libp2p.kad_dht.utils import sort_peer_ids_by_distance
from libp2p.peer.id import ID
from libp2p.records.validator import NamespacedValidator, Validator
from libp2p.tools.anyio_service import background_trio_service

from cxp2p import protocols
from cxp2p.epochs import check_root
from cxp2p.errors import LocalProtocolError, RemoteProtocolError
from cxp2p.net import libp2p_fixes as fixes

log = logging.getLogger("cxp2p.net.libp2p")

T = TypeVar("T")

NAMESPACE = "cxp2p"
KEY = re.compile(rf"/{NAMESPACE}/([^/]+)(?:/(0|[1-9][0-9]{{0,18}}))?")
ASK_S = 3.0  # one peer's answer
LOOK_UP_S = 8.0  # finding the closest peers; then those that were met so far are asked
ROUND_S = 2.0  # of that: to dial and ask takes six round trips, one round the world a third of a second
CLOSEST = 20  # peers that keep a record: k, in the DHT's words
PROVIDE_PAUSE_S = 1.1  # a peer drops more than 10 announcements in 10 s, silently
PROVIDE_BURST = 8


class SignedRecords(Validator):
    """What the DHT may store: what the peer signed that the key names.

    Under `/cxp2p/<peer id>` its offer: the higher sequence wins. Under `/cxp2p/<peer id>/<epoch>` its root of that
    epoch: the first one that came is kept, so that another one elsewhere is seen beside it.
    """

    def __init__(self, offer_validator: Callable[[str, bytes], int]) -> None:
        self._sequence = offer_validator

    def validate(self, key: str, value: bytes) -> None:
        peer, epoch = _named(key)
        try:
            if epoch is None:
                self._sequence(peer, value)
            else:
                check_root(peer, epoch, value)
        except RemoteProtocolError as error:
            raise ValueError(str(error)) from None

    def select(self, key: str, values: list[bytes]) -> int:
        peer, epoch = _named(key)
        if epoch is not None:
            return 0
        return max(range(len(values)), key=lambda index: self._sequence(peer, values[index]))


def _named(key: str) -> tuple[str, int | None]:
    """The peer that a key is of, and the epoch if it is a root's."""
    found = KEY.fullmatch(key)
    if found is None:
        raise ValueError(f"DHT key {key!r} is not /{NAMESPACE}/<peer id> or /{NAMESPACE}/<peer id>/<epoch>")
    peer, epoch = found.groups()
    return peer, None if epoch is None else int(epoch)


class Libp2pDht:
    """Kad-dht behind our seam."""

    def __init__(self, host: Any, offer_validator: Callable[[str, bytes], int], *, server: bool) -> None:
        self._host = host
        self._sequence = offer_validator
        self._dht = KadDHT(
            host,
            DHTMode.SERVER if server else DHTMode.CLIENT,
            validator=NamespacedValidator({NAMESPACE: SignedRecords(offer_validator)}, strict_validation=True),
            validator_changed=True,
            strict_validation=True,
        )
        self._provided_at: list[float] = []
        if server:
            fixes.limit_kad_streams(self._dht, host, protocols.KAD)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Runs kad-dht's own upkeep beside the block."""
        async with background_trio_service(self._dht):
            yield

    async def join(self, peer: str) -> bool:
        """Takes a connected peer into the routing table and learns of others through it. False if it is no server."""
        added = await self._dht.add_peer(ID.from_base58(peer), skip_server_mode_check=True)
        with trio.move_on_after(LOOK_UP_S):
            await self._dht.refresh_routing_table()
        return bool(added)

    async def provide(self, key: str) -> int:
        data = _key(key)
        await self._pace()
        store = self._dht.provider_store
        store.providing_keys.add(data)
        told = await self._ask_closest(data, lambda peer: store._send_add_provider(peer, data))
        return sum(1 for answer in told if answer)

    async def find_providers(self, key: str, limit: int) -> tuple[str, ...]:
        data = _key(key)
        store = self._dht.provider_store
        answers = await self._ask_closest(data, lambda peer: store._get_providers_from_peer_with_closers(peer, data))
        found: dict[str, None] = {str(info.peer_id): None for info in store.get_providers(data)}
        for providers, _ in answers:
            found.update({str(info.peer_id): None for info in providers})
        return tuple(found)[:limit]

    async def put_offer(self, envelope: bytes) -> int:
        peer = str(self._host.get_id())
        try:
            self._sequence(peer, envelope)
        except RemoteProtocolError as error:
            raise LocalProtocolError(f"this offer would be refused: {error}") from None
        data = _offer_key(peer)
        store = self._dht.value_store
        store.put(data, envelope)
        stored = await self._ask_closest(data, lambda at: store._store_at_peer(at, data, envelope))
        return sum(1 for answer in stored if answer)

    async def get_offer(self, peer: str) -> bytes | None:
        best: tuple[int, bytes] | None = None
        for value in await self._values(_offer_key(peer)):
            try:
                sequence = self._sequence(peer, value)
            except RemoteProtocolError as error:
                log.info("the DHT holds a bad offer of %s: %s", peer, error)
                continue
            if best is None or sequence > best[0]:
                best = (sequence, value)
        return best[1] if best else None

    async def put_root(self, epoch: int, envelope: bytes) -> int:
        peer = str(self._host.get_id())
        try:
            check_root(peer, epoch, envelope)
        except RemoteProtocolError as error:
            raise LocalProtocolError(f"this root would be refused: {error}") from None
        data = _root_key(peer, epoch)
        store = self._dht.value_store
        store.put(data, envelope)

        async def store_at(at: ID) -> bool:
            if await store._get_from_peer(at, data) == envelope:  # the same once more would be refused
                return True
            return bool(await store._store_at_peer(at, data, envelope))

        return sum(1 for answer in await self._ask_closest(data, store_at) if answer)

    async def get_roots(self, gateway: str, epoch: int) -> tuple[bytes, ...]:
        found: dict[bytes, None] = {}
        for value in await self._values(_root_key(gateway, epoch)):
            try:
                check_root(gateway, epoch, value)
            except RemoteProtocolError as error:
                log.info("the DHT holds a bad root of %s: %s", gateway, error)
                continue
            found[value] = None
        return tuple(found)

    async def _values(self, key: bytes) -> list[bytes]:
        """What the peers closest to a key hold under it, and what is held here."""
        store = self._dht.value_store
        answers = await self._ask_closest(key, lambda at: store._get_from_peer(at, key))
        values = [value for value in answers if isinstance(value, bytes)]
        local = store.get(key)
        return values if local is None else [*values, bytes(local.value)]

    async def _find_closest(self, key: bytes) -> list[ID]:
        """The peers closest to `key`, as far as they were met in `LOOK_UP_S`.

        It walks as kad-dht does, but a round does not wait for peers that hang: with one in each of two rounds its
        walk takes longer than we have, and tells nothing of whom it met.
        """
        table, own = self._dht.routing_table, self._host.get_id()
        closest = table.find_local_closest_peers(key, CLOSEST)
        if len(closest) < MIN_PEERS_THRESHOLD:
            closest = _nearest(key, (*closest, *self._host.get_connected_peers()))
        asked = {own}
        with trio.move_on_after(LOOK_UP_S):
            while asks := [peer for peer in closest if peer not in asked][:ALPHA]:
                asked.update(asks)
                named = await self._ask_round(key, asks)
                nearer = _nearest(key, (*closest, *named))
                if named and nearer == closest:
                    break
                closest = nearer
        return closest

    async def _ask_round(self, key: bytes, peers: list[ID]) -> list[ID]:
        """Whom these peers name, all asked at once. Who is late is forgotten, until somebody names it again."""
        named: list[ID] = []
        late = dict.fromkeys(peers)

        async def ask(peer: ID) -> None:
            named.extend(await self._dht.peer_routing._query_peer_for_closest(peer, key))
            del late[peer]

        with trio.move_on_after(ROUND_S):
            async with trio.open_nursery() as nursery:
                for peer in peers:
                    nursery.start_soon(ask, peer)
        for peer in late:
            self._dht.routing_table.remove_peer(peer)
        return named

    async def _ask_closest(self, key: bytes, ask: Callable[[ID], Awaitable[T]]) -> list[T]:
        """What the peers closest to `key` answer, all asked at once; those that fail or are late are left out."""
        closest = await self._find_closest(key)
        answers: list[T] = []

        async def one(peer: ID) -> None:
            with trio.move_on_after(ASK_S):
                try:
                    answers.append(await ask(peer))
                except Exception as error:
                    # kad-dht raises whatever its parsers meet; a peer that cannot answer is only one of twenty.
                    log.debug("DHT query to %s: %r", peer, error)

        async with trio.open_nursery() as nursery:
            for peer in closest:
                if peer != self._host.get_id():
                    nursery.start_soon(one, peer)
        return answers

    async def _pace(self) -> None:
        now = trio.current_time()
        self._provided_at = [at for at in self._provided_at if at > now - 10]
        if len(self._provided_at) >= PROVIDE_BURST:
            await trio.sleep(PROVIDE_PAUSE_S)
        self._provided_at.append(trio.current_time())


def _nearest(key: bytes, peers: Iterable[ID]) -> list[ID]:
    nearest: list[ID] = sort_peer_ids_by_distance(key, list(dict.fromkeys(peers)))
    return nearest[:CLOSEST]


def _key(key: str) -> bytes:
    data = key.encode()
    if len(data) > protocols.KAD_KEY_BYTES_MAX:
        raise LocalProtocolError(f"DHT key {key!r} is over {protocols.KAD_KEY_BYTES_MAX} bytes")
    return data


def _root_key(gateway: str, epoch: int) -> bytes:
    return _key(f"/{NAMESPACE}/{gateway}/{epoch}")


def _offer_key(peer: str) -> bytes:
    return f"/{NAMESPACE}/{peer}".encode()
