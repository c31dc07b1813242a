"""Keys over HTTP: who may manage them, what is told, and what is refused in which words."""

from __future__ import annotations

import re
from typing import Any

import pytest

from cxp2p_gateway.http import BASES
from cxp2p_gateway.key_ring import KEYS_MAX
from cxp2p_gateway.keys import Terms
from doors import ask
from shops import BASE_KEY, VIRTUAL, Shop
from test_openapi import validator

pytestmark = pytest.mark.usefixtures("autojump_clock")

FULL = {
    "name": "Weather app",
    "spend_limit": 5.25,
    "spend_reset": "monthly",
    "services": ["chat", "embed"],
    "models": ["smollm2:135m"],
    "rpm": 60,
    "tpm": 10_000,
    "max_parallel": 4,
    "expires_at": "2027-01-31T12:00:00Z",
}
EMPTY: dict[str, object] = {
    "name": "",
    "spend_limit": None,
    "spend_reset": "never",
    "services": [],
    "models": [],
    "rpm": None,
    "tpm": None,
    "max_parallel": None,
    "expires_at": None,
}


@pytest.mark.parametrize("base", BASES)
async def test_a_key_is_told_whole_once(shop: Shop, base: str) -> None:
    """When it is made; afterwards it has an id, its terms and what it spent."""
    made = await shop.ask("POST", "/keys", FULL, base=base)
    validator("NewKey").validate(made)
    assert re.fullmatch(rf"sk-cx-{made['id']}-[A-Za-z0-9_-]{{43}}", made["key"])
    assert {name: made[name] for name in FULL} == FULL | {"expires_at": "2027-01-31T12:00:00.000Z"}
    assert (made["kind"], made["spent"], made["revoked_at"], made["last_used_at"]) == ("virtual", 0, None, None)

    told = await shop.ask("GET", f"/keys/{made['id']}", base=base)
    validator("Key").validate(told)
    assert told == {name: value for name, value in made.items() if name != "key"}
    listed = await shop.ask("GET", "/keys", base=base)
    assert listed["object"] == "list"
    assert [each["id"] for each in listed["data"]] == [BASE_KEY.id, made["id"]]
    assert listed["data"][1] == told


async def test_an_answer_with_a_secret_is_not_kept_by_anybody(shop: Shop) -> None:
    """No cache on the way may hold it."""
    made = await ask(shop.app, "POST", "/v1/keys", body={})
    rotated = await ask(shop.app, "POST", f"/v1/keys/{made.json()['id']}/rotate")
    assert made.headers["cache-control"] == rotated.headers["cache-control"] == "no-store"


async def test_a_key_without_a_word_has_no_limits(shop: Shop) -> None:
    """Null is absence."""
    for body in ({}, dict.fromkeys(FULL)):
        made = await shop.ask("POST", "/keys", body)
        assert {name: made[name] for name in EMPTY} == EMPTY


@pytest.mark.parametrize(
    ("field", "value", "code", "text"),
    [
        ("name", 3, "invalid_type", "expected a string, got a number"),
        ("name", "x" * 81, "out_of_range", "81 characters is not between 0 and 80"),
        ("name", "\ud800", "invalid_type", "it is not valid Unicode text"),
        ("spend_limit", "5", "invalid_type", "expected a number, got a string"),
        ("spend_limit", -0.000001, "out_of_range", "-1e-06 is not between 0 and 1000000000"),
        ("spend_limit", 1e9 + 1, "out_of_range", "1000000001.0 is not between 0 and 1000000000"),
        ("spend_limit", 0.0000001, "out_of_range", "1e-07 has more than six decimals"),
        ("spend_limit", True, "invalid_type", "expected a number, got a boolean"),
        ("spend_reset", "yearly", "out_of_range", "it is not one of never, daily, weekly, monthly"),
        ("services", "chat", "invalid_type", "expected an array, got a string"),
        ("services[1]", ["chat", "x"], "out_of_range", "it is not one of chat, embed, speech, scrape"),
        ("services[0]", [None], "invalid_type", "expected a string, got null"),
        ("models", ["m"] * 65, "out_of_range", "65 models is not between 0 and 64"),
        ("models[0]", [""], "out_of_range", "0 characters is not between 1 and 128"),
        ("rpm", 0, "out_of_range", "0 is not between 1 and 1000000"),
        ("rpm", 1.5, "invalid_type", "expected an integer, got 1.5"),
        ("tpm", 10**9 + 1, "out_of_range", "1000000001 is not between 1 and 1000000000"),
        ("max_parallel", [], "invalid_type", "expected a number, got an array"),
        ("expires_at", 1.7e9, "invalid_type", "expected a string, got a number"),
        ("expires_at", "2023-11-14T22:13:20Z", "out_of_range", "it is not in the future"),
        *(
            ("expires_at", text, "out_of_range", f"{text!r} is not a time like 2027-01-31T12:00:00Z (RFC 3339)")
            for text in (
                "tomorrow",
                "2027-01-31",
                "2027-01-31T12:00:00",
                "2027-02-30T12:00:00Z",
                "2027-W01-1T12:00:00Z",
            )
        ),
    ],
)
async def test_what_cannot_be_is_named(shop: Shop, field: str, value: Any, code: str, text: str) -> None:
    """By POST and by PATCH alike, and nothing is made or changed."""
    key = await shop.virtual(name="before")
    body = {field.partition("[")[0]: value}
    refused = (400, code, field, f"Invalid value for '{field}': {text}")
    assert await shop.refused("POST", "/keys", body) == refused
    assert await shop.refused("PATCH", f"/keys/{key}", body) == refused
    assert [each["name"] for each in (await shop.ask("GET", "/keys"))["data"]] == ["", "before"]


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        ("2027-01-31T12:00:00+02:00", "2027-01-31T10:00:00.000Z"),
        ("2027-01-31t12:00:00.5z", "2027-01-31T12:00:00.500Z"),
        ("9999-12-31T23:59:59.999Z", "9999-12-31T23:59:59.999Z"),
    ],
)
async def test_times_are_those_of_rfc_3339(shop: Shop, told: str, kept: str) -> None:
    assert (await shop.ask("POST", "/keys", {"expires_at": told}))["expires_at"] == kept


async def test_a_change_is_of_what_it_names(shop: Shop) -> None:
    """Null takes a limit away; the rest stays."""
    made = await shop.ask("POST", "/keys", FULL)
    path = f"/keys/{made['id']}"
    changed = await shop.ask("PATCH", path, {"spend_limit": None, "rpm": 7, "unknown": 1})
    validator("Key").validate(changed)
    assert changed == {**{name: made[name] for name in changed}, "spend_limit": None, "rpm": 7}
    assert await shop.ask("PATCH", path, {}) == changed
    emptied = await shop.ask("PATCH", path, dict.fromkeys(FULL))
    assert {name: emptied[name] for name in EMPTY} == EMPTY
    assert await shop.ask("GET", path) == emptied


async def test_a_revoked_key_is_gone_but_for_its_history(shop: Shop) -> None:
    """It is no longer listed, and can be looked at; it cannot come back."""
    key = await shop.virtual()
    await shop.use(key, "2023-11-14", 5)
    revoked = await shop.ask("DELETE", f"/keys/{key}")
    validator("Key").validate(revoked)
    assert revoked["revoked_at"] == "2023-11-14T22:13:20.123Z"
    assert await shop.ask("DELETE", f"/keys/{key}") == revoked
    assert [each["id"] for each in (await shop.ask("GET", "/keys"))["data"]] == [BASE_KEY.id]
    assert await shop.ask("GET", f"/keys/{key}") == revoked
    assert (await shop.ask("GET", f"/keys/{key}/usage"))["cost"] == 0.000005
    gone = (400, "key_revoked", None, "This key is revoked, and stays so")
    assert await shop.refused("PATCH", f"/keys/{key}", {"rpm": 1}) == gone
    assert await shop.refused("POST", f"/keys/{key}/rotate") == gone


async def test_the_base_key_can_only_be_rotated(shop: Shop) -> None:
    """Its id stays, so that what it used is still its own."""
    base = (400, "base_key", None, "A base key has no limits and cannot be revoked; it can be rotated")
    assert await shop.refused("PATCH", f"/keys/{BASE_KEY.id}", {"rpm": 1}) == base
    assert await shop.refused("DELETE", f"/keys/{BASE_KEY.id}") == base
    rotated = await shop.ask("POST", f"/keys/{BASE_KEY.id}/rotate", {"grace_seconds": 90})
    validator("NewKey").validate(rotated)
    assert (rotated["id"], rotated["kind"]) == (BASE_KEY.id, "base")
    assert rotated["old_key_until"] == "2023-11-14T22:14:50.123Z"


async def test_a_rotation_without_a_body_has_no_grace(shop: Shop) -> None:
    key = await shop.virtual()
    for body in (b"", {}, {"grace_seconds": None}, {"grace_seconds": 0}):
        assert (await shop.ask("POST", f"/keys/{key}/rotate", body))["old_key_until"] is None
    assert await shop.refused("POST", f"/keys/{key}/rotate", {"grace_seconds": 2_592_001}) == (
        400,
        "out_of_range",
        "grace_seconds",
        "Invalid value for 'grace_seconds': 2592001 is not between 0 and 2592000",
    )
    assert (await shop.refused("POST", f"/keys/{key}/rotate", b"x"))[1] == "unsupported_media_type"


MANAGED = [
    ("POST", "/keys"),
    ("GET", "/keys"),
    ("GET", "/keys/{key}"),
    ("PATCH", "/keys/{key}"),
    ("DELETE", "/keys/{key}"),
    ("POST", "/keys/{key}/rotate"),
    ("GET", "/keys/{key}/usage"),
]


@pytest.mark.parametrize(("method", "path"), MANAGED)
async def test_a_virtual_key_manages_none(shop: Shop, method: str, path: str) -> None:
    """Not even itself: else whoever holds one could take its limits away."""
    key = await shop.virtual(rpm=1)
    body = {"rpm": None} if method in {"POST", "PATCH"} else b""
    assert await shop.refused(method, path.replace("{key}", key), body, key=VIRTUAL) == (
        403,
        "base_key_required",
        None,
        "Only the base key of an account may see or change this",
    )
    assert (await shop.ask("GET", f"/keys/{key}"))["rpm"] == 1


@pytest.mark.parametrize(("method", "path"), [each for each in MANAGED if "{key}" in each[1]])
async def test_nobody_finds_anothers_key(shop: Shop, method: str, path: str) -> None:
    """It is as unknown as one that never was."""
    other = (await shop.door.ring.make("account-2", Terms())).key.id
    body = {} if method in {"POST", "PATCH"} else b""
    for key in (other, "zzzzzzzz", "x" * 5000, "%20", "..%2F"):
        assert await shop.refused(method, path.replace("{key}", key), body) == (
            404,
            "not_found",
            None,
            "No key under this id",
        )


async def test_an_account_has_no_more_keys_than_the_most(shop: Shop) -> None:
    for _ in range(KEYS_MAX - 1):
        await shop.virtual()
    assert await shop.refused("POST", "/keys", {}) == (
        400,
        "too_many_keys",
        None,
        "An account has at most 100 keys: revoke one that is no longer needed",
    )


async def test_who_may_not_manage_is_told_before_a_body_is_read(shop: Shop) -> None:
    """A virtual key's request is over at once."""
    await shop.virtual()
    answer = await ask(shop.app, "POST", "/v1/keys", parts=[(10**6, b"")], key=VIRTUAL)
    assert answer.status == 403
    assert answer.headers["x-should-retry"] == "false"


async def test_browsers_may_change_and_end_keys(shop: Shop) -> None:
    answer = await ask(shop.app, "OPTIONS", "/v1/keys/x", key=None)
    assert {"PATCH", "DELETE"} <= set(answer.headers["access-control-allow-methods"].split(", "))
    assert (await ask(shop.app, "PUT", "/v1/keys/x")).headers["allow"] == "GET, PATCH, DELETE, HEAD, OPTIONS"
