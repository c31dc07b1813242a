"""Receipts: what was signed about each job, and what that proves."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from cxp2p.client import Settlement
from cxp2p.errors import RemoteProtocolError
from cxp2p.identity import Kind, open_envelope
from cxp2p.receipts import digest
from cxp2p_gateway.asking import Caller
from cxp2p_gateway.dashboard.desk import Desk, Reply
from cxp2p_gateway.dashboard.refusals import Refused, no_page
from cxp2p_gateway.dashboard.rendering import NOTHING
from cxp2p_gateway.dashboard.visits import PAGES_MAX, Visit
from cxp2p_gateway.store import StoreError

PAGE_SIZE = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """One statement about the records, and whether it holds."""

    text: str
    holds: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """One record: its fields, as text, and the exact bytes that were signed."""

    name: str
    about: str
    signer: str
    fields: Mapping[str, str]
    envelope: str


def proofs_of(settlement: Settlement) -> tuple[Proof, ...]:
    """What the three records prove together; every statement is worked out from the bytes, here and now."""
    order, receipt, agreed = settlement.order, settlement.receipt, settlement.countersign
    return (
        Proof(
            text="The gateway signed the order.",
            holds=_signer(Kind.ORDER, settlement.order_envelope) == order.gateway,
        ),
        Proof(
            text="The node that the order is for signed the receipt.",
            holds=_signer(Kind.RECEIPT, settlement.receipt_envelope) == order.node == receipt.node,
        ),
        Proof(
            text="The gateway signed that it agrees, or what it counted instead.",
            holds=_signer(Kind.COUNTERSIGN, settlement.countersign_envelope) == order.gateway,
        ),
        Proof(
            text="The receipt is for this order and no other.",
            holds=receipt.order_hash == digest(settlement.order_envelope),
        ),
        Proof(
            text="The agreement is with this receipt and no other.",
            holds=agreed.receipt_hash == digest(settlement.receipt_envelope),
        ),
        Proof(
            text="The request that was answered is the one that was ordered.",
            holds=receipt.request_commit == order.request_commit,
        ),
        Proof(
            text="What was charged is no more than the order allows, and no more than the node asked for.",
            holds=agreed.charge <= min(order.max_charge, receipt.charge),
        ),
    )


def _signer(kind: Kind, envelope: bytes) -> str | None:
    try:
        return open_envelope(kind, envelope).peer
    except RemoteProtocolError:
        return None


def _signed(settlement: Settlement) -> tuple[Signed, ...]:
    about = {
        "order": "What the gateway wanted, from whom, and the most that it would pay.",
        "receipt": "What the node says it did, how long it took, and what that costs.",
        "countersign": "What the gateway counted itself, and what it agreed to pay.",
    }
    order = settlement.order
    parts = (
        ("order", order, settlement.order_envelope, order.gateway),
        ("receipt", settlement.receipt, settlement.receipt_envelope, order.node),
        ("countersign", settlement.countersign, settlement.countersign_envelope, order.gateway),
    )
    return tuple(
        Signed(
            name=name,
            about=about[name],
            signer=signer,
            fields={field: _text(value) for field, value in asdict(record).items()},
            envelope=base64.b64encode(envelope).decode(),
        )
        for name, record, envelope, signer in parts
    )


def _text(value: object) -> str:
    if value is None:
        return NOTHING
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(each)}" for name, each in value.items())
    return str(value)


async def receipts_page(desk: Desk, visit: Visit) -> Reply:
    """The newest first."""
    assert visit.user is not None
    number = visit.page_number
    found = await desk.store.latest_generations(visit.user.id, PAGE_SIZE + 1, (number - 1) * PAGE_SIZE)
    return desk.page(
        visit,
        "receipts.html",
        generations=found[:PAGE_SIZE],
        number=number,
        has_more=len(found) > PAGE_SIZE and number < PAGES_MAX,
    )


async def receipt_page(desk: Desk, visit: Visit) -> Reply:
    """All that was signed under one id."""
    assert visit.user is not None
    generation = visit.params["generation"]
    caller = Caller(account=visit.user.id, key="")
    try:
        settlements = await desk.door.receipts(caller, generation)
    except StoreError as error:
        raise Refused(500, "receipt_broken", f"This receipt cannot be shown: {error}.") from None
    if not settlements:
        raise no_page()
    return desk.page(
        visit,
        "receipt.html",
        generation=generation,
        settlements=[(each, proofs_of(each), _signed(each)) for each in settlements],
    )
