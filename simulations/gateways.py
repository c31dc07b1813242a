"""A gateway in a world: the real directory, routing, lanes, receipts and ledger, and users who come with demands."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING

from cxp2p import ledger, receipts, units
from cxp2p.claims import recount
from cxp2p.errors import CxError, InsufficientCredit, JobFailed, JobRefused, ReceiptInvalid
from cxp2p.identity import Kind
from cxp2p.lanes import FreeLanes
from cxp2p.net.ask import ATTEMPTS_MAX
from cxp2p.net.attempt import SETTLE_S
from cxp2p.protocols import STREAM_OPEN_TIMEOUT_S
from cxp2p.records import Capability, Receipt, RefusalCode, Verdict
from cxp2p.routing import Blame, Candidate, Fault, blame, most_it_costs, remaining, too_dear
from cxp2p.wire import decode, encode
from simulations import invariants
from simulations.attempts import Attempt, Run
from simulations.clocks import Clock
from simulations.counted_books import CountedBooks
from simulations.demands import Demand, End, Outcome
from simulations.links import Way
from simulations.nodes import Work, output_commit
from simulations.rules import REAL, Rules
from simulations.signing import Signer
from simulations.watching import Watching

if TYPE_CHECKING:
    from simulations.town import Town

USER_CREDIT = 10**12  # µcredits that a user begins with: enough, where money is not the question
HOLD_MS = 720_000  # a job's deadline of ten minutes, and two minutes of grace


class GatewayModel:
    """One gateway. What one that cheats would do differently is `countersign` and `submit`."""

    def __init__(
        self, town: Town, signer: Signer, clock: Clock, *, rules: Rules = REAL, user_credit: int = USER_CREDIT
    ) -> None:
        self.town, self.world, self.links = town, town.world, town.links
        self.signer, self.peer, self.clock, self.rules = signer, signer.peer, clock, rules
        self.user_credit = user_credit
        self.rng = self.world.rng("gateway " + self.peer)
        self.books = CountedBooks(self.world, self.peer[-6:])
        self.watching = Watching(self)
        self.directory = self.watching.directory
        self.lanes = FreeLanes(lambda: self.rng.randbytes(16))
        self.runs: dict[int, Run] = {}
        self.at_node: dict[str, dict[int, Attempt]] = {}
        self.just_ended: list[Run] = []
        self.just_closed: list[Attempt] = []
        self.wrongly_chosen: list[str] = []
        self._attempts = 0

    def __repr__(self) -> str:
        return f"<GatewayModel {self.peer[-6:]} {len(self.runs)} demands, {len(self.directory)} nodes known>"

    # Demands.

    def submit(self, demand: Demand) -> None:
        """A user comes. Its outcome goes to the town's `ended`, sooner or later."""
        if demand.user not in self.books.accounts:
            given = ledger.transfer(self.books, f"user {demand.user}", ledger.NETWORK, demand.user, self.user_credit)
            self.books.apply(given)
        run = Run(demand, self.world.now)
        self.runs[demand.number] = run
        run.patience = self.world.after(demand.patience_s, self._left, run)
        self._try_next(run)

    def _try_next(self, run: Run) -> None:
        """Orders from the best node that was not tried; the demand ends if there is none."""
        while len(run.tried) < ATTEMPTS_MAX:
            chosen = self.choose(run)
            if chosen is None:
                break
            entry, capability = chosen
            run.tried.append(entry.offer.peer)
            try:
                self._order(run, chosen, self.lanes.take(entry.offer.peer))
            except InsufficientCredit as error:
                if too_dear(run.faults):
                    self._end(run, End.BROKE)
                    return
                run.faults.append(self._fault(run, entry.offer.peer, capability, error))
            else:
                return
        if not run.live:
            self._end(run, _end_of(run))

    def choose(self, run: Run) -> Candidate | None:
        """The node that is asked next. As `cxp2p.net.ask.Asker` chooses."""
        now, demand, rules = self.clock.now(), run.demand, self.rules
        found = self.directory.candidates(demand.service, demand.model, self.clock.wall_ms(), now)
        ranked = rules.rank(remaining(found, run.faults), run.tried, self.rng, now)
        if demand.prefix:
            affinity = sha256(f"{demand.user} {demand.prefix.hex()}".encode()).digest()
            ranked = rules.attract(ranked, affinity, now, demand.request_bytes)
        if too_dear(run.faults):
            ranked.sort(key=lambda candidate: most_it_costs(candidate[1]))
        elif ranked:
            self.wrongly_chosen += invariants.of_choice(ranked[0], found, run.tried, now)
        return ranked[0] if ranked else None

    def _order(self, run: Run, chosen: Candidate, lane: receipts.Lane) -> None:
        entry, capability = chosen
        demand, node, rng = run.demand, entry.offer.peer, self.rng
        commit = receipts.digest(demand.number.to_bytes(8, "big"))
        terms = receipts.Terms(
            gateway=self.peer,
            node=node,
            capability=capability,
            request_commit=commit,
            max_in=min(demand.request_bytes + units.TEMPLATE_UNITS_MAX, capability.context_units),
            max_out=min(demand.max_out, capability.output_units_max, capability.context_units),
            seed=rng.getrandbits(63),
        )
        order = self.rules.make_order(terms, lane, rng.randbytes(16), self.clock.wall_ms())
        hold_id = order.order_id.hex()
        try:
            held = self.rules.reserve(
                self.books, hold_id, demand.user, order.max_charge, self.clock.wall_ms() + HOLD_MS
            )
        except CxError:
            self.lanes.give_back(node, lane)
            raise
        self.books.apply(held)
        self._attempts += 1
        attempt = Attempt(
            number=self._attempts,
            gateway=self,
            run=run,
            demand=demand,
            node=node,
            entry=entry,
            capability=capability,
            lane=lane,
            order=order,
            envelope=self.signer.seal(Kind.ORDER, encode(order)),
            commit=commit,
            way=Way(self.links, self.peer, node),
            back=Way(self.links, node, self.peer),
            sent_at=self.world.now,
            hold_id=hold_id,
        )
        self._send(attempt)

    def _send(self, attempt: Attempt) -> None:
        run, node = attempt.run, attempt.node
        attempt.entry.jobs += 1
        run.attempts.append(attempt)
        run.live.append(attempt)
        self.at_node.setdefault(node, {})[attempt.number] = attempt
        if self.town.answers(self.peer, node):
            size = attempt.demand.request_bytes + len(attempt.envelope)
            attempt.way.send(size, self.town.nodes[node].hear, attempt, attempt.envelope, attempt.commit)
        else:
            attempt.timer = self.world.after(STREAM_OPEN_TIMEOUT_S, attempt.broke, "no stream could be opened")
        if self.rules.hedge_s is not None and not run.hedge:
            run.hedge = self.world.after(self.rules.hedge_s, self._hedge, run)

    def _hedge(self, run: Run) -> None:
        run.hedge = 0
        if not run.ends and run.first_at is None and len(run.live) == 1:
            self._try_next(run)

    # What comes back.

    def attempt_refused(self, attempt: Attempt, error: JobRefused) -> None:
        """The node said no: it was for an old lane, or the next node is asked."""
        if error.code not in (RefusalCode.LANE_UNKNOWN, RefusalCode.ORDER_INVALID):
            self.lanes.give_back(attempt.node, attempt.lane)
        if error.code is RefusalCode.LANE_UNKNOWN and attempt.lane.seq and not attempt.cancelled:
            self._close(attempt)
            self._order(attempt.run, (attempt.entry, attempt.capability), self.lanes.open())
        else:
            self.attempt_failed(attempt, error)

    def attempt_began(self, attempt: Attempt) -> None:
        """The first piece: from here on no other node can take over, and none is needed."""
        run, attempt.first_at = attempt.run, self.world.now
        self._measure(attempt)
        if run.first_at is None:
            run.first_at = self.world.now
            self.world.cancel(run.patience)
            run.patience = 0
            for other in [each for each in run.live if each is not attempt]:
                self._give_up(other)

    def attempt_receipted(self, attempt: Attempt, work: Work, delivered: receipts.Delivered) -> None:
        """The receipt: checked, countersigned, posted."""
        now = self.clock.now()
        if attempt.first_at is None and not attempt.cancelled:
            self.attempt_began(attempt)
        try:
            opened = self.town.signing.open(Kind.RECEIPT, work.receipt_envelope)
            receipt = decode(Receipt, opened.body)
            got = replace(delivered, cancelled=attempt.cancelled)
            countersign = self.rules.check_receipt(
                attempt.order, attempt.envelope, attempt.lane, opened.peer, receipt, opened.envelope, got
            )
        except ReceiptInvalid as error:
            self.attempt_failed(attempt, error)
            return
        self.books.apply(self.rules.post(self.books, attempt.hold_id, countersign.charge, attempt.node))
        attempt.settled, attempt.charge, attempt.genuine = True, countersign.charge, work.genuine
        if countersign.verdict is Verdict.ACCEPTED:
            self.lanes.give_back(attempt.node, receipts.advance(attempt.lane, opened.envelope, countersign.charge))
            self.directory.welcome(attempt.node, now, attempt.order.model)
        else:
            self.directory.suspend(attempt.node, now)
        self.countersign(attempt, work, self.signer.seal(Kind.COUNTERSIGN, encode(countersign)))
        self._close(attempt)
        if not attempt.cancelled:
            self._end(attempt.run, End.DONE, attempt)

    def claimed(self, work: Work) -> None:
        """A node claims a receipt: it is answered once more, or counted now if it never came."""
        attempt = work.attempt
        if attempt.settled:
            self.countersign(attempt, work, attempt.countersign)
            return
        if not attempt.voided:
            return
        receipt = decode(Receipt, self.town.signing.open(Kind.RECEIPT, work.receipt_envelope).body)
        units = attempt.arrived_units
        got = receipts.Delivered(units=units, commit=output_commit(attempt.order, units), cancelled=attempt.cancelled)
        countersign = recount(attempt.order, receipt, work.receipt_envelope, got, 0)
        try:
            self._pay_late(attempt, countersign.charge)
        except InsufficientCredit:
            return
        attempt.charge = countersign.charge
        self.countersign(attempt, work, self.signer.seal(Kind.COUNTERSIGN, encode(countersign)))

    def _pay_late(self, attempt: Attempt, charge: int) -> None:
        """The hold was void long ago: what is owed after all is held and posted at once, the first time."""
        late_id = f"{attempt.hold_id} late"
        if not charge or late_id in self.books.paid:
            return
        expires_at_ms = self.clock.wall_ms() + HOLD_MS
        self.books.apply(self.rules.reserve(self.books, late_id, attempt.demand.user, charge, expires_at_ms))
        self.books.apply(self.rules.post(self.books, late_id, charge, attempt.node))

    def countersign(self, attempt: Attempt, work: Work, envelope: bytes) -> None:
        """Sends the countersign."""
        attempt.countersign = envelope
        attempt.way.send(400, self.town.nodes[attempt.node].settle, work, envelope)

    def attempt_failed(self, attempt: Attempt, error: CxError) -> None:
        """No answer comes of it: the hold is void, the node is blamed, and the next one is asked."""
        run, began = attempt.run, attempt.first_at is not None
        self._close(attempt)
        if attempt.cancelled:
            return
        fault = self._fault(run, attempt.node, attempt.capability, error)
        run.faults.append(fault)
        self._blame(fault, attempt.order.model)
        if began:
            self._end(run, End.CUT, attempt)
        elif not run.live:
            self._try_next(run)

    def _fault(self, run: Run, node: str, capability: Capability, error: CxError) -> Fault:
        return Fault(node, capability.context_units, run.demand.request_bytes, error)

    def _blame(self, fault: Fault, model: str) -> None:
        error, now = fault.error, self.clock.now()
        match blame(fault):
            case Blame.FULL:
                self.directory.full(fault.node, now, error.retry_after_ms if isinstance(error, JobRefused) else 0)
            case Blame.FAILED:
                self.directory.suspend(fault.node, now, model if isinstance(error, JobFailed) else None)

    def _measure(self, attempt: Attempt) -> None:
        waited_ms = (self.world.now - attempt.sent_at) * 1000
        size = attempt.demand.request_bytes
        self.directory.measure(attempt.node, max(1.0, waited_ms), size, self.clock.now())

    # Ending.

    def _left(self, run: Run) -> None:
        """The user has waited long enough."""
        run.patience = 0
        self._end(run, End.LEFT)

    def _give_up(self, attempt: Attempt) -> None:
        """Tells the node to stop; it has two seconds for the receipt of what it delivered."""
        attempt.cancelled = True
        now, waited_ms = self.clock.now(), (self.world.now - attempt.sent_at) * 1000
        if attempt.first_at is None:
            self.directory.waited(attempt.node, waited_ms, attempt.demand.request_bytes, now)
        attempt.run.live.remove(attempt)
        if attempt.timer:
            self.world.cancel(attempt.timer)
        attempt.timer = self.world.after(SETTLE_S, self._unsettled, attempt)
        attempt.way.send(20, self.town.nodes[attempt.node].cancel, attempt)

    def _unsettled(self, attempt: Attempt) -> None:
        attempt.timer = 0
        self._close(attempt)

    def _close(self, attempt: Attempt) -> None:
        """Nothing more is heard of an order: it was settled, or it is void."""
        attempt.over = True
        if attempt.timer:
            self.world.cancel(attempt.timer)
            attempt.timer = 0
        attempt.entry.jobs -= 1
        del self.at_node[attempt.node][attempt.number]
        if attempt in attempt.run.live:
            attempt.run.live.remove(attempt)
        if not attempt.settled:
            attempt.voided = True
            attempt.arrived_units = self.town.nodes[attempt.node].made_for(attempt)
            self.books.apply(self.rules.void(self.books, attempt.hold_id))
        self.just_closed.append(attempt)
        self.world.touch(self)

    def _end(self, run: Run, end: End, attempt: Attempt | None = None) -> None:
        run.ends += 1
        run.end = end
        for event in (run.patience, run.hedge):
            if event:
                self.world.cancel(event)
        run.patience = run.hedge = 0
        self.runs.pop(run.demand.number, None)
        self.just_ended.append(run)
        self.world.touch(self)
        for other in list(run.live):
            self._give_up(other)
        self.town.ended(
            Outcome(
                demand=run.demand,
                end=end,
                came_at=run.came_at,
                node=attempt.node if attempt else "",
                attempts=len(run.tried),
                first_piece_s=None if run.first_at is None else run.first_at - run.came_at,
                whole_s=self.world.now - run.came_at if end is End.DONE else None,
                charge=attempt.charge if attempt else 0,
                genuine=attempt.genuine if attempt else True,
            )
        )

    def lost(self, peer: str) -> None:
        """The node's heartbeat broke: whatever runs there is lost with the connection."""
        for attempt in list(self.at_node.get(peer, {}).values()):
            attempt.broke("the heartbeat broke")

    def faults(self) -> list[str]:
        """What must hold of a gateway after every event."""
        return invariants.of_gateway(self)


def _end_of(run: Run) -> End:
    if not run.faults:
        return End.NOBODY
    if all(isinstance(fault.error, InsufficientCredit) for fault in run.faults):
        return End.BROKE
    refused = all(isinstance(fault.error, JobRefused) for fault in run.faults)
    return End.REFUSED if refused else End.FAILED
