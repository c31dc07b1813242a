"""What a gateway keeps beside the ledger and the keys: people, their sessions, orders, what was signed and used."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

GENERATIONS_MAX: Final = 256  # shown of one id, 2 KB each; no request is more jobs


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One settled order of one account, and the exact bytes that were signed about it.

    `order_id` is the id of its hold. `id` is what the client was given; an id may have more than one order. `app` is
    the client's name for itself, or where it says that it is from. The account of an order that was settled late, when
    its node claimed it, is the network's.
    """

    order_id: str
    id: str
    account: str
    key: str
    model: str
    node: str
    charge: int
    in_units: int
    out_units: int
    finish: str
    created_at_ms: int
    order_envelope: bytes
    receipt_envelope: bytes
    countersign_envelope: bytes
    service: str = "chat"
    app: str = ""
    origin: str = ""
    streamed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SentOrder:
    """An order from before it leaves until its receipt. `order_id` is the id of its hold.

    One that ended without a receipt stays for its node to claim: with what arrived, `units` and `output_commit`,
    whether this side cancelled it, and what was wrong with the answer. Without units nobody knows what arrived.
    """

    order_id: str
    node: str
    lane: bytes
    seq: int
    envelope: bytes
    sent_at_ms: int
    units: int | None = None
    output_commit: bytes | None = None
    cancelled: bool = False
    fault: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptEvidence:
    """What a peer signed that it should not have, or what is disputed about it. `id`: the SHA-256 of `data`, in hex.

    `data` is an encoded `cxp2p.evidence.Evidence`; `wrong` and `says` are what it was found to prove.
    """

    id: str
    peer: str
    wrong: str
    says: str
    data: bytes
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Who an account is of. `id` is the account's. Without e-mail and password hash nobody can log in as them."""

    id: str
    created_at_ms: int
    email: str | None = None
    password_hash: str | None = field(default=None, repr=False)
    is_admin: bool = False
    disabled_at_ms: int | None = None
    referred_by: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A browser that is logged in. `digest` is of the token that it holds."""

    digest: bytes
    account: str
    created_at_ms: int
    expires_at_ms: int


class GroupBy(StrEnum):
    """What use is summed by."""

    DAY = "day"
    MODEL = "model"
    SERVICE = "service"
    KEY = "key"
    APP = "app"


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What was used on one day (UTC, `2026-11-27`) with one key, by one app, of one model.

    Units are of the service: tokens, milliseconds of sound, pages.
    """

    account: str
    day: str
    key: str
    service: str
    model: str
    app: str
    requests: int
    in_units: int
    out_units: int
    charge: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UseSum:
    """What was used in all, of one service, under one value of what it is grouped by."""

    group: str
    service: str
    requests: int
    in_units: int
    out_units: int
    charge: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UseQuery:
    """Which use: days from the first to the last, both included; of one account and one key, or of all of them."""

    first_day: str
    last_day: str
    group_by: GroupBy = GroupBy.DAY
    account: str | None = None
    key: str | None = None
