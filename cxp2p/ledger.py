"""Credit in double entry: who has how much, what is held, and what may happen next. Pure. Money is in µcredits.

A transfer moves credit from one account to another; credit never appears and never goes. A hold sets part of an
account's balance aside; it ends exactly once: posted (all or part of it is moved, the rest is free again), voided or
expired. `available = balance - held`, never below zero, except for the network's own account, which credit comes from.

Each function decides: it reads a `Book` and returns the `Change` to write, or raises and nothing is to be written.
Whoever keeps the book writes the whole change or none of it. One id names one thing for ever, and doing the same thing
under the same id again changes nothing, so that every call may be repeated after a crash.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final, Protocol

from cxp2p.errors import InsufficientCredit, LocalProtocolError

NETWORK: Final = "network"  # where credit comes from: the one account that may owe
BALANCE_MAX: Final = 2**63 - 1  # what a database keeps exactly


class LedgerError(LocalProtocolError):
    """The books were asked for what cannot be, such as posting a voided hold. It is a bug here: please report it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What an account has, and how much of it is held."""

    id: str
    balance: int = 0
    held: int = 0

    @property
    def available(self) -> int:
        return self.balance - self.held


class HoldState(StrEnum):
    """Where a hold stands. Only an open one counts; the others are final."""

    OPEN = "open"
    POSTED = "posted"
    VOIDED = "voided"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Credit set aside. `charge` and `target` are what was posted, and to whom.

    `key`, `request`: what it is for, in the words of whoever keeps the book; no rule here depends on them.
    """

    id: str
    account: str
    amount: int
    expires_at_ms: int
    state: HoldState = HoldState.OPEN
    charge: int = 0
    target: str = ""
    key: str = ""
    request: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """Credit that moved. A posted hold's transfer has the hold's id."""

    id: str
    source: str
    target: str
    amount: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What to write: new transfers, and the new values of holds and accounts. Nothing, when all is as it should be."""

    transfers: tuple[Transfer, ...] = ()
    holds: tuple[Hold, ...] = ()
    accounts: tuple[Account, ...] = ()


NOTHING: Final = Change()


class Book(Protocol):
    """What the rules read. It must not change between reading and writing."""

    def account(self, account_id: str) -> Account:
        """The account; one that was never written is empty."""

    def hold(self, hold_id: str) -> Hold | None: ...

    def transfer(self, transfer_id: str) -> Transfer | None: ...

    def open_holds(self) -> Sequence[Hold]: ...


# What may happen.


def transfer(book: Book, transfer_id: str, source: str, target: str, amount: int) -> Change:
    """Moves `amount` from `source` to `target`. Raises InsufficientCredit, LedgerError."""
    wanted = Transfer(id=transfer_id, source=source, target=target, amount=amount)
    known = book.transfer(transfer_id)
    if known is not None:
        if known != wanted:
            raise LedgerError(f"transfer {transfer_id} is already {known}, it cannot be {wanted}")
        return NOTHING
    if book.hold(transfer_id) is not None:
        raise LedgerError(f"{transfer_id} is a hold's id")
    _check_amount(amount)
    giver = book.account(source)
    _check_available(giver, amount)
    return Change(transfers=(wanted,), accounts=_moved(giver, book.account(target), amount))


def reserve(
    book: Book, hold_id: str, account_id: str, amount: int, expires_at_ms: int, *, key: str = "", request: str = ""
) -> Change:
    """Holds `amount` of an account. Raises InsufficientCredit, LedgerError; an id of a hold that ended is an error."""
    known = book.hold(hold_id)
    if known is not None:
        if known.state is not HoldState.OPEN or (known.account, known.amount) != (account_id, amount):
            raise LedgerError(f"hold {hold_id} is already {known}")
        return NOTHING
    if book.transfer(hold_id) is not None:
        raise LedgerError(f"{hold_id} is a transfer's id")
    _check_amount(amount)
    account = book.account(account_id)
    _check_available(account, amount)
    hold = Hold(id=hold_id, account=account_id, amount=amount, expires_at_ms=expires_at_ms, key=key, request=request)
    return Change(holds=(hold,), accounts=(replace(account, held=account.held + amount),))


def post(book: Book, hold_id: str, charge: int, to: str) -> Change:
    """Ends a hold: moves `charge`, at most what is held, to account `to`, and frees the rest. Raises LedgerError."""
    hold = _known(book, hold_id)
    if hold.state is HoldState.POSTED and (hold.charge, hold.target) == (charge, to):
        return NOTHING
    if hold.state is not HoldState.OPEN:
        raise LedgerError(f"hold {hold_id} cannot be posted at {charge} to {to}: it is {hold}")
    if not 0 <= charge <= hold.amount:
        raise LedgerError(f"hold {hold_id} is of {hold.amount}, {charge} cannot be posted")
    payer = book.account(hold.account)
    freed = replace(payer, held=payer.held - hold.amount)
    ended = replace(hold, state=HoldState.POSTED, charge=charge, target=to)
    if not charge:
        return Change(holds=(ended,), accounts=(freed,))
    moved = Transfer(id=hold_id, source=hold.account, target=to, amount=charge)
    return Change(transfers=(moved,), holds=(ended,), accounts=_moved(freed, book.account(to), charge))


def void(book: Book, hold_id: str) -> Change:
    """Ends a hold and frees all of it; one that expired has done so. Raises LedgerError if it was posted."""
    hold = _known(book, hold_id)
    if hold.state is HoldState.POSTED:
        raise LedgerError(f"hold {hold_id} cannot be voided: it is posted")
    return _free(book, (hold,), HoldState.VOIDED) if hold.state is HoldState.OPEN else NOTHING


def void_all(book: Book) -> Change:
    """Ends every open hold: for books whose keeper died, as nobody else knows of them any more."""
    return void_left(book, book.open_holds())


def void_left(book: Book, left: Iterable[Hold]) -> Change:
    """Ends those of the book's open holds whose keeper died."""
    return _free(book, left, HoldState.VOIDED)


def expire(book: Book, wall_ms: int) -> Change:
    """Ends every hold that is overdue."""
    overdue = [hold for hold in book.open_holds() if hold.expires_at_ms <= wall_ms]
    return _free(book, overdue, HoldState.EXPIRED)


# How it is decided.


def _known(book: Book, hold_id: str) -> Hold:
    hold = book.hold(hold_id)
    if hold is None:
        raise LedgerError(f"there is no hold {hold_id}")
    return hold


def _check_amount(amount: int) -> None:
    if amount < 0:
        raise LedgerError(f"an amount of {amount} µcredits cannot be")


def _check_available(account: Account, amount: int) -> None:
    if account.id != NETWORK and amount > account.available:
        raise InsufficientCredit(
            f"{amount} µcredits are needed at most, {account.available} are available in account {account.id}"
        )


def _moved(giver: Account, taker: Account, amount: int) -> tuple[Account, Account]:
    if giver.id == taker.id:
        raise LedgerError(f"account {giver.id} cannot pay itself")
    if taker.balance + amount > BALANCE_MAX or giver.balance - amount < -BALANCE_MAX:
        raise LedgerError(f"a balance is at most {BALANCE_MAX} µcredits")
    return replace(giver, balance=giver.balance - amount), replace(taker, balance=taker.balance + amount)


def _free(book: Book, holds: Iterable[Hold], state: HoldState) -> Change:
    ended: list[Hold] = []
    accounts: dict[str, Account] = {}
    for hold in holds:
        account = accounts.get(hold.account) or book.account(hold.account)
        accounts[hold.account] = replace(account, held=account.held - hold.amount)
        ended.append(replace(hold, state=state))
    return Change(holds=tuple(ended), accounts=tuple(accounts.values()))


# A book in memory, and what must be true of any book.


@dataclass(slots=True)
class Ledger:
    """A `Book` in memory."""

    accounts: dict[str, Account] = field(default_factory=dict)
    holds: dict[str, Hold] = field(default_factory=dict)
    transfers: dict[str, Transfer] = field(default_factory=dict)

    def account(self, account_id: str) -> Account:
        return self.accounts.get(account_id) or Account(id=account_id)

    def hold(self, hold_id: str) -> Hold | None:
        return self.holds.get(hold_id)

    def transfer(self, transfer_id: str) -> Transfer | None:
        return self.transfers.get(transfer_id)

    def open_holds(self) -> Sequence[Hold]:
        return [hold for hold in self.holds.values() if hold.state is HoldState.OPEN]

    def apply(self, change: Change) -> None:
        """Writes a change that was decided on this very state."""
        self.transfers |= {each.id: each for each in change.transfers}
        self.holds |= {each.id: each for each in change.holds}
        self.accounts |= {each.id: each for each in change.accounts}


def audit(accounts: Iterable[Account], holds: Iterable[Hold], transfers: Iterable[Transfer]) -> tuple[str, ...]:
    """What is wrong with whole books, in words; nothing, when they are right."""
    balances: Counter[str] = Counter()
    amounts: dict[str, int] = {}
    for each in transfers:
        balances[each.target] += each.amount
        balances[each.source] -= each.amount
        amounts[each.id] = each.amount
    held: Counter[str] = Counter()
    faults: list[str] = []
    for hold in holds:
        held[hold.account] += hold.amount if hold.state is HoldState.OPEN else 0
        if amounts.get(hold.id, 0) != hold.charge or not 0 <= hold.charge <= hold.amount:
            faults.append(f"{amounts.get(hold.id, 0)} was moved for {hold}")
        if hold.charge and hold.state is not HoldState.POSTED:
            faults.append(f"a charge was posted without an end: {hold}")
    total = 0
    for account in accounts:
        total += account.balance
        if (account.balance, account.held) != (balances.pop(account.id, 0), held.pop(account.id, 0)):
            faults.append(f"{account} is not the sum of its transfers and open holds")
        if account.available < 0 and account.id != NETWORK:
            faults.append(f"{account} is overdrawn")
    faults.extend(f"account {name} was never written" for name in {**+balances, **+held})
    if total:
        faults.append(f"all balances together are {total}, not 0")
    return tuple(faults)
