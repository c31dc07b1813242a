"""Receipts that nobody answered are claimed, as in `cxp2p_node.claims`: a countersign may have been lost on its way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cxp2p.protocols import COUNTERSIGN_TIMEOUT_S

if TYPE_CHECKING:
    from simulations.nodes import NodeModel, Work

CLAIM_S = COUNTERSIGN_TIMEOUT_S + 10.0  # when a round finds a receipt that was not answered in time
PAUSE_S = 60.0  # between two claims of one receipt


class Claiming:
    """What one node waits for, and asks for again."""

    def __init__(self, node: NodeModel) -> None:
        self._node = node
        self._waiting: dict[bytes, tuple[Work, float]] = {}  # by receipt: not to be claimed before
        self._round = 0

    def wait_for(self, receipt_hash: bytes, work: Work) -> None:
        """A receipt went out."""
        self._waiting[receipt_hash] = (work, self._node.world.now + CLAIM_S)
        if not self._round:
            self._round = self._node.world.after(CLAIM_S, self._claim)

    def answered(self, receipt_hash: bytes, work: Work) -> bool:
        """A countersign came. False: it had been answered before."""
        assert work.receipt is not None
        return self._waiting.pop(receipt_hash, None) is not None or not work.receipt.charge

    def _claim(self) -> None:
        node, self._round = self._node, 0
        if not self._waiting:
            return
        now = node.world.now
        for receipt_hash, (work, due_at) in tuple(self._waiting.items()):
            if due_at <= now and node.up:
                self._waiting[receipt_hash] = (work, now + PAUSE_S)
                node.links.send(node.peer, work.order.gateway, 1500, work.attempt.gateway.claimed, work)
        next_at = min(due_at for _, due_at in self._waiting.values())
        self._round = node.world.at(max(next_at, now + 1.0), self._claim)
