"""A gateway's books in memory, decided by `cxp2p.ledger`, with a second count that was made another way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from cxp2p.ledger import NETWORK, Account, Change, Hold, HoldState, Transfer
from simulations.world import World


class CountedBooks:
    """A `cxp2p.ledger.Book`. Holds that ended are forgotten, but not that they were paid.

    `apply` counts along: what is wrong with a change is in `faults` until the event is over.
    """

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.accounts: dict[str, Account] = {}
        self.held: Counter[str] = Counter()
        self.paid: dict[str, int] = {}
        self.charged = 0
        self._open: dict[str, Hold] = {}
        self._given: dict[str, Transfer] = {}
        self._faults: list[str] = []

    def __repr__(self) -> str:
        return f"<CountedBooks {self.name}: {len(self.accounts)} accounts, {len(self._open)} open holds>"

    def account(self, account_id: str) -> Account:
        return self.accounts.get(account_id) or Account(id=account_id)

    def hold(self, hold_id: str) -> Hold | None:
        return self._open.get(hold_id)

    def transfer(self, transfer_id: str) -> Transfer | None:
        return self._given.get(transfer_id)

    def open_holds(self) -> Sequence[Hold]:
        return tuple(self._open.values())

    def apply(self, change: Change) -> None:
        """Writes a change, and counts for itself what it should have been."""
        self.world.touch(self)
        for hold in change.holds:
            self._count(hold)
        for transfer in change.transfers:
            if transfer.id in self.paid or transfer.id in self._given:
                self._faults.append(f"{transfer.id} is paid twice")
            if transfer.source == NETWORK:
                self._given[transfer.id] = transfer
            else:
                self.paid[transfer.id] = transfer.amount
                self.charged += transfer.amount
        total = 0
        for account in change.accounts:
            total += account.balance - self.account(account.id).balance
            if account.available < 0 and account.id != NETWORK:
                self._faults.append(f"{account} is overdrawn")
            self.accounts[account.id] = account
            if account.held != self.held[account.id]:
                self._faults.append(f"{account} should hold {self.held[account.id]}")
        if total:
            self._faults.append(f"credit does not sum to zero: {total} µcredits appeared in {change}")

    def _count(self, hold: Hold) -> None:
        known = self._open.get(hold.id)
        if hold.state is HoldState.OPEN:
            if known is None:
                self._open[hold.id] = hold
                self.held[hold.account] += hold.amount
        elif known is None:
            self._faults.append(f"a hold ended that was not open: {hold}")
        else:
            del self._open[hold.id]
            self.held[known.account] -= known.amount

    def faults(self) -> list[str]:
        """What was wrong since the last look."""
        faults, self._faults = self._faults, []
        return [f"books of {self.name}: {fault}" for fault in faults]
