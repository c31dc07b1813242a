"""The part of `MemoryTables` that keeps epochs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from cxp2p.ledger import Ledger
from cxp2p_gateway.store.epoch_rows import AWAITED_MS, EpochBlock, EpochEntry, EpochPair, EpochRow, Key
from cxp2p_gateway.store.rows import Generation


@dataclass(slots=True)
class MemoryEpochs(Ledger):
    """Epochs in dicts. `settled` is where what was signed is kept."""

    settled: dict[str, Generation] = field(default_factory=dict)
    epoch_rows: dict[tuple[str, int], EpochRow] = field(default_factory=dict)
    entries: dict[str, EpochEntry] = field(default_factory=dict)
    blocks: dict[tuple[str, int, int], EpochBlock] = field(default_factory=dict)

    def add_epoch_entry(self, entry: EpochEntry) -> None:
        places = {(each.gateway, each.epoch, each.key) for each in self.entries.values()}
        if (entry.gateway, entry.epoch, entry.key) not in places:
            self.entries.setdefault(entry.order_id, entry)

    def epoch_entry(self, receipt_hash: bytes) -> EpochEntry | None:
        return next((each for each in self.entries.values() if each.receipt_hash == receipt_hash), None)

    def epoch_entries(self, gateway: str, epoch: int, after: Key, limit: int) -> tuple[EpochEntry, ...]:
        found = [
            each
            for each in self.entries.values()
            if (each.gateway, each.epoch) == (gateway, epoch) and each.key > after
        ]
        return tuple(sorted(found, key=lambda each: each.key)[:limit])

    def epoch_pairs(self, gateway: str, epoch: int, after: Key, limit: int) -> tuple[EpochPair, ...]:
        kept = [
            EpochPair(
                entry=each,
                account=made.account,
                receipt_envelope=made.receipt_envelope,
                countersign_envelope=made.countersign_envelope,
            )
            for each in self.epoch_entries(gateway, epoch, after, len(self.entries))
            if (made := self.settled.get(each.order_id)) is not None
        ]
        return tuple(kept[:limit])

    def last_epoch(self, gateway: str) -> int:
        return max((number for name, number in self.epoch_rows if name == gateway), default=-1)

    def epoch_to_close(self, gateway: str, before: int) -> int | None:
        begun = [row.epoch for row in self.epoch_rows.values() if row.gateway == gateway and row.envelope is None]
        last = self.last_epoch(gateway)
        filled = [each.epoch for each in self.entries.values() if each.gateway == gateway and each.epoch > last]
        return min((each for each in begun + filled if each < before), default=None)

    def put_epoch(self, row: EpochRow) -> None:
        kept = self.epoch_rows.setdefault((row.gateway, row.epoch), row)
        if kept.envelope is None:
            self.epoch_rows[row.gateway, row.epoch] = replace(row, closed_at_ms=kept.closed_at_ms)

    def epoch(self, gateway: str, epoch: int) -> EpochRow | None:
        return self.epoch_rows.get((gateway, epoch))

    def epochs_numbered(self, epoch: int, limit: int) -> tuple[EpochRow, ...]:
        found = [row for row in self.epoch_rows.values() if row.epoch == epoch and row.envelope is not None]
        return tuple(sorted(found, key=lambda row: row.gateway)[:limit])

    def latest_epochs(self, gateway: str | None, before: int, limit: int) -> tuple[EpochRow, ...]:
        found = [
            row
            for row in self.epoch_rows.values()
            if row.envelope is not None and row.epoch < before and gateway in (None, row.gateway)
        ]
        return tuple(sorted(found, key=lambda row: (-row.epoch, row.gateway))[:limit])

    def _awaits_root(self, kept: Generation) -> bool:
        entry = self.entries.get(kept.order_id)
        row = None if entry is None else self.epoch_rows.get((entry.gateway, entry.epoch))
        newest_ms = next(reversed(self.settled.values())).created_at_ms
        is_recent = kept.created_at_ms > newest_ms - AWAITED_MS
        return is_recent and entry is not None and (row is None or row.envelope is None)

    def put_epoch_block(self, block: EpochBlock) -> None:
        self.blocks[block.gateway, block.epoch, block.number] = block

    def epoch_blocks(self, gateway: str, epoch: int) -> tuple[EpochBlock, ...]:
        found = [each for each in self.blocks.values() if (each.gateway, each.epoch) == (gateway, epoch)]
        return tuple(sorted(found, key=lambda each: each.number))

    def forget_epoch_entries(self, order_ids: Sequence[str]) -> None:
        for order_id in order_ids:
            entry = self.entries.pop(order_id, None)
            if entry is None:
                continue
            name = (entry.gateway, entry.epoch)
            if name in self.epoch_rows:
                self.epoch_rows[name] = replace(self.epoch_rows[name], is_whole=False)
            self.blocks = {key: each for key, each in self.blocks.items() if key[:2] != name}
