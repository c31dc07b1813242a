"""The rules of credit: whatever happens in whatever order, it sums to zero and every hold ends once."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from cxp2p import ledger
from cxp2p.errors import InsufficientCredit, LocalProtocolError
from cxp2p.ledger import NETWORK, NOTHING, Account, HoldState, Ledger, LedgerError

ACCOUNTS = ("alice", "bob")
NODES = ("node:one", "node:two", "alice")
AMOUNTS = st.integers(0, 120)


def funded(amount: int = 100) -> Ledger:
    """Books in which alice has `amount`."""
    books = Ledger()
    books.apply(ledger.transfer(books, "grant", NETWORK, "alice", amount))
    return books


def held(amount: int = 60) -> Ledger:
    """Books in which alice has 100, `amount` of it under the hold `h`."""
    books = funded()
    books.apply(ledger.reserve(books, "h", "alice", amount, 1000))
    return books


def faults(books: Ledger) -> tuple[str, ...]:
    return ledger.audit(books.accounts.values(), books.holds.values(), books.transfers.values())


def test_a_hold_takes_from_what_is_available_not_from_the_balance() -> None:
    """Reserving moves nothing; it only keeps others from spending it."""
    books = held(60)

    assert books.account("alice") == Account(id="alice", balance=100, held=60)
    with pytest.raises(InsufficientCredit, match="41 µcredits are needed at most, 40 are available"):
        ledger.reserve(books, "h2", "alice", 41, 1000)
    with pytest.raises(InsufficientCredit):
        ledger.transfer(books, "t", "alice", "bob", 41)


def test_posting_moves_the_charge_and_frees_the_rest() -> None:
    """What the receipt says is paid to the node; the rest of the hold is available again."""
    books = held(60)
    books.apply(ledger.post(books, "h", 25, "node:one"))

    assert books.account("alice") == Account(id="alice", balance=75, held=0)
    assert books.account("node:one").balance == 25
    assert not faults(books)


def test_posting_nothing_moves_nothing() -> None:
    """A disputed receipt is posted at no charge: the hold ends and no transfer is made."""
    books = held(60)
    change = ledger.post(books, "h", 0, "node:one")
    books.apply(change)

    assert change.transfers == ()
    assert books.account("alice").available == 100
    assert not faults(books)


@pytest.mark.parametrize("charge", [61, -1])
def test_no_more_than_the_hold_is_ever_posted(charge: int) -> None:
    """A charge over the hold, or under zero, is a bug and changes nothing."""
    with pytest.raises(LedgerError, match="is of 60"):
        ledger.post(held(60), "h", charge, "node:one")


def test_doing_the_same_again_changes_nothing() -> None:
    """Each call may be repeated after a crash."""
    books = held()
    assert ledger.transfer(books, "grant", NETWORK, "alice", 100) == NOTHING
    assert ledger.reserve(books, "h", "alice", 60, 2000) == NOTHING
    books.apply(ledger.post(books, "h", 25, "node:one"))
    assert ledger.post(books, "h", 25, "node:one") == NOTHING
    books.apply(ledger.reserve(books, "h2", "alice", 10, 1000))
    books.apply(ledger.void(books, "h2"))

    assert ledger.void(books, "h2") == NOTHING


def test_an_id_that_already_means_something_else_is_refused() -> None:
    """The same id with other facts is a bug, told with both."""
    books = held()
    with pytest.raises(LedgerError, match="is already"):
        ledger.transfer(books, "grant", NETWORK, "alice", 101)
    with pytest.raises(LedgerError, match="is already"):
        ledger.reserve(books, "h", "alice", 61, 1000)
    with pytest.raises(LedgerError, match="a hold's id"):
        ledger.transfer(books, "h", NETWORK, "alice", 1)
    with pytest.raises(LedgerError, match="a transfer's id"):
        ledger.reserve(books, "grant", "alice", 1, 1000)


def test_a_hold_that_ended_stays_ended() -> None:
    """Post after void, void after post, post at another charge and reserve again all say so."""
    posted, voided = held(), held()
    posted.apply(ledger.post(posted, "h", 25, "node:one"))
    voided.apply(ledger.void(voided, "h"))

    with pytest.raises(LocalProtocolError, match="cannot be voided: it is posted"):
        ledger.void(posted, "h")
    with pytest.raises(LocalProtocolError, match="cannot be posted at 26"):
        ledger.post(posted, "h", 26, "node:one")
    with pytest.raises(LocalProtocolError, match="cannot be posted at 25"):
        ledger.post(voided, "h", 25, "node:one")
    with pytest.raises(LocalProtocolError, match="is already"):
        ledger.reserve(voided, "h", "alice", 60, 1000)
    with pytest.raises(LocalProtocolError, match="there is no hold"):
        ledger.void(voided, "unheard-of")


def test_holds_expire_at_their_time_and_not_before() -> None:
    """Only overdue holds end, several of one account together."""
    books = held(60)
    books.apply(ledger.reserve(books, "h2", "alice", 10, 1000))
    books.apply(ledger.reserve(books, "h3", "alice", 5, 1001))

    assert ledger.expire(books, 999) == NOTHING
    books.apply(ledger.expire(books, 1000))
    assert books.account("alice").held == 5
    assert [books.holds[each].state for each in ("h", "h2", "h3")] == [
        HoldState.EXPIRED,
        HoldState.EXPIRED,
        HoldState.OPEN,
    ]
    books.apply(ledger.void_all(books))
    assert books.account("alice").held == 0


def test_only_the_networks_account_may_owe() -> None:
    """Credit comes from one account; all others have what they were given."""
    books = Ledger()
    with pytest.raises(InsufficientCredit):
        ledger.transfer(books, "t", "alice", "bob", 1)
    with pytest.raises(LedgerError, match="cannot pay itself"):
        ledger.transfer(funded(), "t", "alice", "alice", 1)
    with pytest.raises(LedgerError, match="cannot be"):
        ledger.transfer(funded(), "t", "alice", "bob", -1)


def test_a_balance_stays_within_what_a_database_keeps() -> None:
    """2**63 µcredits are refused before anything overflows."""
    books = funded(2**63 - 1)
    with pytest.raises(LedgerError, match="at most"):
        ledger.transfer(books, "t", NETWORK, "bob", 1)


def test_the_audit_sees_what_is_wrong() -> None:
    """Money from nowhere, a wrong sum, a lost account and a posted void are each told."""
    books = held()
    books.apply(ledger.post(books, "h", 25, "node:one"))
    assert faults(books) == ()

    richer = replace(books.account("alice"), balance=76)
    assert len(faults(Ledger(books.accounts | {"alice": richer}, books.holds, books.transfers))) == 2
    lost = {name: account for name, account in books.accounts.items() if name != "node:one"}
    assert "never written" in " ".join(faults(Ledger(lost, books.holds, books.transfers)))
    undone = replace(books.holds["h"], state=HoldState.VOIDED)
    assert "without an end" in " ".join(faults(Ledger(books.accounts, {"h": undone}, books.transfers)))
    assert "was moved for" in " ".join(faults(Ledger(books.accounts, books.holds, {})))


class AnyOrder(RuleBasedStateMachine):
    """Transfers, holds and ends in any order, next to a model that only adds up what should have happened."""

    holds = Bundle("holds")

    def __init__(self) -> None:
        super().__init__()
        self.books = Ledger()
        self.given = 0
        self.paid = 0
        self.ended: dict[str, HoldState] = {}
        self.count = 0

    def new_id(self) -> str:
        self.count += 1
        return f"id-{self.count}"

    def available(self, account: str) -> int:
        holds = [each for each in self.books.holds.values() if each.account == account]
        return self.books.account(account).balance - sum(each.amount for each in holds if each.state is HoldState.OPEN)

    @rule(account=st.sampled_from(ACCOUNTS), amount=AMOUNTS)
    def grant(self, account: str, amount: int) -> None:
        self.books.apply(ledger.transfer(self.books, self.new_id(), NETWORK, account, amount))
        self.given += amount

    @rule(source=st.sampled_from(ACCOUNTS), to=st.sampled_from(NODES), amount=AMOUNTS)
    def move(self, source: str, to: str, amount: int) -> None:
        enough = amount <= self.available(source)
        try:
            change = ledger.transfer(self.books, self.new_id(), source, to, amount)
        except InsufficientCredit:
            assert not enough
        except LedgerError:
            assert source == to
        else:
            assert enough
            self.books.apply(change)

    @rule(target=holds, account=st.sampled_from(ACCOUNTS), amount=AMOUNTS, expires=st.integers(0, 100))
    def reserve(self, account: str, amount: int, expires: int) -> str:
        hold_id = self.new_id()
        enough = amount <= self.available(account)
        try:
            change = ledger.reserve(self.books, hold_id, account, amount, expires)
        except InsufficientCredit:
            assert not enough
        else:
            assert enough
            self.books.apply(change)
        return hold_id

    @rule(hold_id=holds, charge=AMOUNTS, to=st.sampled_from(NODES))
    def post(self, hold_id: str, charge: int, to: str) -> None:
        before = self.books.hold(hold_id)
        try:
            change = ledger.post(self.books, hold_id, charge, to)
        except LedgerError:
            return
        assert before is not None
        self.books.apply(change)
        assert ledger.post(self.books, hold_id, charge, to) == NOTHING
        if before.state is HoldState.OPEN:
            self.end(hold_id, HoldState.POSTED)
            self.paid += charge

    @rule(hold_id=holds)
    def void(self, hold_id: str) -> None:
        before = self.books.hold(hold_id)
        try:
            self.books.apply(ledger.void(self.books, hold_id))
        except LedgerError:
            return
        if before is not None and before.state is HoldState.OPEN:
            self.end(hold_id, HoldState.VOIDED)

    @rule(wall_ms=st.integers(0, 100))
    def expire(self, wall_ms: int) -> None:
        overdue = [each for each in self.books.open_holds() if each.expires_at_ms <= wall_ms]
        self.books.apply(ledger.expire(self.books, wall_ms))
        for hold in overdue:
            self.end(hold.id, HoldState.EXPIRED)

    @rule()
    def restart(self) -> None:
        left = self.books.open_holds()
        self.books.apply(ledger.void_all(self.books))
        for hold in left:
            self.end(hold.id, HoldState.VOIDED)

    def end(self, hold_id: str, state: HoldState) -> None:
        assert hold_id not in self.ended
        self.ended[hold_id] = state

    @invariant()
    def it_sums_to_zero(self) -> None:
        assert sum(account.balance for account in self.books.accounts.values()) == 0
        assert self.books.account(NETWORK).balance == -self.given
        assert faults(self.books) == ()

    @invariant()
    def every_hold_ends_once(self) -> None:
        for hold_id, state in self.ended.items():
            assert self.books.holds[hold_id].state is state
        posted = [each for each in self.books.holds.values() if each.state is HoldState.POSTED]
        assert sum(each.charge for each in posted) == self.paid

    def teardown(self) -> None:
        self.books.apply(ledger.expire(self.books, 101))
        assert not self.books.open_holds()
        assert all(account.held == 0 for account in self.books.accounts.values())


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
