"""Epochs as JSON: signed envelopes in base64, each with its fields, ids and digests in hexadecimal. Pure."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

from cxp2p.epochs import Inclusion, open_entry, open_root
from cxp2p.kept_files import jsonable
from cxp2p.receipts import Calendar
from cxp2p.rewards import Rewards
from cxp2p.wire import encode
from cxp2p_gateway.archive import inclusion_of
from cxp2p_gateway.earnings import WHY, Earned, Hold
from cxp2p_gateway.moments import moment
from cxp2p_gateway.store.epoch_rows import EpochRow
from cxp2p_gateway.store.epochs import NotProven, Proven, Why

LATEST_MS: Final = 253_402_300_799_999  # the end of the year 9999: what a date can be


def envelope_object(value: object, envelope: bytes) -> dict[str, object]:
    """A signed record: its bytes, and what they say."""
    return {"envelope": base64.b64encode(envelope).decode(), "fields": jsonable(asdict(value))}  # type: ignore[call-overload]


def epoch_object(row: EpochRow, calendar: Calendar) -> dict[str, object]:
    """A closed epoch of one gateway. `is_kept`: its receipts are still there to read."""
    assert row.envelope is not None
    return {
        "object": "epoch",
        "epoch": row.epoch,
        "gateway": row.gateway,
        "begins_at": moment(min(calendar.begins_at_ms(row.epoch), LATEST_MS)),
        "ends_at": moment(min(calendar.begins_at_ms(row.epoch + 1), LATEST_MS)),
        "closed_at": moment(row.closed_at_ms),
        "receipts": row.count,
        "charge": row.sum,
        "is_kept": row.is_whole,
        "root": envelope_object(open_root(row.envelope), row.envelope),
    }


def standing_object(found: Proven | NotProven, calendar: Calendar) -> dict[str, object]:
    """Where a receipt stands: `held` until its epoch is closed, then `counted`, with its proof; later `dropped`.

    `uncounted`: it counts for no epoch, because it came too late or before there were any.
    """
    if isinstance(found, Proven):
        inclusion = inclusion_of(found)
        told: dict[str, object] = {"state": "counted", "epoch": open_root(inclusion.root).epoch}
        return {"counts": told, "inclusion": base64.b64encode(encode(inclusion)).decode()}
    state = {Why.OPEN: "held", Why.GONE: "dropped", Why.UNKNOWN: "uncounted"}[found.why]
    told = {"state": state, "epoch": found.epoch}
    if found.why is Why.OPEN and found.epoch is not None:
        told["closes_at"] = moment(min(calendar.closes_at_ms(found.epoch), LATEST_MS))
    return {"counts": told, "inclusion": None}


def rewards_object(epoch: int, told: Rewards | Hold) -> dict[str, object]:
    """What everybody gets for an epoch, in µcredits, as `cxp2p rewards compute --json` has it."""
    if isinstance(told, Hold):
        return {"object": "epoch.rewards", "epoch": epoch, "state": told.value, "why": WHY[told], "rewards": None}
    return {
        "object": "epoch.rewards",
        "epoch": epoch,
        "state": "computed",
        "why": "from the published receipts alone",
        "rewards": jsonable(asdict(told)),
    }


def earnings_object(account: str, earned: Sequence[Earned], calendar: Calendar) -> dict[str, object]:
    """What an account earned in some epochs, in µcredits, and why it is held or not."""
    sums = {hold: sum(each.amount for each in earned if each.hold is hold) for hold in (Hold.HELD, Hold.RELEASED)}
    return {
        "object": "rewards",
        "account": account,
        "earned": sum(sums.values()),
        "held": sums[Hold.HELD],
        "released": sums[Hold.RELEASED],
        "points": sum(each.points for each in earned),
        "epochs": [_earned_object(each, calendar) for each in earned],
    }


def _earned_object(each: Earned, calendar: Calendar) -> dict[str, object]:
    return {
        "epoch": each.epoch,
        "begins_at": moment(min(calendar.begins_at_ms(each.epoch), LATEST_MS)),
        "state": each.hold.value,
        "why": WHY[each.hold],
        "until": None if each.until_ms is None else moment(min(each.until_ms, LATEST_MS)),
        "earned": each.amount,
        "points": each.points,
        "referrals": each.referrals,
        "nodes": [jsonable(asdict(node)) for node in each.nodes],
    }


def inclusion_object(inclusion: Inclusion) -> dict[str, object]:
    """A receipt under a root. `inclusion`: all of it in the bytes that other programs read."""
    place, root = inclusion.place, open_root(inclusion.root)
    entry = open_entry(place.receipt, place.countersign)
    return {
        "object": "inclusion",
        "epoch": root.epoch,
        "gateway": root.gateway,
        "root": envelope_object(root, inclusion.root),
        "receipt": envelope_object(entry.receipt, place.receipt),
        "countersign": envelope_object(entry.countersign, place.countersign),
        "index": place.index,
        "path": [node.hex() for node in place.path],
        "inclusion": base64.b64encode(encode(inclusion)).decode(),
    }
