"""The dashboard's pages of keys, and of what was used with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from browsers import EMAIL, Browser, House, hidden, key_in, text_of
from cxp2p_gateway import dashboard
from cxp2p_gateway.keys import Kind as KeyKind
from cxp2p_gateway.keys import Terms
from cxp2p_gateway.store.rows import Use

STYLE = Path(dashboard.__file__).parent / "static" / "style.css"
TODAY = "2026-09-21"


async def member(house: House, email: str = EMAIL) -> Browser:
    browser = Browser(house)
    assert (await browser.sign_up(email)).status == 200
    return browser


async def test_the_base_key_works_and_is_refreshed() -> None:
    """The old one gets nothing from then on; the new one is of the same id."""
    house = House()
    browser = Browser(house)
    old = key_in(await browser.sign_up())
    assert await house.accounts.authenticate(old, None) is not None
    (key,) = house.tables.keys.values()
    new = key_in(await browser.send("/dashboard/account", f"/dashboard/keys/{key.id}/rotate"))
    assert await house.accounts.authenticate(old, None) is None
    assert await house.accounts.authenticate(new, None) is not None
    assert new[:14] == old[:14]
    fields = hidden(await browser.get("/dashboard/keys"), "/dashboard/keys")
    assert (await browser.post(f"/dashboard/keys/{key.id}/revoke", fields)).status == 400


async def test_a_key_is_made_with_limits_changed_and_revoked() -> None:
    """Each field of the form is a term of the key."""
    house = House()
    browser = await member(house)
    answer = await browser.send(
        "/dashboard/keys",
        "/dashboard/keys",
        name="Blog <b>search</b>",
        spend_limit="2.5",
        spend_reset="monthly",
        services=["chat", "embed"],
        models="smollm2:135m\n all-minilm , smollm2:135m",
        rpm="60",
        tpm="1,000",
        max_parallel="4",
        expires_at="2026-12-31",
    )
    text = key_in(answer)
    key = next(key for key in house.tables.keys.values() if key.kind is KeyKind.VIRTUAL)
    assert (key.name, key.spend_limit, key.spend_reset.value) == ("Blog <b>search</b>", 2_500_000, "monthly")
    assert (key.services, key.models) == (("chat", "embed"), ("smollm2:135m", "all-minilm"))
    assert (key.rpm, key.tpm, key.parallel_max) == (60, 1000, 4)
    assert key.expires_at_ms == 1_798_761_599_999
    path = f"/dashboard/keys/{key.id}"
    source = text_of(await browser.get(path))
    assert 'name="spend_limit" type="text" value="2.5"' in source
    assert 'type="date" value="2026-12-31"' in source
    assert (await browser.send(path, path, name="Blog", rpm="")).status == 303
    changed = house.tables.keys[key.id]
    assert (changed.name, changed.rpm, changed.spend_limit) == ("Blog", None, None)
    assert await house.accounts.authenticate(text, None) is not None
    assert (await browser.send(path, f"{path}/revoke")).status == 303
    assert await house.accounts.authenticate(text, None) is None
    assert "revoked" in text_of(await browser.get(path))
    fields = hidden(await browser.get("/dashboard/keys"), "/dashboard/keys")
    assert (await browser.post(f"{path}/rotate", fields)).status == 400


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "x" * 81),
        ("spend_limit", "much"),
        ("spend_limit", "-1"),
        ("spend_limit", "NaN"),
        ("spend_limit", "1e400"),
        ("spend_reset", "hourly"),
        ("rpm", "0"),
        ("rpm", "1.5"),
        ("tpm", "²"),
        ("max_parallel", "9" * 30),
        ("expires_at", "2020-01-01"),
        ("expires_at", "tomorrow"),
        ("services", "mining"),
        ("models", "x" * 129),
    ],
)
async def test_a_term_that_cannot_be_is_told(field: str, value: str) -> None:
    """The form comes back with 400 and all that was said; no key is made."""
    house = House()
    browser = await member(house)
    answer = await browser.send("/dashboard/keys", "/dashboard/keys", **{"tpm": "7", field: value})
    assert answer.status == 400
    assert len(house.tables.keys) == 1
    if field != "spend_reset":
        assert 'class="wrong"' in text_of(answer)


async def test_another_members_key_is_unknown() -> None:
    """Its page, its limits, its refresh and its end."""
    house = House()
    ada, eve = await member(house), await member(house, "eve@example.org")
    owner = next(user.id for user in house.tables.people.values() if user.email == EMAIL)
    made = await house.ring.make(owner, Terms(name="mine"))
    fields = hidden(await eve.get("/dashboard/keys"), "/dashboard/keys")
    path = f"/dashboard/keys/{made.key.id}"
    assert (await eve.get(path)).status == 404
    for act in ("", "/rotate", "/revoke"):
        assert (await eve.post(path + act, fields)).status == 404
    assert house.tables.keys[made.key.id] == made.key
    assert (await ada.get(path)).status == 200


async def test_usage_is_drawn_by_day_model_app_and_key() -> None:
    """What is outside of the days is left out; a key stands by its name."""
    house = House()
    browser = await member(house)
    (user,) = house.tables.people
    (key,) = house.tables.keys
    for day, app, requests in ((TODAY, "Notebook", 3), ("2026-09-20", "", 1), ("2026-01-01", "Old", 50)):
        use = Use(
            account=user,
            day=day,
            key=key,
            service="chat",
            model="smollm2:135m",
            app=app,
            requests=requests,
            in_units=10,
            out_units=20,
            charge=1_000_000 * requests,
        )
        house.tables.add_use(use)
    source = text_of(await browser.get("/dashboard/usage?days=7"))
    assert "4 credits in 7 days" in source
    assert "<title>2026-09-21: 3</title>" in source
    assert "Base key" in source
    assert "Old" not in source
    assert "(no name)" in source
    apps = text_of(await browser.get("/dashboard/apps"))
    assert "Notebook" in apps
    assert "30 days" in text_of(await browser.get("/dashboard/usage?days=999999999"))
