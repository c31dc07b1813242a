"""The published epochs of a gateway, and of those that share its database: for other peers and over HTTP."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Final

import trio

from cxp2p.epoch_files import Pair
from cxp2p.epoch_frames import AbsentCode
from cxp2p.epochs import Inclusion, Place
from cxp2p.net.epochs import Absent
from cxp2p.receipts import Calendar
from cxp2p.wire import encode
from cxp2p_gateway.store.epoch_rows import START, EpochPair, EpochRow, Key
from cxp2p_gateway.store.epochs import EpochBooks, NotProven, Proven, Why

NEWEST: Final = 2**63 - 1  # above every epoch
PAGE_PAUSE_S: Final = 0.025  # before each page of 256 receipts, of all who read: 10,000 a second, a part of one core


class EpochArchive:
    """Reads the books for whoever asks: there is nothing in an epoch that is not for all."""

    def __init__(self, books: EpochBooks, calendar: Calendar, wall_ms: Callable[[], int]) -> None:
        self.books = books
        self.calendar = calendar
        self._wall_ms = wall_ms
        self._turn = trio.Lock()

    async def row(self, gateway: str, epoch: int) -> EpochRow:
        """A closed epoch. Raises Absent."""
        row = await self.books.root(gateway, epoch)
        if row is None:
            raise self.no_root(gateway, epoch)
        return row

    def no_root(self, gateway: str, epoch: int) -> Absent:
        """Why an epoch has no root: nothing counted for it, or it is not closed yet."""
        wait_ms = self.calendar.closes_at_ms(epoch) - self._wall_ms()
        if wait_ms > 0:
            return Absent(AbsentCode.OPEN, f"epoch {epoch} is not closed yet", wait_ms)
        return Absent(AbsentCode.UNKNOWN, f"there is no root of epoch {epoch}: nothing counted for it")

    async def root(self, gateway: str, epoch: int | None) -> bytes:
        """The envelope of a root. Raises Absent."""
        if epoch is not None:
            row = await self.row(gateway, epoch)
        else:
            rows = await self.books.latest(gateway, NEWEST, 1)
            if not rows:
                raise Absent(AbsentCode.UNKNOWN, "this gateway has closed no epoch here")
            row = rows[0]
        assert row.envelope is not None
        return row.envelope

    async def pairs(self, gateway: str, epoch: int) -> AsyncGenerator[Pair, None]:
        """The receipts of an epoch in order, read as they are taken. Raises Absent."""
        row = await self.row(gateway, epoch)
        if not row.is_whole:
            raise Absent(AbsentCode.GONE, f"the receipts of epoch {epoch} are no longer kept here")
        after = START
        while found := await self._page(gateway, epoch, after):
            for pair in found:
                yield Pair(receipt=pair.receipt_envelope, countersign=pair.countersign_envelope)
            after = found[-1].entry.key

    async def _page(self, gateway: str, epoch: int, after: Key) -> tuple[EpochPair, ...]:
        """The next receipts, when it is this reader's turn: whoever reads files without end leaves time for jobs."""
        async with self._turn:
            await trio.sleep(PAGE_PAUSE_S)
            return await self.books.pairs(gateway, epoch, after)

    async def inclusion(self, receipt_hash: bytes) -> bytes:
        """An encoded Inclusion. Raises Absent."""
        return encode(await self.included(receipt_hash))

    async def included(self, receipt_hash: bytes) -> Inclusion:
        """A root, and where a receipt stands under it. Raises Absent."""
        found = await self.books.proof(receipt_hash)
        if isinstance(found, NotProven):
            raise self._absent(found)
        return inclusion_of(found)

    def _absent(self, found: NotProven) -> Absent:
        match found.why:
            case Why.UNKNOWN:
                return Absent(AbsentCode.UNKNOWN, "this receipt counts for no epoch here")
            case Why.OPEN:
                wait_ms = self.calendar.closes_at_ms(found.epoch or 0) - self._wall_ms()
                return Absent(AbsentCode.OPEN, "the epoch of this receipt is not closed yet", max(1, wait_ms))
            case Why.GONE:
                return Absent(AbsentCode.GONE, "this receipt is no longer kept here")


def inclusion_of(found: Proven) -> Inclusion:
    """A kept proof as it is told."""
    place = Place(
        receipt=found.pair.receipt_envelope,
        countersign=found.pair.countersign_envelope,
        index=found.proof.index,
        path=tuple(node.packed() for node in found.proof.path),
    )
    return Inclusion(root=found.root_envelope, place=place)
