"""What a node is owed: its lanes in memory and its papers on disk, which say the same after every step.

Write-ahead: an order is on disk before its job begins, a voucher before it permits more, a receipt before it is sent.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import trio

from cxp2p.exposure import Owed
from cxp2p.identity import Kind, open_envelope
from cxp2p.lanes import NodeLane, NodeLanes, check_countersign
from cxp2p.records import Capability, Countersign, Order, Receipt, Refusal, Verdict, Voucher
from cxp2p.wire import decode
from cxp2p_node.config import ReceiptSettings
from cxp2p_node.papers import STATE_OF_VERDICT, Answer, Paper, Papers, PapersError, State, receipted, taken

log = logging.getLogger("cxp2p.node.till")

DROP_INTERVAL_S = 60.0  # 100 jobs a second are 6,000 papers until then, over what is kept
DROP_STEP = 500  # papers at once, so that orders wait for milliseconds
DROP_PAUSE_S = 0.1
DAY_MS = 86_400_000


class Till:
    """Takes orders, vouchers, receipts and countersigns. Every call that writes raises PapersError."""

    def __init__(self, lanes: NodeLanes, papers: Papers, wall_ms: Callable[[], int]) -> None:
        self.lanes = lanes
        self.papers = papers
        self._wall_ms = wall_ms

    async def start(self) -> None:
        """Once, before the first order: what this node knew when it last ran."""
        kept = await self.papers.start(self._wall_ms())
        for lane in kept.lanes:
            ended = lane.state in (State.ADJUSTED, State.DISPUTED)
            self.lanes.restore(
                lane.gateway,
                lane.lane,
                NodeLane(
                    seq=lane.seq,
                    head=lane.head,
                    cum_charge=lane.cum_charge,
                    open=lane.head is None,
                    ended=ended,
                    replayable_until_ms=lane.replayable_until_ms,
                ),
            )
        for owed in kept.owed:
            self.lanes.exposures.owe(
                owed.gateway, owed.receipt_hash, Owed(owed.amount, owed.since_ms, disputed=owed.disputed)
            )

    def check(
        self, signer: str, asker: str, order: Order, commit: bytes, capability: Capability | None
    ) -> Refusal | None:
        """Why this order must be refused, or None; see `cxp2p.lanes.NodeLanes.check`."""
        return self.lanes.check(signer, asker, order, commit, capability, self._wall_ms())

    def take(self, order: Order, envelope: bytes) -> Entry:
        """An order that `check` let through, in the same step. Write it down before its job begins."""
        self.lanes.take(order)
        return Entry(self, order, envelope, self._wall_ms())

    async def settle(self, order: Order, paper: Paper, receipt: Receipt, sealed: bytes) -> Verdict:
        """The countersign of a receipt, in time or through a claim. Raises RemoteProtocolError, ReceiptInvalid."""
        assert paper.receipt_envelope is not None
        opened = open_envelope(Kind.COUNTERSIGN, sealed)
        said = decode(Countersign, opened.body)
        check_countersign(receipt, paper.receipt_envelope, opened.peer, said, min(paper.vouched, receipt.charge))
        state = STATE_OF_VERDICT[said.verdict]
        if await self.papers.settle(paper, Answer(state=state, agreed=said.charge, note=said.reason, envelope=sealed)):
            made_up = self.lanes.settle(order, receipt, paper.receipt_envelope, opened.peer, said)
            if made_up is not None:
                await self.papers.forgive(order.gateway, made_up)
        return said.verdict

    async def tidy(self, keeping: ReceiptSettings, interval_s: float = DROP_INTERVAL_S) -> None:
        """Drops papers that are too old or too many, in steps. Never returns."""
        while True:
            try:
                count = 1
                while count:
                    count = await self._drop(keeping)
                    await trio.sleep(DROP_PAUSE_S)
            except PapersError as error:
                log.error("old receipts cannot be dropped: %s", error)
            await trio.sleep(interval_s)

    async def _drop(self, keeping: ReceiptSettings) -> int:
        before_ms = self._wall_ms() - keeping.days * DAY_MS
        dropped = await self.papers.drop(before_ms, keeping.kept_max, DROP_STEP)
        for gateway, receipt_hash in dropped.owed:
            self.lanes.exposures.dropped(gateway, receipt_hash)
        if dropped.owed:
            log.warning("%d receipts were never answered, and are dropped", len(dropped.owed))
        return dropped.count


class Entry:
    """One taken order in the till. It ends once: with a receipt, or lost."""

    def __init__(self, till: Till, order: Order, envelope: bytes, wall_ms: int) -> None:
        self.order = order
        self.paper = taken(order, envelope, wall_ms)
        self.vouched = trio.Event()
        self._till = till
        self._lanes = till.lanes
        self._written = False
        self._over = False

    @property
    def cum_charge(self) -> int:
        """What the lane has cost before this order."""
        return self._lanes.cum_charge(self.order)

    async def write(self) -> None:
        """Puts the order on disk."""
        await self._till.papers.take(self.paper)
        self._written = True

    async def vouch(self, sealed: bytes) -> None:
        """A voucher: more may be handed on. One that crosses the receipt is too late to matter.

        Raises RemoteProtocolError for one that is not right.
        """
        if self._over:
            return
        opened = open_envelope(Kind.VOUCHER, sealed)
        voucher = decode(Voucher, opened.body)
        self._lanes.check_voucher(self.order, opened.peer, voucher)
        vouched = voucher.cum_amount - self.cum_charge
        try:
            await self._till.papers.vouch(self.paper, sealed, vouched)
        except PapersError:
            if self._over:
                return
            raise
        self._lanes.vouch(self.order, voucher)
        self.paper = replace(self.paper, voucher_envelope=sealed, vouched=vouched)
        self.vouched.set()
        self.vouched = trio.Event()

    def may_hand_on(self, in_units: int, before: int, after: int) -> bool:
        """Whether the job may go on to `after` units of output, see `cxp2p.lanes.NodeLanes.may_hand_on`."""
        return self._lanes.may_hand_on(self.order, in_units, before, after)

    async def finish(self, receipt: Receipt, envelope: bytes) -> None:
        """The receipt, which may be sent when this returns."""
        self._over = True
        wall_ms = self._till._wall_ms()
        await self._till.papers.finish(self.paper, receipt, envelope, wall_ms)
        self._lanes.finish(self.order, receipt, envelope, wall_ms)
        self.paper = replace(self.paper, **receipted(receipt, envelope, wall_ms))  # type: ignore[arg-type]

    async def lose(self) -> None:
        """The order ends without a receipt."""
        self._over = True
        self._lanes.abandon(self.order)
        if self._written:
            await self._till.papers.lose(self.paper)
