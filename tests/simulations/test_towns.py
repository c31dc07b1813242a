from __future__ import annotations

import pytest

from cxp2p.ledger import NETWORK
from simulations.demands import End
from simulations.engines import Speed
from simulations.gateways import USER_CREDIT
from simulations.rules import Rules
from simulations.signing import QuickSigning, RealSigning
from towns import SmallTown


@pytest.mark.parametrize("signing", [QuickSigning, RealSigning])
def test_a_job_is_done_receipted_countersigned_and_paid(signing: type[QuickSigning] | type[RealSigning]) -> None:
    """100 tokens in at 20,000 and 100 out at 60,000 µcredits a million are 8 µcredits, from the user to the node."""
    town = SmallTown(signing=signing())

    town.ask()
    (outcome,) = town.finish()

    assert (outcome.end, outcome.charge, outcome.attempts) == (End.DONE, 8, 1)
    assert outcome.first_piece_s == pytest.approx(100 / 800 + 0.003, abs=0.01)
    assert outcome.whole_s == pytest.approx(100 / 800 + 100 / 40 + 0.004, abs=0.01)
    books = town.gateway.books
    assert {name: account.balance for name, account in books.accounts.items()} == {
        NETWORK: -USER_CREDIT,
        "alice": USER_CREDIT - 8,
        outcome.node: 8,
    }
    assert town.nodes[outcome.node].earned == 8
    assert town.nodes[outcome.node].owing.total(town.gateway.peer, town.world.now) == 0


def test_a_lane_goes_on_over_many_jobs() -> None:
    """The node accepts the next order of a lane, so its receipts chain."""
    town = SmallTown(nodes=1)
    for _ in range(5):
        town.ask()
        town.world.run(town.world.now + 10.0)

    assert [outcome.end for outcome in town.finish()] == [End.DONE] * 5
    assert town.gateway.lanes.take(town.all[0].peer).seq == 5


def test_more_jobs_than_fit_are_refused_and_go_to_others() -> None:
    """Each of two nodes runs 1 and lets 1 wait: of six at once four are done, and the others were refused by all."""
    town = SmallTown(nodes=2, slots=1, queue_max=1)

    town.ask(6)
    outcomes = town.finish()

    ends = [outcome.end for outcome in outcomes]
    assert ends.count(End.DONE) == 4
    assert ends.count(End.REFUSED) == 2
    assert all(node.done == 2 for node in town.all)


def test_nobody_offers_another_model() -> None:
    town = SmallTown()

    town.ask(model="other")

    assert [outcome.end for outcome in town.finish()] == [End.NOBODY]


def test_a_crash_before_the_first_piece_moves_the_job_to_another_node() -> None:
    """The user sees only that it took longer; the dead node is paid nothing."""
    town = SmallTown(speed=Speed(prompt_units_s=50.0))
    town.ask()
    town.world.run(town.world.now + 0.5)
    (busy,) = [node for node in town.all if node.desk.running]

    busy.crash()
    (outcome,) = town.finish()

    assert (outcome.end, outcome.attempts) == (End.DONE, 2)
    assert outcome.node != busy.peer
    assert busy.peer not in town.gateway.books.accounts


def test_a_crash_after_the_first_piece_cuts_the_answer() -> None:
    """Nothing is paid for half an answer without a receipt."""
    town = SmallTown()
    town.ask()
    town.world.run(town.world.now + 1.0)
    (busy,) = [node for node in town.all if node.desk.running]

    busy.crash()
    (outcome,) = town.finish()

    assert (outcome.end, outcome.charge) == (End.CUT, 0)


def test_a_machine_that_vanishes_is_noticed_after_three_beats() -> None:
    """No connection is closed: the gateway waits three seconds, then the next node is asked."""
    town = SmallTown(speed=Speed(prompt_units_s=50.0))
    town.ask()
    town.world.run(town.world.now + 0.5)
    (busy,) = [node for node in town.all if node.desk.running]

    busy.crash(silently=True)
    (outcome,) = town.finish()

    assert outcome.end is End.DONE
    assert outcome.first_piece_s == pytest.approx(0.5 + 3.0 + 2.0, abs=0.05)


def test_a_node_that_restarts_goes_on_with_its_lanes_and_what_it_is_owed() -> None:
    """Both are on its disk: the next order continues the lane, and no new one is needed."""
    town = SmallTown(nodes=1)
    town.ask()
    town.world.run(town.world.now + 10.0)
    town.all[0].crash()
    town.world.run(town.world.now + 1.0)
    town.all[0].start()
    town.world.run(town.world.now + 30.0)

    town.ask()

    assert [(outcome.end, outcome.attempts) for outcome in town.finish()] == [(End.DONE, 1)] * 2
    assert town.gateway.lanes.take(town.all[0].peer).seq == 2


def test_a_countersign_that_was_lost_is_claimed_and_comes_again() -> None:
    """A wall stands between gateway and node for a moment, just when the countersign is on its way."""
    town = SmallTown(nodes=1)
    node, gateway = town.all[0], town.gateway
    town.ask()
    while not town.outcomes:
        town.world.run(town.world.now + 0.001)
    town.links.cut([gateway.peer], [node.peer])
    town.world.run(town.world.now + 1.0)
    town.links.heal([gateway.peer], [node.peer])
    assert node.owing.total(gateway.peer, town.world.now) == 8
    assert node.earned == 0

    town.world.run(town.world.now + 60.0)

    assert node.owing.total(gateway.peer, town.world.now) == 0
    assert node.earned == gateway.books.accounts[node.peer].balance == 8
    town.finish()


def test_what_arrived_before_a_wall_is_paid_when_the_node_claims_it() -> None:
    """The user's answer is cut in the middle; the node worked on, and has what had arrived: about half."""
    town = SmallTown(nodes=1)
    node, gateway = town.all[0], town.gateway
    town.ask(out_units=800)
    town.world.run(town.world.now + 7.0)
    town.links.split([gateway.peer], [node.peer])
    town.world.run(town.world.now + 4.0)
    assert [(outcome.end, outcome.charge) for outcome in town.outcomes] == [(End.CUT, 0)]
    town.links.join([gateway.peer], [node.peer])
    town.world.run(town.world.now + 120.0)

    assert gateway.books.accounts[node.peer].balance == node.earned
    assert 2 + 48 * 0.4 < node.earned < 2 + 48 * 0.6
    assert node.owing.total(gateway.peer, town.world.now) == 0
    town.finish()


def test_a_partition_hides_nodes_until_it_heals() -> None:
    """A gateway that hears no node has nobody to ask, and asks again when it hears them."""
    town = SmallTown()
    nodes = [node.peer for node in town.all]
    town.links.split([town.gateway.peer], nodes)
    town.world.run(town.world.now + 4.0)
    town.ask()
    town.world.run(town.world.now + 1.0)
    assert [outcome.end for outcome in town.outcomes] == [End.NOBODY]

    town.links.join([town.gateway.peer], nodes)
    town.world.run(town.world.now + 10.0)
    town.ask()

    assert town.finish()[-1].end is End.DONE


def test_a_node_that_drains_gets_no_more_jobs_and_ends_those_it_has() -> None:
    town = SmallTown()
    town.ask()
    town.world.run(town.world.now + 1.0)
    (busy,) = [node for node in town.all if node.desk.running]

    busy.drain()
    town.world.run(town.world.now + 0.5)
    town.ask(5)
    outcomes = town.finish()

    assert all(outcome.end is End.DONE for outcome in outcomes)
    assert busy.done == 1


def test_a_user_who_leaves_costs_nothing_that_was_not_begun() -> None:
    """A job that waits is cancelled: its node is free again, and the receipt over nothing costs nothing."""
    town = SmallTown(nodes=1, slots=1)
    town.ask(out_units=1000)
    town.world.run(town.world.now + 0.1)
    town.ask(patience_s=2.0)
    outcomes = town.finish()

    assert {outcome.end: outcome.charge for outcome in outcomes} == {End.LEFT: 0, End.DONE: 62}
    assert outcomes[0].end is End.LEFT


def test_who_cannot_pay_is_not_served() -> None:
    """The hold is of the most that the job may cost, so an account with less is told so."""
    town = SmallTown()
    town.gateway.user_credit = 5

    town.ask()

    assert [(outcome.end, outcome.charge) for outcome in town.finish()] == [(End.BROKE, 0)]


def test_a_hedge_asks_one_more_node_and_stops_whoever_is_later() -> None:
    """The first node hangs for ten seconds; after one the other is asked too, and only it is paid."""
    town = SmallTown(rules=Rules(hedge_s=1.0))
    town.ask()
    (chosen,) = town.gateway.runs[1].tried
    town.nodes[chosen].speed = Speed(prompt_units_s=10.0)

    (outcome,) = town.finish()

    assert (outcome.end, outcome.attempts) == (End.DONE, 2)
    assert outcome.node != chosen
    assert outcome.first_piece_s == pytest.approx(1.13, abs=0.05)
    assert town.nodes[chosen].desk.running == 0
    assert town.gateway.books.charged == town.gateway.books.accounts[outcome.node].balance + 2


def test_what_begins_alike_is_read_once() -> None:
    """The second prompt with the same beginning skips what is in the cache of its gateway's last job."""
    town = SmallTown(nodes=1, speed=Speed(prompt_units_s=100.0))
    for _ in range(2):
        town.ask(in_units=500, prefix=b"the same", prefix_units=400)
        town.world.run(town.world.now + 20.0)
    first, second = (outcome.first_piece_s for outcome in town.finish())

    assert first == pytest.approx(5.0, abs=0.05)
    assert second == pytest.approx(1.0, abs=0.05)
