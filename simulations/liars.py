"""Nodes that lie about what they did, each in one way."""

from __future__ import annotations

from dataclasses import replace

from cxp2p.receipts import charge_owed
from cxp2p.records import Finish, Receipt
from simulations.nodes import NodeModel, Work

PADDED = 1.5
CHEAP_SPEED = 4.0  # a model of a quarter of the size answers about so much sooner
GARBAGE_SPEED = 50.0


class PadsOutput(NodeModel):
    """Counts half as much output again as arrived."""

    def account_for(self, work: Work, finish: Finish, units: int, commit: bytes) -> Receipt:
        receipt = super().account_for(work, finish, units, commit)
        return _claims(self, work, receipt, receipt.in_units, min(work.order.max_out, round(units * PADDED)))


class PadsInput(NodeModel):
    """Counts all the input that the order allows: no gateway has the tokenizer to know better."""

    def account_for(self, work: Work, finish: Finish, units: int, commit: bytes) -> Receipt:
        receipt = super().account_for(work, finish, units, commit)
        return _claims(self, work, receipt, work.order.max_in if receipt.in_units else 0, units)


class CheapModel(NodeModel):
    """Runs a smaller model than it says, and is quicker for it."""

    def spend(self, work: Work) -> tuple[float, float]:
        work.genuine = False
        prompt_s, output_s = super().spend(work)
        return prompt_s / CHEAP_SPEED, output_s / CHEAP_SPEED


class Garbage(NodeModel):
    """Answers with random tokens, which takes no time."""

    def spend(self, work: Work) -> tuple[float, float]:
        work.genuine = False
        prompt_s, output_s = super().spend(work)
        return prompt_s / GARBAGE_SPEED, output_s / GARBAGE_SPEED


class Hangs(NodeModel):
    """Takes every job, and never answers."""

    def spend(self, work: Work) -> tuple[float, float]:
        return 3600.0, 0.0


def _claims(node: NodeModel, work: Work, receipt: Receipt, in_units: int, out_units: int) -> Receipt:
    charge = charge_owed(work.order.prices, receipt.finish, in_units, out_units)
    before = node.lanes.cum_charge(work.order)
    return replace(receipt, in_units=in_units, out_units=out_units, charge=charge, cum_charge=before + charge)
