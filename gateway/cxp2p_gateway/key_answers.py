"""Keys, credit and use as JSON: our own objects, and those that OpenRouter's clients read. Pure.

Money is in credits: µcredits never have more than six decimals. Times are RFC 3339, in UTC.
"""

from __future__ import annotations

from cxp2p_gateway.keys import Key, Kind
from cxp2p_gateway.moments import moment
from cxp2p_gateway.spending import Reset, credits_of
from cxp2p_gateway.statements import Credit, Spent, UseReport
from cxp2p_gateway.store.rows import UseSum


def key_object(key: Key, spent: int, text: str | None = None) -> dict[str, object]:
    """A key. `spent`: µcredits in its period; `text`: the whole key, where it was just made."""
    told: dict[str, object] = {"id": key.id, "object": "key"}
    if text is not None:
        told["key"] = text
    return told | {
        "kind": key.kind.value,
        "name": key.name,
        "spend_limit": credits_of(key.spend_limit),
        "spend_reset": key.spend_reset.value,
        "spent": credits_of(spent),
        "services": list(key.services),
        "models": list(key.models),
        "rpm": key.rpm,
        "tpm": key.tpm,
        "max_parallel": key.parallel_max,
        "created_at": moment(key.created_at_ms),
        "expires_at": moment(key.expires_at_ms),
        "last_used_at": moment(key.used_at_ms),
        "revoked_at": moment(key.revoked_at_ms),
        "old_key_until": moment(key.old_until_ms),
    }


def use_object(report: UseReport) -> dict[str, object]:
    """What was used: a line for each value of what it is grouped by, and service."""
    query = report.query
    return {
        "object": "usage",
        "from": query.first_day,
        "to": query.last_day,
        "group_by": query.group_by.value,
        "data": [_use(each, query.group_by.value) for each in report.sums],
        "requests": sum(each.requests for each in report.sums),
        "cost": credits_of(sum(each.charge for each in report.sums)),
        "truncated": report.is_cut,
    }


def _use(each: UseSum, group: str) -> dict[str, object]:
    return {
        group: each.group or None,
        "service": each.service,
        "requests": each.requests,
        "input_units": each.in_units,
        "output_units": each.out_units,
        "cost": credits_of(each.charge),
    }


def current_key(key: Key, left: int | None, spent: Spent) -> dict[str, object]:
    """OpenRouter's `GET /key`. `left`: µcredits that the key's limit still allows, None: it has none."""
    is_base = key.kind is Kind.BASE
    return {
        "data": {
            "label": f"sk-cx-{key.id}-…",
            "name": key.name,
            "limit": credits_of(key.spend_limit),
            "limit_remaining": credits_of(left),
            "limit_reset": None if key.spend_reset is Reset.NEVER else key.spend_reset.value,
            "usage": credits_of(spent.ever),
            "usage_daily": credits_of(spent.day),
            "usage_weekly": credits_of(spent.week),
            "usage_monthly": credits_of(spent.month),
            "byok_usage": 0,
            "byok_usage_daily": 0,
            "byok_usage_weekly": 0,
            "byok_usage_monthly": 0,
            "include_byok_in_limit": False,
            "is_free_tier": False,
            "is_management_key": is_base,
            "is_provisioning_key": is_base,
            "creator_user_id": key.account,
            "organization_id": None,
            "workspace_id": None,
            "allowed_data_regions": ["global"],
            "budgets": [],
            "effective_budget": None,
            "free_model_daily_requests": {"limit": 0, "remaining": 0, "used": 0},
            "expires_at": moment(key.expires_at_ms),
            "rate_limit": {"requests": -1 if key.rpm is None else key.rpm, "interval": "1m", "note": ""},
            "id": key.id,
            "kind": key.kind.value,
            "services": list(key.services),
            "models": list(key.models),
            "rpm": key.rpm,
            "tpm": key.tpm,
            "max_parallel": key.parallel_max,
        }
    }


def credit_object(credit: Credit) -> dict[str, object]:
    """OpenRouter's `GET /credits`: the difference is what can be spent."""
    return {"data": {"total_credits": credits_of(credit.spent + credit.left), "total_usage": credits_of(credit.spent)}}
