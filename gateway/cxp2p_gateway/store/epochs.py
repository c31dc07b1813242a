"""What is asked of the kept epochs: to close one, step by step, and to prove that it counts a receipt."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from cxp2p.merkle import Proof, SumTree, sum_root, unpacked
from cxp2p_gateway.store import Store
from cxp2p_gateway.store.epoch_rows import BLOCK, START, EpochBlock, EpochPair, EpochRow, Key
from cxp2p_gateway.store.tables import Tables

ROOTS_MAX: Final = 100  # in one answer
PAIRS_MAX: Final = 256  # read at once, 1.5 KB each


class Why(Enum):
    """Why there is no proof of a receipt: it counts for no epoch, or for one that is open; it was dropped."""

    UNKNOWN = "unknown"
    OPEN = "open"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class NotProven:
    """A receipt of which there is no proof, and the epoch that it counts for."""

    why: Why
    epoch: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Proven:
    """A receipt and where it stands under its root."""

    root_envelope: bytes
    pair: EpochPair
    proof: Proof


class EpochBooks:
    """The epochs of all gateways that share a store. `block`: receipts under one kept node, a power of two."""

    def __init__(self, store: Store, block: int = BLOCK) -> None:
        self._store = store
        self._block = block

    # Closing one: what was begun goes on after a crash, over the same receipts.

    async def begin(self, gateway: str, before: int) -> int | None:
        """The oldest epoch below `before` that has no root though it has receipts: from now on none more count for it.

        None if there is none. The same again, until it has a root.
        """
        at_ms = self._store.wall_ms()

        def act(tables: Tables) -> int | None:
            epoch = tables.epoch_to_close(gateway, before)
            if epoch is not None:
                tables.put_epoch(EpochRow(gateway=gateway, epoch=epoch, closed_at_ms=at_ms))
            return epoch

        return await self._store.do(act)

    async def block(self, gateway: str, epoch: int, number: int, after: Key) -> tuple[EpochBlock, Key] | None:
        """The next node of an epoch's tree, over the receipts after a key, and the last of these; None: no more."""

        def look(tables: Tables) -> tuple[EpochBlock, Key] | None:
            entries = tables.epoch_entries(gateway, epoch, after, self._block)
            if not entries:
                return None
            node, lane, seq = entries[0].key
            packed = sum_root(unpacked(each.leaf) for each in entries).packed()
            made = EpochBlock(gateway=gateway, epoch=epoch, number=number, node=node, lane=lane, seq=seq, packed=packed)
            return made, entries[-1].key

        return await self._store.read(look)

    async def put_block(self, block: EpochBlock) -> None:
        """Keeps a node of the tree, for proofs."""
        await self._store.do(lambda tables: tables.put_epoch_block(block))

    async def put_root(self, row: EpochRow) -> EpochRow:
        """Keeps an epoch's signed root, and returns the one that is kept: the first one that ever was."""

        def act(tables: Tables) -> EpochRow:
            tables.put_epoch(row)
            return tables.epoch(row.gateway, row.epoch) or row

        return await self._store.do(act)

    # What there is.

    async def root(self, gateway: str, epoch: int) -> EpochRow | None:
        """A gateway's closed epoch, None if there is none."""
        row = await self._store.read(lambda tables: tables.epoch(gateway, epoch))
        return None if row is None or row.envelope is None else row

    async def roots(self, epoch: int) -> tuple[EpochRow, ...]:
        """Those of one number, by gateway; at most ROOTS_MAX."""
        return await self._store.read(lambda tables: tables.epochs_numbered(epoch, ROOTS_MAX))

    async def latest(self, gateway: str | None, before: int, limit: int) -> tuple[EpochRow, ...]:
        """Those below a number, newest first; at most ROOTS_MAX."""
        return await self._store.read(lambda tables: tables.latest_epochs(gateway, before, min(limit, ROOTS_MAX)))

    async def pairs(self, gateway: str, epoch: int, after: Key = START) -> tuple[EpochPair, ...]:
        """The receipts of an epoch after a key with their countersigns, in order, at most PAIRS_MAX."""
        return await self._store.read(lambda tables: tables.epoch_pairs(gateway, epoch, after, PAIRS_MAX))

    async def proof(self, receipt_hash: bytes) -> Proven | NotProven:
        """Where a receipt stands, under the root of its epoch."""
        return (await self.proofs([receipt_hash]))[0]

    async def proofs(self, receipt_hashes: Sequence[bytes]) -> list[Proven | NotProven]:
        """Where each of some receipts stands."""
        return await self._store.read(lambda tables: [_proven(tables, each) for each in receipt_hashes])


def _proven(tables: Tables, receipt_hash: bytes) -> Proven | NotProven:
    entry = tables.epoch_entry(receipt_hash)
    if entry is None:
        return NotProven(Why.UNKNOWN)
    row = tables.epoch(entry.gateway, entry.epoch)
    if row is None or row.envelope is None:
        return NotProven(Why.OPEN, entry.epoch)
    if not row.is_whole:
        return NotProven(Why.GONE, entry.epoch)
    (pair,) = tables.epoch_pairs(entry.gateway, entry.epoch, _before(entry.key), 1)
    blocks = tables.epoch_blocks(entry.gateway, entry.epoch)
    number = bisect_right([block.key for block in blocks], entry.key) - 1
    nodes = [unpacked(block.packed) for block in blocks]
    beside = tables.epoch_entries(entry.gateway, entry.epoch, _before(blocks[number].key), nodes[number].count)
    place = [each.key for each in beside].index(entry.key)
    low = SumTree(unpacked(each.leaf) for each in beside).proof(place)
    high = SumTree(nodes).proof(number)
    index = sum(node.count for node in nodes[:number]) + place
    proof = Proof(index, row.count, low.path + high.path)
    return Proven(root_envelope=row.envelope, pair=pair, proof=proof)


def _before(key: Key) -> Key:
    node, lane, seq = key
    return (node, lane, seq - 1)
