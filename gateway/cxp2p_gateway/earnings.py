"""Who earned what in the epochs that were closed here: for anybody, and for the owner of an account with the reasons.

What an epoch brings is held for a day, while audits of its receipts may still find one invalid; then it is released.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Final

import trio

from cxp2p.epochs import Entry, open_entry, open_root
from cxp2p.receipts import Calendar
from cxp2p.rewards import Asker, NodeReward, Rewards, Rules, rewards, rules_hash
from cxp2p_gateway.archive import EpochArchive
from cxp2p_gateway.store import Store, Tables
from cxp2p_gateway.store.epoch_rows import START, EpochPair, EpochRow

COMPUTED_MAX: Final = 20_000  # receipts of an epoch, four seconds; more are for `cxp2p rewards compute`
REMEMBERED_MAX: Final = 256  # epochs, some KB each
SHOWN_MAX: Final = 24  # epochs in one answer


class Hold(StrEnum):
    """Why what an epoch brought is held, or what else became of it."""

    HELD = "held"
    RELEASED = "released"
    LARGE = "large"
    DROPPED = "dropped"
    OTHER_RULES = "other_rules"


WHY: Final[Mapping[Hold, str]] = {
    Hold.HELD: "audits of this epoch's receipts may still find one invalid",
    Hold.RELEASED: "nothing can change it any more",
    Hold.LARGE: "it has more receipts than are computed here: use `cxp2p rewards compute`",
    Hold.DROPPED: "its receipts are no longer kept here",
    Hold.OTHER_RULES: "its root names other rules than this gateway's",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Earned:
    """What one epoch brought to an account: its nodes' shares, points for use, a part of fees for who was brought."""

    epoch: int
    hold: Hold
    until_ms: int | None
    nodes: tuple[NodeReward, ...] = ()
    points: int = 0
    referrals: int = 0

    @property
    def amount(self) -> int:
        """µcredits, without points."""
        return sum(each.paid + each.pool for each in self.nodes) + self.referrals


class Earnings:
    """Computes rewards from the kept receipts, by the pure function, as anybody may from the published file."""

    def __init__(self, archive: EpochArchive, store: Store, rules: Rules, wall_ms: Callable[[], int]) -> None:
        self.rules = rules
        self.calendar: Calendar = archive.calendar
        self._archive = archive
        self._store = store
        self._wall_ms = wall_ms
        self._computed: OrderedDict[tuple[bytes, ...], tuple[Rewards, Rewards]] = OrderedDict()
        self._turn = trio.Lock()

    async def of_epoch(self, epoch: int) -> Rewards | Hold:
        """Everybody's, from what is published alone; a reason if it is not computed here. Raises Absent."""
        rows = await self._archive.books.roots(epoch)
        if not rows:
            raise self._archive.no_root("", epoch)
        computed = await self._of(rows)
        return computed if isinstance(computed, Hold) else computed[0]

    async def of_account(self, account: str, before: int, limit: int) -> list[Earned]:
        """What each of the newest epochs below a number brought to an account, newest first."""
        rows = await self._archive.books.latest(None, before, limit)
        numbers = list(dict.fromkeys(row.epoch for row in rows))[:SHOWN_MAX]
        return [await self._earned(account, number) for number in numbers]

    async def _earned(self, account: str, epoch: int) -> Earned:
        computed = await self._of(await self._archive.books.roots(epoch))
        if isinstance(computed, Hold):
            return Earned(epoch=epoch, hold=computed, until_ms=None)
        _, known = computed
        until_ms = self.calendar.closes_at_ms(epoch) + self.calendar.late_ms
        held = self._wall_ms() < until_ms
        return Earned(
            epoch=epoch,
            hold=Hold.HELD if held else Hold.RELEASED,
            until_ms=until_ms if held else None,
            nodes=tuple(each for each in known.nodes if each.owner == account),
            points=known.points.get(account, 0),
            referrals=known.referrals.get(account, 0),
        )

    async def _of(self, rows: Sequence[EpochRow]) -> tuple[Rewards, Rewards] | Hold:
        """As anybody computes them, and as this gateway does, which knows who asked."""
        envelopes = tuple(row.envelope or b"" for row in rows)
        if any(open_root(each).rules_hash != rules_hash(self.rules) for each in envelopes):
            return Hold.OTHER_RULES
        async with self._turn:
            if envelopes in self._computed:
                self._computed.move_to_end(envelopes)
                return self._computed[envelopes]
            if not all(row.is_whole for row in rows):
                return Hold.DROPPED
            if sum(row.count for row in rows) > COMPUTED_MAX:
                return Hold.LARGE
            pairs = [pair for row in rows for pair in await self._pairs(row)]
            askers = await self._askers({pair.account for pair in pairs})
            computed = await trio.to_thread.run_sync(partial(_computed, self.rules, pairs, askers))
            self._computed[envelopes] = computed
            if len(self._computed) > REMEMBERED_MAX:
                self._computed.popitem(last=False)
            return computed

    async def _pairs(self, row: EpochRow) -> list[EpochPair]:
        pairs: list[EpochPair] = []
        after = START
        while found := await self._archive.books.pairs(row.gateway, row.epoch, after):
            pairs += found
            after = found[-1].entry.key
        return pairs

    async def _askers(self, accounts: set[str]) -> dict[str, Asker]:
        def look(tables: Tables) -> dict[str, Asker]:
            users = {account: tables.user(account) for account in accounts}
            return {name: Asker(name, (user and user.referred_by) or "") for name, user in users.items()}

        return await self._store.read(look)


def _computed(rules: Rules, pairs: Sequence[EpochPair], askers: Mapping[str, Asker]) -> tuple[Rewards, Rewards]:
    entries: list[Entry] = [open_entry(pair.receipt_envelope, pair.countersign_envelope) for pair in pairs]
    by_receipt = {pair.entry.receipt_hash: askers[pair.account] for pair in pairs}
    return rewards(rules, entries), rewards(rules, entries, (), by_receipt)
