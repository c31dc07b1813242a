"""The end of an epoch: once nothing more counts for it, a gateway signs one root over its receipts, and tells it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

import trio

from cxp2p import protocols
from cxp2p.epochs import open_entry
from cxp2p.errors import CxError, EpochInvalid
from cxp2p.identity import Identity, Kind
from cxp2p.merkle import RunningSum, unpacked
from cxp2p.net import Dht, Network
from cxp2p.net.epochs import EpochServing
from cxp2p.net.tasks import background
from cxp2p.receipts import Calendar, digest
from cxp2p.records import EpochRoot
from cxp2p.wire import encode
from cxp2p_gateway.archive import NEWEST, EpochArchive
from cxp2p_gateway.store import Generation, Store, StoreError
from cxp2p_gateway.store.epoch_rows import START, EntryOf, EpochEntry, EpochRow
from cxp2p_gateway.store.epochs import EpochBooks

log = logging.getLogger("cxp2p.epochs")

LOOK_S_MAX: Final = 60.0  # between two looks for what is to be closed: a clock may be set in between
LOOK_S_MIN: Final = 0.05
AGAIN_S: Final = 30.0  # until the database, or the DHT, is tried again
TELL_S_MAX: Final = 60.0
UNTOLD_MAX: Final = 64  # roots that the DHT did not take: the newest are told first


def entry_of(calendar: Calendar) -> EntryOf:
    """How to find the epoch for which what was settled counts: by when it was countersigned."""

    def found(generation: Generation) -> EpochEntry | None:
        try:
            entry = open_entry(generation.receipt_envelope, generation.countersign_envelope)
        except EpochInvalid as error:  # it would spoil the root for all others
            log.error("order %s counts for no epoch: %s", generation.order_id, error)
            return None
        receipt = entry.receipt
        epoch = calendar.counts_for(receipt.epoch, generation.created_at_ms)
        if epoch is None:
            return None
        return EpochEntry(
            receipt_hash=entry.countersign.receipt_hash,
            order_id=generation.order_id,
            gateway=receipt.gateway,
            epoch=epoch,
            epoch_max=receipt.epoch + protocols.EPOCHS_LATE_MAX,
            node=receipt.node,
            lane=receipt.lane,
            seq=receipt.seq,
            leaf=entry.leaf().packed(),
        )

    return found


class Closing:
    """Closes the epochs of one gateway, each once, in order, and those that a stop left open at the next start."""

    def __init__(
        self,
        identity: Identity,
        books: EpochBooks,
        dht: Dht,
        calendar: Calendar,
        rules_hash: bytes,
        wall_ms: Callable[[], int],
    ) -> None:
        self._identity = identity
        self._books = books
        self._dht = dht
        self._calendar = calendar
        self._rules_hash = rules_hash
        self._wall_ms = wall_ms
        self._untold: dict[int, bytes] = {}

    async def run(self) -> None:
        """Closes what is due, tells it, and waits for the next; ends only by cancellation."""
        await self._remember_last()
        while True:
            wait_s = self._until_next_s()
            try:
                while await self.close_next() is not None:
                    pass
            except StoreError as error:
                log.warning("an epoch waits to be closed: %s", error)
                wait_s = AGAIN_S
            await self._tell()
            await trio.sleep(min(wait_s, AGAIN_S) if self._untold else wait_s)

    async def close_next(self) -> EpochRow | None:
        """Closes the oldest epoch that is over and has receipts; None if there is none. Raises StoreError."""
        gateway = self._identity.peer
        closed_before = self._calendar.epoch_of(max(0, self._wall_ms() - self._calendar.grace_ms))
        epoch = await self._books.begin(gateway, closed_before)
        if epoch is None:
            return None
        row = await self._books.put_root(await self._signed(gateway, epoch))
        assert row.envelope is not None
        log.info("epoch %d is closed: %d receipts, %d µcredits", epoch, row.count, row.sum)
        self._untold[epoch] = row.envelope
        return row

    async def _signed(self, gateway: str, epoch: int) -> EpochRow:
        tree, number, after = RunningSum(), 0, START
        while (found := await self._books.block(gateway, epoch, number, after)) is not None:
            block, after = found
            await self._books.put_block(block)
            tree.add(unpacked(block.packed))
            number += 1
        total = tree.root()
        before = await self._books.latest(gateway, epoch, 1)
        root = EpochRoot(
            gateway=gateway,
            epoch=epoch,
            root=total.hash,
            sum=total.amount,
            count=total.count,
            prev_root=digest(before[0].envelope) if before and before[0].envelope is not None else None,
            rules_hash=self._rules_hash,
        )
        envelope = self._identity.seal(Kind.EPOCH_ROOT, encode(root))
        row = EpochRow(gateway=gateway, epoch=epoch, closed_at_ms=self._wall_ms())
        return replace(row, count=root.count, sum=root.sum, envelope=envelope)

    async def _remember_last(self) -> None:
        """The last root may have been signed but not told when this gateway stopped."""
        try:
            for row in await self._books.latest(self._identity.peer, NEWEST, 1):
                if row.epoch > self._calendar.epoch_of(self._wall_ms()):
                    log.error(
                        "the last root is of epoch %d, which has not begun: is the clock right, and was peer.epoch_s "
                        "changed? Receipts count for no epoch until then",
                        row.epoch,
                    )
                if row.envelope is not None:
                    self._untold[row.epoch] = row.envelope
        except StoreError as error:
            log.warning("the last root is not told again: %s", error)

    async def _tell(self) -> None:
        """Puts roots into the DHT, the newest first; those that nobody took are put again later."""
        for epoch in sorted(self._untold, reverse=True)[UNTOLD_MAX:]:
            del self._untold[epoch]
        for epoch in sorted(self._untold, reverse=True):
            with trio.move_on_after(TELL_S_MAX):
                try:
                    if await self._dht.put_root(epoch, self._untold[epoch]):
                        del self._untold[epoch]
                except CxError as error:
                    log.info("the root of epoch %d is not in the DHT yet: %s", epoch, error)

    def _until_next_s(self) -> float:
        now_ms = self._wall_ms()
        epoch = self._calendar.epoch_of(max(0, now_ms - self._calendar.grace_ms))
        wait_s = (self._calendar.closes_at_ms(epoch) - now_ms) / 1000
        return min(max(wait_s, LOOK_S_MIN), LOOK_S_MAX)


@asynccontextmanager
async def open_epochs(
    identity: Identity,
    network: Network,
    store: Store,
    calendar: Calendar,
    rules_hash: bytes,
    wall_ms: Callable[[], int],
) -> AsyncIterator[EpochArchive]:
    """A gateway's epochs, closed and told to other peers for as long as the block runs."""
    store.entry_of = entry_of(calendar)
    archive = EpochArchive(EpochBooks(store), calendar, wall_ms)
    network.serve(protocols.EPOCH, EpochServing(archive).handle)
    async with background() as nursery:
        nursery.start_soon(Closing(identity, archive.books, network.dht, calendar, rules_hash, wall_ms).run)
        yield archive
