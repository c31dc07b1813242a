"""A bug that is put into a rule is caught by an invariant, which names the seed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from random import Random

import pytest

from cxp2p import ledger
from cxp2p.ledger import Account, Book, Change
from cxp2p.records import Capability, Finish, Refusal
from cxp2p.routing import Candidate
from cxp2p_node.admission import Desk, decide
from simulations.attempts import Attempt, Run
from simulations.clocks import Clock
from simulations.demands import End
from simulations.engines import make_capability
from simulations.nodes import NodeModel, Work
from simulations.rules import Rules
from simulations.world import BrokenInvariant
from towns import HERE, SmallTown


def to_the_first(candidates: Iterable[Candidate], tried: Collection[str], rng: Random, now: float) -> list[Candidate]:
    """A router that sends every job to the same node, whether it is full or not."""
    return sorted(candidates, key=lambda each: (each[0].offer.peer in tried, each[0].offer.peer))


def to_the_quickest(
    candidates: Iterable[Candidate], tried: Collection[str], rng: Random, now: float
) -> list[Candidate]:
    """A router that looks at how quick a node is, and not at how many wait there."""
    return sorted(candidates, key=lambda each: (each[0].offer.peer in tried, each[1].load.first_piece_ms))


@pytest.mark.parametrize("router", [to_the_first, to_the_quickest])
def test_a_router_that_ignores_a_full_queue_is_caught(router: Callable[..., list[Candidate]]) -> None:
    """A node that said that it is full is asked again while others have room."""
    town = SmallTown(nodes=2, seed=11, rules=Rules(rank=router), slots=1, queue_max=0)

    def crowd() -> None:
        town.ask(2)
        town.world.after(0.3, crowd)

    crowd()

    with pytest.raises(BrokenInvariant, match=r"said that it is full and is asked all the same.*\(seed 11, at"):
        town.world.run(town.world.now + 60.0)


def held_more(change: Change, account: str, amount: int) -> tuple[Account, ...]:
    return tuple(replace(each, held=each.held + amount) if each.id == account else each for each in change.accounts)


def forgets_to_free(book: Book, hold_id: str, charge: int, to: str) -> Change:
    """Moves the credit and leaves the hold open."""
    change = ledger.post(book, hold_id, charge, to)
    hold = book.hold(hold_id)
    assert hold is not None
    accounts = [
        replace(each, held=each.held + hold.amount) if each.id == hold.account else each for each in change.accounts
    ]
    return replace(change, holds=(), accounts=tuple(accounts))


def frees_too_little(book: Book, hold_id: str, charge: int, to: str) -> Change:
    """Ends the hold, and leaves what was not charged held."""
    change = ledger.post(book, hold_id, charge, to)
    hold = book.hold(hold_id)
    assert hold is not None
    return replace(change, accounts=held_more(change, hold.account, hold.amount - charge))


def makes_credit(book: Book, hold_id: str, charge: int, to: str) -> Change:
    """Gives the node one µcredit more than the user paid."""
    change = ledger.post(book, hold_id, charge, to)
    accounts = [replace(each, balance=each.balance + 1) if each.id == to else each for each in change.accounts]
    return replace(change, accounts=tuple(accounts))


def pays_under_one_id(book: Book, hold_id: str, charge: int, to: str) -> Change:
    """Every job's transfer has the id of the first."""
    change = ledger.post(book, hold_id, charge, to)
    return replace(change, transfers=tuple(replace(each, id="first") for each in change.transfers))


@pytest.mark.parametrize(
    ("post", "fault"),
    [
        (forgets_to_free, "is still open after its order ended"),
        (frees_too_little, r"held=244\) should hold 168"),
        (makes_credit, "credit does not sum to zero: 1 µcredits appeared"),
        (pays_under_one_id, "first is paid twice"),
    ],
)
def test_a_ledger_that_posts_wrongly_is_caught(post: Callable[..., Change], fault: str) -> None:
    """By a count that was made another way, right after the event."""
    town = SmallTown(seed=12, rules=Rules(post=post))
    town.ask(3)

    with pytest.raises(BrokenInvariant, match=fault) as broken:
        town.world.run(town.world.now + 60.0)
    assert "seed 12, at" in str(broken.value)


def test_a_void_that_does_nothing_is_caught() -> None:
    """A hold whose order was refused has to end with it."""
    town = SmallTown(nodes=1, slots=1, queue_max=0, rules=Rules(void=lambda book, hold_id: ledger.NOTHING))
    town.ask(2)

    with pytest.raises(BrokenInvariant, match="is still open after its order ended"):
        town.world.run(town.world.now + 60.0)


def test_a_node_that_takes_more_than_it_has_room_for_is_caught() -> None:
    """Admission that forgets those who wait."""

    def forgetful(desk: Desk, **state: bool) -> Refusal | None:
        return decide(replace(desk, queued=0, running=0), ready=True, draining=state["draining"])

    town = SmallTown(nodes=1, rules=Rules(decide=forgetful), slots=1, queue_max=2)
    town.ask(10)

    with pytest.raises(BrokenInvariant, match="3 jobs wait and 1 run, there is room for 2 to wait"):
        town.world.run(town.world.now + 60.0)


class Trusting(NodeModel):
    """Takes back from its books what nobody countersigned, so that its limit never bites."""

    def answer(self, work: Work, finish: Finish, units: int) -> None:
        super().answer(work, finish, units)
        self.lanes = type(self.lanes)(self.peer, self.exposure_max)


def test_a_node_that_lets_itself_be_owed_more_than_its_limit_is_caught() -> None:
    """The second count does not forget what the node's own does."""
    town = SmallTown(nodes=0)
    capability: Capability = make_capability()
    town.add_node(capability, None, HERE, clock=Clock(town.world), exposure_max=100, kind=Trusting)
    town.gateway.countersign = lambda attempt, work, envelope: None  # type: ignore[method-assign]
    town.world.run(town.world.now + 11.0)

    def again() -> None:
        town.ask(max_out=100)
        town.world.after(5.0, again)

    again()

    with pytest.raises(BrokenInvariant, match="owes 104 µcredits, the limit is 100"):
        town.world.run(town.world.now + 3600.0)


def test_a_demand_that_is_done_and_failed_too_is_caught() -> None:
    """A gateway that tells its user of a fault after the answer."""
    town = SmallTown()
    ended = town.gateway._end

    def end_twice(run: Run, end: End, attempt: Attempt | None = None) -> None:
        ended(run, end, attempt)
        ended(run, End.FAILED)

    town.gateway._end = end_twice  # type: ignore[method-assign]
    town.ask()

    with pytest.raises(BrokenInvariant, match="demand 1 ended 2 times"):
        town.world.run(town.world.now + 60.0)


def test_what_never_ends_is_seen_at_the_end() -> None:
    """A hold that nobody remembers, and credit that came from nowhere before anybody looked."""
    town = SmallTown()
    town.ask()
    town.world.run(town.world.now + 60.0)
    books = town.gateway.books
    books.apply(ledger.reserve(books, "forgotten", "alice", 5, 0))
    books.accounts["bob"] = Account(id="bob", balance=7)

    with pytest.raises(BrokenInvariant, match=r"1 holds never ended; .* all balances together are 7, not 0"):
        town.settle()


def test_the_rules_as_they_are_break_nothing_when_much_goes_wrong() -> None:
    """Crowds, crashes, walls and impatient users, and every invariant holds to the end."""
    town = SmallTown(nodes=4, seed=13, slots=1, queue_max=1)
    rng = town.world.rng("trouble")

    def trouble() -> None:
        town.ask(rng.randrange(4), patience_s=rng.choice((0.05, 1.0, 120.0)), out_units=rng.randrange(1, 400))
        node = rng.choice(list(town.all))
        match rng.randrange(12):
            case 0 if node.up:
                node.crash(silently=rng.random() < 0.5)
            case 1 | 2 | 3 if not node.up:
                node.start()
            case 4:
                town.links.cut([node.peer], [town.gateway.peer])
                town.world.after(rng.uniform(0.1, 8.0), town.links.heal, [node.peer], [town.gateway.peer])
        if town.world.now < 1800:
            town.world.after(rng.expovariate(1.0), trouble)

    trouble()
    town.world.run(1900.0)
    outcomes = town.finish()

    assert len(outcomes) > 2000
    assert {outcome.end.name for outcome in outcomes} >= {"DONE", "REFUSED", "LEFT", "CUT", "NOBODY", "FAILED"}
