"""An asker and a node over lanes, in any order of orders, losses, crashes, replays, vouchers and claims.

Both sides are the real rules; envelopes are the plain bodies, as signatures are tested elsewhere. What is on disk
survives a crash, and nothing else.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from cxp2p import vouchers
from cxp2p.claims import recount
from cxp2p.exposure import Owed
from cxp2p.lanes import FreeLanes, NodeLane, NodeLanes, check_countersign, replayable_until_ms
from cxp2p.receipts import Delivered, Lane, Terms, advance, charge_of, check_receipt, digest, make_order
from cxp2p.records import Countersign, Finish, Order, Receipt, Verdict
from cxp2p.units import output_commit
from cxp2p.wire import encode
from orders import ABLE, COMMIT, GATEWAY, NODE, WALL, receipt_for

EXPOSURE_MAX = 20_000
IN_UNITS = 10
MAX_IN = 100
AT = st.integers(0, 5)
SELDOM = st.sampled_from([False, False, False, True])


@dataclass
class Job:
    """One order with what each side has of it. `known`: what the asker knows to have arrived, None after its crash."""

    order: Order
    envelope: bytes
    lane: Lane
    made: int = 0
    arrived: int = 0
    known: Delivered | None = field(default_factory=lambda: Delivered(units=0, commit=output_commit(())))
    asker_runs: bool = True
    node_runs: bool = False
    taken: bool = False
    refused: bool = False
    vouched_units: int = 0
    promised: int = 0
    shown: int = 0  # by the last voucher that reached the node
    receipt: Receipt | None = None
    said: Countersign | None = None  # by the asker, on its disk
    heard: Countersign | None = None  # by the node, on its disk

    @property
    def hash(self) -> bytes:
        assert self.receipt is not None
        return digest(encode(self.receipt))


def got(units: int, *, cancelled: bool = False) -> Delivered:
    return Delivered(units=units, commit=output_commit(tuple(range(units))), cancelled=cancelled)


def was_taken(job: Job) -> bool:
    return job.taken


def runs_here(job: Job) -> bool:
    return job.node_runs


def runs_everywhere(job: Job) -> bool:
    return job.node_runs and job.asker_runs


def has_a_receipt(job: Job) -> bool:
    return job.receipt is not None and not job.asker_runs


class LaneMachine(RuleBasedStateMachine):
    """`lanes_of`: the asker's memory; `node`: the node's; `jobs`: what both have on disk, and what ran."""

    def __init__(self) -> None:
        super().__init__()
        self.names = itertools.count()
        self.wall_ms = WALL
        self.jobs: list[Job] = []
        self.node = NodeLanes(NODE.peer, EXPOSURE_MAX)
        self.asker_starts()

    def pick(self, at: int, fits: Callable[[Job], bool]) -> Job:
        """One of the jobs that fit, the newest first."""
        found = [job for job in reversed(self.jobs) if fits(job)]
        return found[at % len(found)]

    def new_id(self) -> bytes:
        return next(self.names).to_bytes(16, "big")

    def asker_starts(self) -> None:
        self.free = FreeLanes(self.new_id)

    @initialize()
    def begin(self) -> None:
        for max_out in (300, 12_000):
            self.order_one(max_out, lost=False)
        self.work_on(self.jobs[-1], 20, 90, lost=False)

    # An order leaves.

    @rule(max_out=st.sampled_from([5, 300, 12_000]), lost=SELDOM)
    def order(self, max_out: int, lost: bool) -> None:
        self.order_one(max_out, lost=lost)

    def order_one(self, max_out: int, *, lost: bool) -> None:
        lane = self.free.take(NODE.peer)
        terms = Terms(
            gateway=GATEWAY.peer,
            node=NODE.peer,
            capability=ABLE,
            request_commit=COMMIT,
            max_in=MAX_IN,
            max_out=max_out,
            seed=1,
        )
        order = make_order(terms, lane, self.new_id(), self.wall_ms)
        job = Job(order, encode(order), lane)
        self.jobs.append(job)
        if lost:
            self.asker_leaves(job)
        elif not self.reach(job):
            job.refused, job.asker_runs = True, False
            self.free.give_back(NODE.peer, lane)

    def reach(self, job: Job) -> bool:
        """The order comes to the node; True if it was taken."""
        order = job.order
        refusal = self.node.check(GATEWAY.peer, GATEWAY.peer, order, COMMIT, ABLE, self.wall_ms)
        if refusal is None:
            assert not job.taken
            self.node.take(order)
            job.taken = job.node_runs = True
        return refusal is None

    @precondition(lambda self: any(map(was_taken, self.jobs)))
    @rule(at=AT)
    def replay(self, at: int) -> None:
        """Anybody may send an order again that the node took: there is no second answer."""
        assert not self.reach(self.pick(at, was_taken))

    # Work.

    @precondition(lambda self: any(map(runs_here, self.jobs)))
    @rule(at=AT, pieces=st.sampled_from([3, 20, 200]), size=st.sampled_from([7, 90]), lost=SELDOM)
    def work(self, at: int, pieces: int, size: int, lost: bool) -> None:
        """Pieces go out while vouchers allow it, and vouchers come back, unless they are lost."""
        self.work_on(self.pick(at, runs_here), pieces, size, lost=lost)

    def work_on(self, job: Job, pieces: int, size: int, *, lost: bool) -> None:
        for _ in range(pieces):
            after = min(job.made + size, job.order.max_out)
            if not self.node.may_hand_on(job.order, IN_UNITS, job.made, after):
                return
            job.made = after
            if job.asker_runs:
                job.arrived = after
                job.known = got(after)
                self.vouch(job, lost)

    def vouch(self, job: Job, lost: bool) -> None:
        if vouchers.due(job.order.service, job.arrived) <= job.vouched_units:
            return
        job.vouched_units = job.arrived
        voucher = vouchers.make_voucher(job.order, job.lane.cum_charge, job.arrived)
        job.promised = voucher.cum_amount - job.lane.cum_charge
        if not lost:
            self.node.check_voucher(job.order, GATEWAY.peer, voucher)
            self.node.vouch(job.order, voucher)
            job.shown = job.promised

    # Ends.

    @precondition(lambda self: any(map(runs_everywhere, self.jobs)))
    @rule(at=AT, lost=st.sampled_from(["nothing", "countersign", "receipt"]))
    def finish(self, at: int, lost: str) -> None:
        """The answer is whole. A receipt that is lost ends the order without one on the asker's side."""
        job = self.pick(at, runs_everywhere)
        self.sign(job, Finish.STOP)
        if lost == "receipt":
            self.asker_leaves(job)
            return
        assert job.receipt is not None
        assert job.known is not None
        envelope = encode(job.receipt)
        said = check_receipt(job.order, job.envelope, job.lane, NODE.peer, job.receipt, envelope, job.known)
        assert said.verdict is Verdict.ACCEPTED
        job.said, job.asker_runs = said, False
        self.free.give_back(NODE.peer, advance(job.lane, envelope, said.charge))
        if lost == "nothing":
            self.hear(job, said)

    def sign(self, job: Job, finish: Finish) -> None:
        assert job.receipt is None
        ids = tuple(range(job.made))
        cum = self.node.cum_charge(job.order)
        job.receipt = receipt_for(job.order, ids, cum, finish=finish, order_hash=digest(job.envelope))
        self.node.finish(job.order, job.receipt, encode(job.receipt), self.wall_ms)
        job.node_runs = False

    def hear(self, job: Job, said: Countersign) -> None:
        assert job.receipt is not None
        check_countersign(job.receipt, encode(job.receipt), GATEWAY.peer, said, min(job.shown, job.receipt.charge))
        if job.heard is None:
            job.heard = said
            self.node.settle(job.order, job.receipt, encode(job.receipt), GATEWAY.peer, said)
        assert job.heard == said

    @precondition(lambda self: any(map(runs_here, self.jobs)))
    @rule(at=AT)
    def break_off(self, at: int) -> None:
        """The connection is gone: the asker goes elsewhere, the node signs for what it handed on."""
        self.break_link(self.pick(at, runs_here))

    def break_link(self, job: Job) -> None:
        if job.asker_runs:
            self.asker_leaves(job)
        if job.node_runs:
            self.sign(job, Finish.CANCELLED)

    def asker_leaves(self, job: Job) -> None:
        """Ended without a receipt, in order: its lane is never used again."""
        job.asker_runs = False

    # Crashes.

    @rule()
    def asker_crashes(self) -> None:
        """Of running jobs it knows its order and nothing else; all lanes are new."""
        for job in self.jobs:
            if job.asker_runs:
                job.asker_runs, job.known = False, None
        self.asker_starts()

    @rule()
    def node_crashes(self) -> None:
        """Its running jobs are lost; lanes and debts are what its papers say."""
        self.node = NodeLanes(NODE.peer, EXPOSURE_MAX)
        for job in self.jobs:
            job.node_runs, was_open = False, job.node_runs
            if job.taken and self.is_last(job):
                receipt = job.receipt
                lane = NodeLane(
                    seq=job.order.seq,
                    head=None if receipt is None else job.hash,
                    cum_charge=0 if receipt is None else receipt.cum_charge,
                    open=receipt is None,
                    ended=job.heard is not None and job.heard.verdict is not Verdict.ACCEPTED,
                    replayable_until_ms=replayable_until_ms(job.order),
                )
                self.node.restore(GATEWAY.peer, job.order.lane, lane)
            self.owes_again(job)
            if was_open and job.asker_runs:
                self.asker_leaves(job)

    def is_last(self, job: Job) -> bool:
        return not any(
            other.taken and other.order.lane == job.order.lane and other.order.seq > job.order.seq
            for other in self.jobs
        )

    def owes_again(self, job: Job) -> None:
        if job.receipt is None or not job.receipt.charge:
            return
        disputed = job.heard is not None and job.heard.verdict is Verdict.DISPUTED
        if job.heard is None or disputed:
            owed = Owed(max(0, job.receipt.charge - job.shown), self.wall_ms, disputed=disputed)
            self.node.exposures.owe(GATEWAY.peer, job.hash, owed)

    @rule(seconds=st.sampled_from([1, 40, 200]))
    def time_passes(self, seconds: int) -> None:
        self.wall_ms += seconds * 1000

    # Claims.

    @precondition(lambda self: any(map(has_a_receipt, self.jobs)))
    @rule(at=AT, lost=st.booleans())
    def claim(self, at: int, lost: bool) -> None:
        """The node shows its receipt, again and again; the asker says the same each time."""
        self.show(self.pick(at, has_a_receipt), lost)

    def show(self, job: Job, lost: bool) -> None:
        assert job.receipt is not None
        if job.said is None:
            envelope = encode(job.receipt)
            job.said = recount(job.order, job.receipt, envelope, job.known, job.shown)
        if not lost:
            self.hear(job, job.said)

    # What is always true.

    @invariant()
    def no_more_is_owed_than_the_node_allows(self) -> None:
        assert 0 <= self.node.exposure(GATEWAY.peer, self.wall_ms) <= EXPOSURE_MAX

    @invariant()
    def a_seq_has_one_receipt(self) -> None:
        places = [(job.order.lane, job.order.seq) for job in self.jobs if job.receipt is not None]
        assert len(places) == len(set(places))

    @invariant()
    def both_sides_agree_where_both_know(self) -> None:
        for job in self.jobs:
            if job.heard is not None:
                assert job.heard == job.said
            if job.said is not None:
                assert 0 <= job.said.charge <= job.order.max_charge
            if job.refused:
                assert job.receipt is None

    @invariant()
    def a_lane_costs_what_its_receipts_say(self) -> None:
        """The order of a lane's next job says what the node says, as only agreement goes on."""
        for job in self.jobs:
            if job.taken and job.receipt is not None:
                assert job.receipt.cum_charge - job.receipt.charge == job.lane.cum_charge

    def teardown(self) -> None:
        """In the end everything is claimed: nobody lost more than was let be owed, or paid for what was not made."""
        for job in self.jobs:
            self.break_link(job)
            if has_a_receipt(job):
                self.show(job, lost=False)
        for job in self.jobs:
            event(f"{job.heard and job.heard.verdict.value}, counted: {job.known is not None}, long: {job.made > 256}")
            if job.receipt is None:
                assert job.said is None
                continue
            assert job.heard is not None
            made = charge_of(job.order.prices, IN_UNITS, job.made)
            assert job.heard.charge <= made
            assert made - job.heard.charge <= vouchers.reserve(job.order)
            delivered = charge_of(job.order.prices, IN_UNITS, job.arrived) if job.arrived else 0
            if job.known is not None:
                assert job.heard.charge >= delivered
            if (job.promised, job.made) == (job.shown, job.arrived):  # nothing was lost on the way
                assert made - job.heard.charge <= (IN_UNITS if not job.made else 0)


TestLanes = LaneMachine.TestCase
TestLanes.settings = settings(max_examples=80, stateful_step_count=30, deadline=None, derandomize=True)


@pytest.mark.slow
def test_lanes_in_long_histories() -> None:
    """The same, for many longer ones, each time others."""
    many = settings(max_examples=150, stateful_step_count=60, deadline=None)
    run_state_machine_as_test(LaneMachine, settings=many)
