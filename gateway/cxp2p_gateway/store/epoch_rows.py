"""What a gateway keeps of its epochs: which receipts count for each, its signed root, and nodes of its tree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol, TypeAlias

from cxp2p_gateway.store.rows import Generation

Key: TypeAlias = tuple[str, bytes, int]  # node, lane, seq: what orders the receipts of an epoch
BLOCK: Final = 1024  # receipts under one kept node of the tree: a power of two, so that it is a node of the whole tree
AWAITED_MS: Final = 2 * 86_400_000  # so long receipts are kept for a root: twice as long as they may be late
START: Final[Key] = ("", b"", -1)  # before every receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochEntry:
    """One countersigned receipt, and the epoch of its gateway for which it counts. `leaf`: its node, packed.

    `epoch_max`: the last one that it may still count for.
    """

    receipt_hash: bytes
    order_id: str
    gateway: str
    epoch: int
    epoch_max: int
    node: str
    lane: bytes
    seq: int
    leaf: bytes

    @property
    def key(self) -> Key:
        """Where it stands among those of its epoch."""
        return (self.node, self.lane, self.seq)


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochPair:
    """An entry with the envelopes that it is made of. `account`: who asked, which is not published."""

    entry: EpochEntry
    account: str
    receipt_envelope: bytes
    countersign_envelope: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRow:
    """An epoch that nothing more counts for. `envelope`: its signed root, None until that was made.

    `is_whole`: all its receipts are still kept.
    """

    gateway: str
    epoch: int
    closed_at_ms: int
    count: int = 0
    sum: int = 0
    envelope: bytes | None = None
    is_whole: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochBlock:
    """A node of an epoch's tree, packed, over at most BLOCK receipts, and the first of these."""

    gateway: str
    epoch: int
    number: int
    node: str
    lane: bytes
    seq: int
    packed: bytes

    @property
    def key(self) -> Key:
        """Of its first receipt."""
        return (self.node, self.lane, self.seq)


EntryOf: TypeAlias = Callable[[Generation], EpochEntry | None]
"""For which epoch what was settled counts; None: for none."""


class EpochTables(Protocol):
    """The rows of epochs, inside of one transaction."""

    def add_epoch_entry(self, entry: EpochEntry) -> None:
        """Adds one; the same order again, or the same place, changes nothing."""

    def epoch_entry(self, receipt_hash: bytes) -> EpochEntry | None: ...

    def epoch_entries(self, gateway: str, epoch: int, after: Key, limit: int) -> tuple[EpochEntry, ...]:
        """In order, from the first after a key."""

    def epoch_pairs(self, gateway: str, epoch: int, after: Key, limit: int) -> tuple[EpochPair, ...]:
        """The same with their envelopes, without those of which nothing is kept any more."""

    def last_epoch(self, gateway: str) -> int:
        """The newest epoch that was closed, or begun to be; -1: none."""

    def epoch_to_close(self, gateway: str, before: int) -> int | None:
        """The oldest epoch below `before` that has receipts, or was begun to be closed, and has no root."""

    def put_epoch(self, row: EpochRow) -> None:
        """Adds an epoch, or replaces it while it has no root; one that has a root stays as it is."""

    def epoch(self, gateway: str, epoch: int) -> EpochRow | None: ...

    def epochs_numbered(self, epoch: int, limit: int) -> tuple[EpochRow, ...]:
        """Those of all gateways, with a root, by gateway."""

    def latest_epochs(self, gateway: str | None, before: int, limit: int) -> tuple[EpochRow, ...]:
        """Those with a root below `before`, newest first; of one gateway or of all."""

    def put_epoch_block(self, block: EpochBlock) -> None:
        """Adds one, or replaces it."""

    def epoch_blocks(self, gateway: str, epoch: int) -> tuple[EpochBlock, ...]:
        """All of an epoch, in order."""

    def forget_epoch_entries(self, order_ids: Sequence[str]) -> None:
        """Drops what is known of orders of which nothing is kept any more; their epochs are no longer whole."""


def count(tables: EpochTables, entry: EpochEntry) -> None:
    """Lists a receipt for its epoch, or the first one that is still open; for none, if that would be too late."""
    epoch = max(entry.epoch, tables.last_epoch(entry.gateway) + 1)
    if epoch <= entry.epoch_max:
        tables.add_epoch_entry(replace(entry, epoch=epoch))
