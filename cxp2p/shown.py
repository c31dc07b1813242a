"""Receipts in words that a person understands. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

from cxp2p.kept_files import Settled
from cxp2p.receipts import HOURS, Calendar, digest
from cxp2p.records import Finish, Service, Verdict

MICRO = 1_000_000
UNITS = {  # what a unit of input, and of output, is
    Service.CHAT: ("tokens", "tokens"),
    Service.EMBED: ("tokens", "vectors"),
    Service.SPEECH: ("characters", "ms of audio"),
    Service.SCRAPE: ("pages asked for", "pages"),
}
ENDINGS = {
    Finish.STOP: "it was complete",
    Finish.LENGTH: "the limit of its length was reached",
    Finish.CANCELLED: "the asker cancelled it",
    Finish.HANDOFF: "the node gave it up, or another one took over",
    Finish.ERROR: "it failed, which costs nothing",
    Finish.TIMEOUT: "its time was over, which costs nothing",
}
VERDICTS = {
    Verdict.ACCEPTED: "the gateway agrees",
    Verdict.ADJUSTED: "the gateway agrees to another count",
    Verdict.DISPUTED: "the gateway disputes it",
}


def credits_of(amount: int) -> str:
    """µcredits as credits, to the last digit."""
    return f"{amount // MICRO:,}.{amount % MICRO:06d} credits"


def epoch_times(epoch: int, calendar: Calendar = HOURS) -> str:
    """From when to when an epoch is."""
    return f"{_time(calendar.begins_at_ms(epoch))} to {_time(calendar.begins_at_ms(epoch + 1))}"


def receipt_lines(settled: Settled) -> list[str]:
    """What a receipt means, a line for each thing."""
    receipt, order, countersign = settled.receipt, settled.order, settled.countersign
    unit_in, unit_out = UNITS[receipt.service]
    model = f"{order.model}, weights" if order else "weights"
    took = (receipt.t_end_ms - receipt.t_accept_ms) / 1000
    lines = [
        f"receipt      {digest(settled.receipt_envelope).hex()}",
        f"node         {receipt.node}{f', owner {receipt.owner}' if receipt.owner else ''}",
        f"worked for   {receipt.gateway}",
        f"on           {receipt.service}, {model} {receipt.model_digest.hex()}",
        f"with         {receipt.runtime}",
        f"input        {receipt.in_units} {unit_in}, {receipt.cached_units} of them from a cache",
        f"output       {receipt.out_units} {unit_out}; {ENDINGS[receipt.finish]}",
        f"time         {_time(receipt.t_accept_ms)}, {took:.3f} s",
        f"charge       {credits_of(receipt.charge)}, of the lane so far {credits_of(receipt.cum_charge)}",
    ]
    if order is not None:
        prices = f"{credits_of(order.prices.input)} and {credits_of(order.prices.output)} a million in and out"
        lines.append(f"ordered      at most {credits_of(order.max_charge)}, at {prices}")
    lines.append(f"place        epoch {receipt.epoch}, lane {receipt.lane.hex()}, seq {receipt.seq}")
    if countersign is None:
        lines.append("countersign  none in the file: the gateway's agreement is not shown")
    else:
        reason = f": {countersign.reason}" if countersign.reason else ""
        lines.append(f"countersign  {VERDICTS[countersign.verdict]}{reason}; {credits_of(countersign.charge)}")
    if settled.root is not None:
        root = settled.root
        lines.append(f"counted      in epoch {root.epoch}, {epoch_times(root.epoch)}, root {root.root.hex()}")
    return [*lines, f"checked      {', '.join(settled.checked())}"]


def _time(wall_ms: int) -> str:
    try:
        return datetime.fromtimestamp(wall_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return f"{wall_ms} ms after 1970"
