"""What was used and what is left, over HTTP: of an account, of a key, of one answer."""

from __future__ import annotations

from typing import Any

import pytest

from shops import ACCOUNT, BASE_KEY, VIRTUAL, Shop
from test_openapi import validator

pytestmark = pytest.mark.usefixtures("autojump_clock")


async def test_what_was_used_is_summed_as_asked(shop: Shop) -> None:
    """Of one key by day, model, service and app; of the account by key, too. Money is in credits."""
    key = await shop.virtual()
    await shop.use(key, "2023-11-13", 1_500_000, app="Weather")
    await shop.use(key, "2023-11-14", 250_000, model="n", requests=2)
    await shop.use(key, "2023-11-14", 1, service="embed")
    await shop.use(BASE_KEY.id, "2023-11-14", 7)
    await shop.use(key, "2023-10-01", 10**6)

    report = await shop.ask("GET", f"/keys/{key}/usage")
    validator("Usage").validate(report)
    assert (report["from"], report["to"], report["group_by"]) == ("2023-10-16", "2023-11-14", "day")
    assert (report["requests"], report["cost"], report["truncated"]) == (4, 1.750001, False)
    assert [(each["day"], each["service"], each["cost"]) for each in report["data"]] == [
        ("2023-11-13", "chat", 1.5),
        ("2023-11-14", "chat", 0.25),
        ("2023-11-14", "embed", 0.000001),
    ]

    async def grouped(path: str) -> dict[Any, float]:
        told = await shop.ask("GET", path)
        validator("Usage").validate(told)
        return {(each[told["group_by"]], each["service"]): each["cost"] for each in told["data"]}

    assert await grouped(f"/keys/{key}/usage?group_by=model") == {
        ("m", "chat"): 1.5,
        ("m", "embed"): 0.000001,
        ("n", "chat"): 0.25,
    }
    assert await grouped(f"/keys/{key}/usage?group_by=app&from=2023-11-13&to=2023-11-13") == {("Weather", "chat"): 1.5}
    assert await grouped(f"/keys/{key}/usage?group_by=service&from=2023-10-01&to=2023-10-01") == {("chat", "chat"): 1.0}
    assert await grouped("/usage?group_by=key") == {
        (BASE_KEY.id, "chat"): 0.000007,
        (key, "chat"): 1.75,
        (key, "embed"): 0.000001,
    }
    assert (await shop.ask("GET", "/usage"))["cost"] == 1.750008
    assert (await shop.ask("GET", "/usage", key=VIRTUAL))["cost"] == 1.750001


@pytest.mark.parametrize(
    ("query", "param", "text"),
    [
        ("from=yesterday", "from", "'yesterday' is not a day like 2027-01-31"),
        ("to=2023-02-30", "to", "'2023-02-30' is not a day like 2027-01-31"),
        ("to=20230230", "to", "'20230230' is not a day like 2027-01-31"),
        ("from=2023-11-15", "from", "2023-11-15 is after 2023-11-14"),
        ("from=2022-11-13", "from", "there are more than 366 days from 2022-11-13 to 2023-11-14"),
        ("group_by=hour", "group_by", "it is not one of day, model, service, app"),
        ("group_by=key", "group_by", "it is not one of day, model, service, app"),
        ("group_by=day&group_by=app", "group_by", "it is given more than once"),
    ],
)
async def test_a_query_that_cannot_be_is_named(shop: Shop, query: str, param: str, text: str) -> None:
    refused = (400, "out_of_range", param, f"Invalid value for '{param}': {text}")
    assert await shop.refused("GET", f"/keys/{BASE_KEY.id}/usage?{query}") == refused


async def test_a_query_may_be_empty_and_at_its_ends(shop: Shop) -> None:
    for query in (
        "?from=&to=&group_by=",
        "?x=%ff",
        "?from=0001-01-01&to=0001-01-02",
        "?to=0001-01-03",
        "?to=9999-12-31",
    ):
        validator("Usage").validate(await shop.ask("GET", f"/usage{query}"))
    assert (await shop.ask("GET", "/usage?from=2022-11-14"))["from"] == "2022-11-14"


async def test_a_key_tells_of_itself_as_openrouter_does(shop: Shop) -> None:
    """With what is left of its limit, and what it spent this day, week and month."""
    key = await shop.virtual(spend_limit=5_000_000, rpm=60, name="n", models=("m",))
    for day, charge in (("2023-11-14", 1), ("2023-11-13", 10), ("2023-11-12", 100), ("2023-10-31", 1000)):
        await shop.use(key, day, charge)
    told = (await shop.ask("GET", "/key", key=VIRTUAL))["data"]
    validator("CurrentKey").validate({"data": told})
    assert {name: value for name, value in told.items() if not name.startswith("byok")} == {
        "label": f"sk-cx-{key}-…",
        "name": "n",
        "limit": 5.0,
        "limit_remaining": 5.0,
        "limit_reset": None,
        "usage": 0.001111,
        "usage_daily": 0.000001,
        "usage_weekly": 0.000011,
        "usage_monthly": 0.000111,
        "include_byok_in_limit": False,
        "is_free_tier": False,
        "is_management_key": False,
        "is_provisioning_key": False,
        "creator_user_id": ACCOUNT,
        "organization_id": None,
        "workspace_id": None,
        "allowed_data_regions": ["global"],
        "budgets": [],
        "effective_budget": None,
        "free_model_daily_requests": {"limit": 0, "remaining": 0, "used": 0},
        "expires_at": None,
        "rate_limit": {"requests": 60, "interval": "1m", "note": ""},
        "id": key,
        "kind": "virtual",
        "services": [],
        "models": ["m"],
        "rpm": 60,
        "tpm": None,
        "max_parallel": None,
    }
    base = (await shop.ask("GET", "/key"))["data"]
    validator("CurrentKey").validate({"data": base})
    assert (base["kind"], base["limit"], base["limit_remaining"], base["is_management_key"]) == (
        "base",
        None,
        None,
        True,
    )
    assert base["rate_limit"]["requests"] == -1


async def test_credits_are_what_there_is_to_spend(shop: Shop) -> None:
    """The difference is left. A key with a limit has no more than that, and no more than its account has."""
    await shop.use(BASE_KEY.id, "2020-01-01", 4_000_000)
    told = await shop.ask("GET", "/credits")
    validator("Credits").validate(told)
    assert told == {"data": {"total_credits": 14.0, "total_usage": 4.0}}
    await shop.virtual(spend_limit=2_500_000)
    assert (await shop.ask("GET", "/credits", key=VIRTUAL))["data"] == {"total_credits": 2.5, "total_usage": 0.0}
    await shop.virtual(spend_limit=50_000_000)
    assert (await shop.ask("GET", "/credits", key=VIRTUAL))["data"] == {"total_credits": 10.0, "total_usage": 0.0}
    await shop.virtual()
    assert (await shop.ask("GET", "/credits", key=VIRTUAL))["data"] == {"total_credits": 10.0, "total_usage": 0.0}


@pytest.mark.parametrize(
    ("query", "refused"),
    [
        ("", (400, "missing_required_parameter", "id", "Missing required parameter: id")),
        ("?id=", (400, "missing_required_parameter", "id", "Missing required parameter: id")),
        ("?id=none", (404, "not_found", None, "No answer under this id")),
        ("?id=%f0%9f%98%80", (404, "not_found", None, "No answer under this id")),
        ("?id=" + "x" * 5000, (404, "not_found", None, "No answer under this id")),
        ("?id=a&id=b", (400, "out_of_range", "id", "Invalid value for 'id': it is given more than once")),
    ],
)
async def test_an_answer_that_is_not_there(shop: Shop, query: str, refused: object) -> None:
    assert await shop.refused("GET", f"/generation{query}") == refused
