"""What the paths about epochs take and answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cxp2p_gateway.earnings import SHOWN_MAX, Hold
from cxp2p_gateway.epoch_endpoints import LISTED, NUMBER_MAX
from cxp2p_gateway.faults import Condition
from cxp2p_gateway.openapi.operations import JSON, Operation
from cxp2p_gateway.openapi.words import Schema, any_of, flag, given, just, many, maybe, one_of, ref, text, whole
from cxp2p_gateway.store.epochs import ROOTS_MAX

HEX: Final = text(pattern="^[0-9a-f]*$")
ENVELOPE: Final = given({"envelope": text(contentEncoding="base64"), "fields": {"type": "object"}})
EPOCHS: Final = given({"object": just("list"), "data": many(ref("Epoch")), "has_more": flag()})
NUMBER: Final = {"epoch": "The number of an epoch, in decimal."}
OF_GATEWAY: Final[Mapping[str, tuple[str, Schema]]] = {
    "gateway": ("Only of this one, by its peer id: several gateways may share a database.", text())
}
ONE_EPOCH: Final = frozenset({Condition.EPOCH_UNKNOWN, Condition.EPOCH_OPEN})
FEW: Final = frozenset({Condition.RATE_LIMITED})
ASKED: Final = frozenset({Condition.OUT_OF_RANGE})  # of a query

EPOCH_OPERATIONS: Final[Mapping[str, Mapping[str, Operation]]] = {
    "/epochs": {
        "get": Operation(
            name="listEpochs",
            summary="The epochs that are closed, newest first. For anybody.",
            answers={JSON: EPOCHS},
            faults=ASKED,
            keyed=False,
            query={
                **OF_GATEWAY,
                "before": ("Only epochs below this number.", any_of(whole(0, NUMBER_MAX), just(""))),
                "limit": (f"How many at most; {LISTED} if left out.", any_of(whole(1, ROOTS_MAX), just(""))),
            },
        )
    },
    "/epochs/{epoch}": {
        "get": Operation(
            name="getEpoch",
            summary="The signed roots of an epoch, one for each gateway. For anybody.",
            answers={JSON: EPOCHS},
            faults=ONE_EPOCH | ASKED,
            keyed=False,
            parameters=NUMBER,
            query=OF_GATEWAY,
        )
    },
    "/epochs/{epoch}/rewards": {
        "get": Operation(
            name="getEpochRewards",
            summary="What everybody gets for an epoch, from what is published alone. For anybody.",
            answers={JSON: ref("EpochRewards")},
            faults=ONE_EPOCH | FEW,
            keyed=False,
            parameters=NUMBER,
        )
    },
    "/epochs/{epoch}/file": {
        "get": Operation(
            name="getEpochFile",
            summary="A whole epoch: its root and all receipts, as `cxp2p epoch verify` reads it. For anybody.",
            answers={"application/octet-stream": {}},
            faults=ONE_EPOCH | FEW | ASKED,
            keyed=False,
            parameters=NUMBER,
            query=OF_GATEWAY,
        )
    },
    "/epochs/{epoch}/proof/{receipt}": {
        "get": Operation(
            name="getInclusion",
            summary="That an epoch counts a receipt. For anybody.",
            answers={JSON: ref("Inclusion")},
            faults=ONE_EPOCH | FEW,
            keyed=False,
            parameters={**NUMBER, "receipt": "SHA-256 of the receipt's envelope, in hexadecimal."},
        )
    },
}

OWN_OPERATIONS: Final[Mapping[str, Mapping[str, Operation]]] = {
    "/rewards": {
        "get": Operation(
            name="getRewards",
            summary="What the account earned, epoch by epoch, and what of it is held, and why.",
            answers={JSON: ref("Rewards")},
            faults=ASKED | {Condition.KEYS_FORBIDDEN},
            query={
                "before": ("Only epochs below this number.", any_of(whole(0, NUMBER_MAX), just(""))),
                "limit": (f"How many epochs at most; {SHOWN_MAX} if left out.", any_of(whole(1, SHOWN_MAX), just(""))),
            },
        )
    }
}
NODE: Final = given(
    {
        "node": text(1),
        "owner": text(),
        **{name: whole(0) for name in ("receipts", "weight", "paid", "pool")},
        "caught": flag(),
    }
)
AMOUNTS: Final = {"type": "object", "additionalProperties": whole(0)}
STATES: Final = one_of(["computed", *(each.value for each in Hold)])

EPOCH_SCHEMAS: Final[dict[str, Schema]] = {
    "Epoch": given(
        {
            "object": just("epoch"),
            "epoch": whole(0),
            "gateway": text(1),
            "begins_at": maybe(text(format="date-time")),
            "ends_at": maybe(text(format="date-time")),
            "closed_at": maybe(text(format="date-time")),
            "receipts": whole(0),
            "charge": whole(0),
            "is_kept": flag(),
            "root": ENVELOPE,
        }
    ),
    "EpochRewards": given(
        {
            "object": just("epoch.rewards"),
            "epoch": whole(0),
            "state": STATES,
            "why": text(),
            "rewards": maybe(
                given(
                    {
                        "rules_hash": HEX,
                        "nodes": many(NODE),
                        "referrals": AMOUNTS,
                        "points": AMOUNTS,
                        **{name: whole(0) for name in ("charged", "returned", "fee", "pool", "pool_left")},
                    }
                )
            ),
        }
    ),
    "Rewards": given(
        {
            "object": just("rewards"),
            "account": text(),
            **{name: whole(0) for name in ("earned", "held", "released", "points")},
            "epochs": many(
                given(
                    {
                        "epoch": whole(0),
                        "begins_at": maybe(text(format="date-time")),
                        "state": STATES,
                        "why": text(),
                        "until": maybe(text(format="date-time")),
                        **{name: whole(0) for name in ("earned", "points", "referrals")},
                        "nodes": many(NODE),
                    }
                )
            ),
        }
    ),
    "Inclusion": given(
        {
            "object": just("inclusion"),
            "epoch": whole(0),
            "gateway": text(1),
            "root": ENVELOPE,
            "receipt": ENVELOPE,
            "countersign": ENVELOPE,
            "index": whole(0),
            "path": many(HEX, 0, 64),
            "inclusion": text(contentEncoding="base64"),
        }
    ),
}
