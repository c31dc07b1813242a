"""What the paths about keys, credit and use take and answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cxp2p.records import Service
from cxp2p_gateway import key_ring
from cxp2p_gateway.faults import Condition
from cxp2p_gateway.key_forms import GROUPS_OF_ACCOUNT, GROUPS_OF_KEY, USE_DAYS, USE_DAYS_MAX
from cxp2p_gateway.keys import Kind
from cxp2p_gateway.openai.described.generation import GENERATION
from cxp2p_gateway.openapi.operations import BODY, JSON, Operation
from cxp2p_gateway.openapi.words import (
    NULL,
    Schema,
    any_of,
    flag,
    given,
    just,
    many,
    maybe,
    number,
    one_of,
    record,
    ref,
    text,
    whole,
)
from cxp2p_gateway.spending import Reset
from cxp2p_gateway.store.rows import GroupBy

SERVICES: Final = [service.value for service in Service]
MOMENT: Final = maybe(text(format="date-time"))
DAY: Final = any_of(text(format="date"), just(""))  # of a query, where empty is absent
CREDITS: Final = number(0)
OWN_KEY: Final = frozenset({Condition.KEYS_FORBIDDEN})
ONE_KEY: Final = OWN_KEY | {Condition.KEY_UNKNOWN}
ASKED: Final = frozenset({Condition.OUT_OF_RANGE})  # of a query
KEY: Final = {"key": "The id of a key: the eight characters after `sk-cx-`."}
LIMITS: Final[dict[str, Schema]] = {
    "services": many(one_of(SERVICES)),
    "models": many(text()),
    "rpm": maybe(whole(1)),
    "tpm": maybe(whole(1)),
    "max_parallel": maybe(whole(1)),
}


def _days(groups: tuple[GroupBy, ...]) -> dict[str, tuple[str, Schema]]:
    return {
        "from": (f"The first day (UTC); at most {USE_DAYS_MAX} in all.", DAY),
        "to": (f"The last day; today if left out, and {USE_DAYS} days in all.", DAY),
        "group_by": ("What is summed by.", one_of([*(each.value for each in groups), ""])),
    }


KEY_OPERATIONS: Final[Mapping[str, Mapping[str, Operation]]] = {
    "/keys": {
        "post": Operation(
            name="createKey",
            summary="Makes a virtual key. The whole key is told only now.",
            request="KeyRequest",
            answers={JSON: ref("NewKey")},
            faults=BODY | OWN_KEY | {Condition.KEYS_TOO_MANY},
        ),
        "get": Operation(
            name="listKeys",
            summary="The keys of the account that are not revoked.",
            answers={JSON: given({"object": just("list"), "data": many(ref("Key"))})},
            faults=OWN_KEY,
        ),
    },
    "/keys/{key}": {
        "get": Operation(
            name="getKey",
            summary="One key, also one that is revoked.",
            answers={JSON: ref("Key")},
            faults=ONE_KEY,
            parameters=KEY,
        ),
        "patch": Operation(
            name="updateKey",
            summary="Changes what is named of a virtual key; null takes a limit away.",
            request="KeyRequest",
            answers={JSON: ref("Key")},
            faults=BODY | ONE_KEY | {Condition.KEY_REVOKED, Condition.KEY_IS_BASE},
            parameters=KEY,
        ),
        "delete": Operation(
            name="revokeKey",
            summary="Ends a virtual key at once and for ever.",
            answers={JSON: ref("Key")},
            faults=ONE_KEY | {Condition.KEY_IS_BASE},
            parameters=KEY,
        ),
    },
    "/keys/{key}/rotate": {
        "post": Operation(
            name="rotateKey",
            summary="A new secret for a key. The whole key is told only now.",
            request="RotateRequest",
            request_required=False,
            answers={JSON: ref("NewKey")},
            faults=BODY | ONE_KEY | {Condition.KEY_REVOKED},
            parameters=KEY,
        )
    },
    "/keys/{key}/usage": {
        "get": Operation(
            name="getKeyUsage",
            summary="What was used with one key.",
            answers={JSON: ref("Usage")},
            faults=ONE_KEY | ASKED,
            parameters=KEY,
            query=_days(GROUPS_OF_KEY),
        )
    },
    "/usage": {
        "get": Operation(
            name="getUsage",
            summary="What the account used, or with a virtual key, what that did.",
            answers={JSON: ref("Usage")},
            faults=ASKED,
            query=_days(GROUPS_OF_ACCOUNT),
        )
    },
    "/key": {
        "get": Operation(
            name="getCurrentKey", summary="The key that asks, as OpenRouter has it.", answers={JSON: ref("CurrentKey")}
        )
    },
    "/credits": {
        "get": Operation(
            name="getCredits", summary="What there is to spend, as OpenRouter has it.", answers={JSON: ref("Credits")}
        )
    },
    "/generation": {
        "get": Operation(
            name="getGeneration",
            summary="What an answer took and cost, as OpenRouter has it.",
            answers={JSON: ref("Generation")},
            faults=ASKED | {Condition.ID_MISSING, Condition.GENERATION_UNKNOWN},
            query={"id": ("The `x-cx-generation-id` of the answer.", text(1))},
            query_required=frozenset({"id"}),
        )
    },
}
"""By path, below the base, and method."""

_KEY: Final[dict[str, Schema]] = {
    "id": text(pattern="^[a-z2-7]{8}$"),
    "object": just("key"),
    "kind": one_of([kind.value for kind in Kind]),
    "name": text(),
    "spend_limit": maybe(CREDITS),
    "spend_reset": one_of(list(Reset)),
    "spent": CREDITS,
    **LIMITS,
    "created_at": text(format="date-time"),
    "expires_at": MOMENT,
    "last_used_at": MOMENT,
    "revoked_at": MOMENT,
    "old_key_until": MOMENT,
}
_USE: Final = given(
    {
        "service": one_of(SERVICES),
        "requests": whole(0),
        "input_units": whole(0),
        "output_units": whole(0),
        "cost": CREDITS,
    },
    {each.value: maybe(text()) for each in GROUPS_OF_ACCOUNT if each is not GroupBy.SERVICE},
)

KEY_SCHEMAS: Final[dict[str, Schema]] = {
    "KeyRequest": record(
        {},
        {
            "name": text(0, key_ring.NAME_LENGTH_MAX),
            "spend_limit": number(0, key_ring.SPEND_CREDITS_MAX, description="In credits, with at most six decimals."),
            "spend_reset": one_of(list(Reset), default=Reset.NEVER.value),
            "services": many(one_of(SERVICES), None, len(SERVICES), description="None: all."),
            "models": many(text(1, key_ring.MODEL_LENGTH_MAX), None, key_ring.MODELS_MAX, description="None: all."),
            "rpm": whole(1, key_ring.RPM_MAX, description="Requests a minute."),
            "tpm": whole(1, key_ring.TPM_MAX, description="Tokens a minute."),
            "max_parallel": whole(1, key_ring.PARALLEL_MAX, description="Requests at once."),
            "expires_at": text(format="date-time", description="RFC 3339, in the future."),
        },
    ),
    "RotateRequest": record(
        {}, {"grace_seconds": whole(0, key_ring.GRACE_S_MAX, default=0, description="The old key stays good so long.")}
    ),
    "Key": given(_KEY),
    "NewKey": given({**_KEY, "key": text(pattern="^sk-cx-[a-z2-7]{8}-[A-Za-z0-9_-]{43}$")}),
    "Usage": given(
        {
            "object": just("usage"),
            "from": text(format="date"),
            "to": text(format="date"),
            "group_by": one_of([each.value for each in GROUPS_OF_ACCOUNT]),
            "data": many(_USE),
            "requests": whole(0),
            "cost": CREDITS,
            "truncated": flag(),
        }
    ),
    "CurrentKey": given(
        {
            "data": given(
                {
                    "label": text(),
                    "name": text(),
                    "limit": maybe(CREDITS),
                    "limit_remaining": maybe(CREDITS),
                    "limit_reset": maybe(one_of([each.value for each in Reset if each is not Reset.NEVER])),
                    **{f"usage{period}": CREDITS for period in ("", "_daily", "_weekly", "_monthly")},
                    **{f"byok_usage{period}": CREDITS for period in ("", "_daily", "_weekly", "_monthly")},
                    **{name: flag() for name in ("include_byok_in_limit", "is_free_tier")},
                    **{name: flag() for name in ("is_management_key", "is_provisioning_key")},
                    "creator_user_id": text(),
                    "organization_id": NULL,
                    "workspace_id": NULL,
                    "allowed_data_regions": many(just("global"), 1, 1),
                    "budgets": many(NULL, None, 0),
                    "effective_budget": NULL,
                    "free_model_daily_requests": given({name: whole(0) for name in ("limit", "remaining", "used")}),
                    "expires_at": MOMENT,
                    "rate_limit": given({"requests": whole(-1), "interval": text(), "note": text()}),
                    "id": text(),
                    "kind": one_of([kind.value for kind in Kind]),
                    **LIMITS,
                }
            )
        }
    ),
    "Credits": given({"data": given({"total_credits": CREDITS, "total_usage": CREDITS})}),
    **GENERATION,
}
"""By name, of requests and answers."""
