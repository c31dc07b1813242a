"""What keeps strangers out of the dashboard: sessions, proofs, origins, escaping, and the headers of every page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from browsers import EMAIL, HOST, PASSWORD, Browser, House, hidden, key_in, text_of
from cxp2p.records import Service
from cxp2p_gateway.dashboard.desk import POLICY
from cxp2p_gateway.dashboard.guard import Guarded, Played, Who
from cxp2p_gateway.dashboard.live import Live, Recent
from cxp2p_gateway.dashboard.routes import FORMS, SHOWN
from cxp2p_gateway.dashboard.visits import FORM_BYTES_MAX, FORM_FIELDS_MAX, FORM_WAIT_S
from cxp2p_gateway.keys import Kind, Terms
from cxp2p_gateway.middleware import Admitted, Methods
from cxp2p_gateway.people import DAY_MS
from cxp2p_gateway.store.rows import Use
from doors import MemoryDoor, ask, card, settlement_of

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
NAMES = {"key": "aaaaaaaa", "account": "usr_x", "generation": "chatcmpl-1", "model:path": "smollm2:135m", "name": "x"}


def filled(path: str, **names: str) -> str:
    return re.sub(r"\{([^}]+)\}", lambda found: {**NAMES, **names}[found[1]], path)


async def member(house: House, *, is_admin: bool = False) -> Browser:
    """Somebody who is logged in."""
    browser = Browser(house)
    assert (await browser.sign_up()).status == 200
    if is_admin:
        user = next(iter(house.tables.people.values()))
        house.tables.people[user.id] = replace(user, is_admin=True)
    return browser


def guards(house: House) -> Iterator[tuple[str, str, object]]:
    for route in house.front.routes:
        assert isinstance(route.app, Methods)
        for method, endpoint in route.app.endpoints.items():
            yield method, route.path, endpoint


def test_every_route_that_changes_something_has_a_guard_that_knows() -> None:
    """Enumerated: a key, or a session with the proof; only what leads to a session is for anybody."""
    for method, path, endpoint in guards(House()):
        if method == "GET" or isinstance(endpoint, (Admitted, Played)):
            continue
        assert isinstance(endpoint, Guarded), path
        assert method == "POST"
        assert endpoint.changes
        assert endpoint.who is not Who.ANYBODY or path in ("/login", "/signup", "/claim")


@pytest.mark.parametrize("path", [path for path, (_, who) in SHOWN.items() if who is not Who.ANYBODY])
async def test_who_is_not_logged_in_is_asked_to(path: str) -> None:
    """And comes back to where they were."""
    answer = await Browser(House()).get(filled(path))
    assert answer.status == 303
    assert answer.headers["location"] == "/login?next=" + filled(path).replace("/", "%2F")


@pytest.mark.parametrize("path", FORMS)
async def test_a_form_without_its_proof_changes_nothing(path: str) -> None:
    """No proof, another browser's proof, a made-up one: refused, with the books as they were."""
    house = House()
    browser, other = await member(house, is_admin=True), Browser(house)
    theirs = hidden(await other.get("/login"), "/login")["proof"]
    key = next(iter(house.tables.keys))
    target = filled(path, key=key, account=next(iter(house.tables.people)))
    before = repr(house.tables)
    for proof in ({}, {"proof": ""}, {"proof": theirs}, {"proof": "A" * 43}):
        fields = {"email": "eve@example.org", "password": PASSWORD, "old": PASSWORD, "credits": "5", "grant_id": "1"}
        answer = await browser.post(target, {**fields, **proof})
        assert answer.status == 403
        assert "<h1>Not from here</h1>" in text_of(answer)
    assert repr(house.tables) == before


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": f"http://{HOST}.evil.example"},
        {"origin": "null"},
        {"origin": f"http://{HOST}:81"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
    ],
)
async def test_a_form_from_elsewhere_changes_nothing(headers: dict[str, str]) -> None:
    """Even with the right proof."""
    house = House()
    browser = await member(house)
    fields = hidden(await browser.get("/dashboard/keys"), "/dashboard/keys")
    answer = await browser.post("/dashboard/keys", {**fields, "name": "mine"}, **headers)
    assert answer.status == 403
    assert len(house.tables.keys) == 1
    assert (await browser.post("/dashboard/keys", {**fields, "name": "mine"})).status == 200


async def test_a_form_is_only_for_who_it_was_made_for() -> None:
    """A member's forms are refused without the session, an admin's without being one."""
    house = House()
    browser = await member(house)
    fields = hidden(await browser.get("/dashboard/keys"), "/dashboard/keys")
    gone = await Browser(house).post("/dashboard/keys", fields)
    assert gone.status == 401
    assert 'href="/login"' in text_of(gone)
    user = next(iter(house.tables.people))
    assert (await browser.get("/dashboard/admin")).status == 404
    for act in ("disable", "enable", "credit"):
        answer = await browser.post(f"/dashboard/admin/accounts/{user}/{act}", {**fields, "credits": "5"})
        assert answer.status == 404
    house.wall_ms += 15 * DAY_MS
    assert (await browser.post("/dashboard/keys", fields)).status == 401


async def test_a_session_is_never_one_that_somebody_brought() -> None:
    """Fixation: a token that is in the browser before the log-in is no session after it."""
    house = House()
    await (await member(house)).get("/dashboard")
    browser = Browser(house, cookies={"cx_session": "A" * 43, "cx_visit": "B" * 43})
    assert (await browser.log_in()).status == 303
    assert browser.cookies["cx_session"] not in ("A" * 43, "B" * 43)
    assert "cx_visit" not in browser.cookies
    planted = Browser(house, cookies={"cx_session": "A" * 43})
    assert (await planted.get("/dashboard")).status == 303


async def test_log_out_ends_the_session_and_not_only_the_cookie() -> None:
    """Who kept a copy of the cookie is out, too."""
    house = House()
    browser = await member(house)
    copy = Browser(house, cookies=dict(browser.cookies))
    answer = await browser.send("/dashboard", "/logout")
    assert answer.status == 303
    assert "cx_session" not in browser.cookies
    assert (await copy.get("/dashboard")).status == 303


@pytest.mark.parametrize(
    ("following", "expected"),
    [
        ("/dashboard/keys", "/dashboard/keys"),
        ("//evil.example", "/dashboard"),
        ("/\\evil.example", "/dashboard"),
        ("https://evil.example", "/dashboard"),
        ("/a\r\nset-cookie: x=y", "/dashboard"),
        ("", "/dashboard"),
    ],
)
async def test_log_in_leads_to_pages_of_ours_only(following: str, expected: str) -> None:
    """No open redirect, and no header of somebody else's."""
    house = House()
    await member(house)
    browser = Browser(house)
    answer = await browser.send("/login", "/login", email=EMAIL, password=PASSWORD, next=following)
    assert answer.headers["location"] == expected


async def test_cookies_are_out_of_reach() -> None:
    """HttpOnly and SameSite always; where the browser speaks https also Secure, under a name that binds it."""
    plain = await Browser(House()).get("/login")
    assert re.fullmatch(
        r"cx_visit=[\w-]{43}; Path=/; Max-Age=7200; HttpOnly; SameSite=Lax", plain.headers["set-cookie"]
    )
    house = House(public_url="https://gateway.example/")
    browser = Browser(house, origin="https://gateway.example")
    assert (await browser.sign_up()).status == 200
    assert set(browser.cookies) == {"__Host-cx_session"}
    assert (await browser.get("/dashboard")).status == 200
    proxied = Browser(House(), origin=f"https://{HOST}", headers={"x-forwarded-proto": "https"})
    answer = await proxied.get("/login")
    assert answer.headers["set-cookie"].startswith("__Host-cx_visit=")
    assert answer.headers["set-cookie"].endswith("; Secure")


async def test_every_page_has_its_policy() -> None:
    """No inline script or style is let through anywhere, and none is written; nobody else's script reads a page."""
    house = House(MemoryDoor(cards=(card(),), kept={"chatcmpl-1": []}))
    browser = await member(house, is_admin=True)
    user, key = next(iter(house.tables.people)), next(iter(house.tables.keys))
    house.door.kept["chatcmpl-1"] = [(user, settlement_of())]
    paths = [filled(path, key=key) for path in SHOWN] + ["/nothing/here"]
    for visitor in (browser, Browser(house)):
        for path in paths:
            answer = await visitor.get(path)
            source = text_of(answer)
            assert answer.headers["content-security-policy"] == POLICY, path
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "same-origin"
            assert "access-control-allow-origin" not in answer.headers, path
            assert not re.search(
                r"<style|\sstyle=|\son\w+=|<script(?! type=\"module\" src=\"/dashboard/static/)", source
            )
            assert "javascript:" not in source
            if answer.headers["content-type"].startswith("text/html") and answer.status == 200:
                assert answer.headers["cache-control"] == "no-store"
                assert source.count("<h1") == 1, path
                assert '<a class="skip" href="#main">' in source
    assert "unsafe" not in POLICY
    assert POLICY.startswith("default-src 'none'")


async def test_what_strangers_wrote_is_text() -> None:
    """Names of models, apps, keys and people are shown as they are, and never become a part of the page."""
    cards = tuple(card(EVIL + service.value, service=service) for service in Service)
    house = House(
        MemoryDoor(cards=cards), live=replace(House().live, rows=(replace(House().live.rows[0], agent=EVIL),))
    )
    browser = await member(house, is_admin=True)
    user = next(iter(house.tables.people.values()))
    house.tables.people[user.id] = replace(house.tables.people[user.id], email=EVIL)
    made = await house.ring.make(user.id, Terms(name=EVIL[:80], models=(EVIL,)))
    day = "2026-09-21"
    house.tables.add_use(
        Use(
            account=user.id,
            day=day,
            key=made.key.id,
            service="chat",
            model=EVIL,
            app=EVIL,
            requests=1,
            in_units=1,
            out_units=1,
            charge=1,
        )
    )
    pages = [filled(path, key=made.key.id, **{"model:path": EVIL + "chat"}) for path in SHOWN]
    pages += [f"/signup?ref={EVIL}", f"/login?next=/{EVIL}", f"/claim?link={EVIL}", "/models?service=%3Cscript%3E"]
    pages += [f"/dashboard/playground?model={EVIL}"]
    shown = 0
    for path in pages:
        for visitor in (browser, Browser(house)):
            source = text_of(await visitor.get(path))
            assert "<script>alert" not in source, path
            assert "<img" not in source, path
            shown += "&lt;script&gt;alert" in source
    assert shown > 8


async def test_secrets_are_in_no_page() -> None:
    """A key is shown once, where it was made; tokens, hashes and digests never."""
    house = House(MemoryDoor(cards=(card(),)))
    browser = Browser(house)
    welcome = await browser.sign_up()
    keys = [key_in(welcome)]
    answer = await browser.send("/dashboard/keys", "/dashboard/keys", name="blog")
    keys.append(key_in(answer))
    key_id = next(key.id for key in house.tables.keys.values() if key.kind is Kind.VIRTUAL)
    answer = await browser.send(f"/dashboard/keys/{key_id}", f"/dashboard/keys/{key_id}/rotate")
    keys.append(key_in(answer))
    user = next(iter(house.tables.people.values()))
    house.tables.people[user.id] = user = replace(user, is_admin=True)
    secrets = [*(key.rpartition("-")[2] for key in keys), browser.cookies["cx_session"], str(user.password_hash)]
    for path in SHOWN:
        source = text_of(await browser.get(filled(path, key=key_id)))
        for secret in (*secrets, PASSWORD):
            assert secret not in source, path
    assert len(set(keys)) == 3


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"x=1", {"content_type": "text/plain"}, 400),
        (b"x=1", {"content_type": "multipart/form-data; boundary=x"}, 400),
        (b'{"a": 1}', {"content_type": "application/json"}, 400),
        (b"x=" + b"a" * FORM_BYTES_MAX, {}, 413),
        (b"&".join([b"x=1"] * (FORM_FIELDS_MAX + 1)), {}, 400),
        (b"x=%ff%fe", {}, 400),
        ("x=ü".encode(), {}, 400),
    ],
)
async def test_what_is_no_form_is_refused(body: bytes, headers: dict[str, str], status: int) -> None:
    """By its kind, its size, the number of its fields and its characters."""
    sent: dict[str, str] = {"content_type": "application/x-www-form-urlencoded", **headers}
    answer = await Browser(House()).ask("POST", "/login", body, **sent)
    assert answer.status == status


async def test_a_form_that_does_not_come_is_given_up(autojump_clock: MockClock) -> None:
    """Byte by byte, or not at all; and whoever leaves in the middle is not waited for."""
    headers = {"content-type": "application/x-www-form-urlencoded", "host": HOST}
    front = House().front
    slow = await ask(front, "POST", "/login", headers=headers, parts=[(5.0, b"x")] * 100, key=None)
    assert slow.status == 408
    assert trio.current_time() == pytest.approx(FORM_WAIT_S)
    gone = await ask(front, "POST", "/login", headers=headers, parts=[(9.0, b"x")], leave_after_s=1.0, key=None)
    assert gone.status == 0


async def test_pages_without_a_form_leave_no_cookie() -> None:
    """Only who is about to log in or sign up gets one."""
    for path in ("/", "/models", "/models/smollm2:135m", "/nothing", "/dashboard/live.json"):
        assert "set-cookie" not in (await Browser(House()).get(path)).headers
    assert "set-cookie" in (await Browser(House()).get("/login")).headers


async def test_the_network_is_looked_at_once_a_second() -> None:
    """However often it is asked for."""
    now, looks = 0.0, 0

    def look() -> Live:
        nonlocal looks
        looks += 1
        return Live(nodes=looks)

    recent = Recent(look, lambda: now)
    assert [recent().nodes for _ in range(5)] == [1] * 5
    now = 1.0
    assert recent().nodes == 2


async def test_the_access_log_tells_the_account(caplog: pytest.LogCaptureFixture) -> None:
    """And no e-mail, no cookie and no link."""
    house = House()
    browser = await member(house)
    caplog.clear()
    with caplog.at_level("INFO", "cxp2p.gateway.access"):
        await browser.get("/dashboard?link=secretly")
    (line,) = [record.getMessage() for record in caplog.records]
    assert next(iter(house.tables.people)) in line
    assert browser.cookies["cx_session"] not in line
    assert EMAIL not in line
    assert "secretly" not in line


async def test_the_playground_wants_the_session_and_the_proof() -> None:
    """It calls the API as the account; without either there is 401 or 403, as JSON, and no job."""
    door = MemoryDoor(cards=(card(),))
    house = House(door)
    browser = await member(house)
    body: dict[str, Any] = {"model": "smollm2:135m", "messages": [{"role": "user", "content": "Hi"}]}
    path = "/dashboard/playground/chat"
    proof = re.search(r'data-proof="([^"]+)"', text_of(await browser.get("/dashboard/playground")))
    assert proof is not None
    stranger = await Browser(house).ask("POST", path, body, x_form_proof=proof[1])
    assert stranger.status == 401
    for headers in ({}, {"x_form_proof": "x"}, {"x_form_proof": proof[1], "origin": "https://evil.example"}):
        refused = await browser.ask("POST", path, body, **headers)
        assert refused.status == 403
        assert "error" in refused.json()
    assert not door.runs
    answer = await browser.ask("POST", path, body, x_form_proof=proof[1], origin=f"http://{HOST}")
    assert answer.status == 200
    assert answer.json()["choices"][0]["message"]["content"] == "Hello there"
    (run,) = door.runs
    (key,) = house.tables.keys.values()
    assert (run.caller.account, run.caller.key) == (key.account, key.id)
    assert "access-control-allow-origin" not in answer.headers


async def test_unknown_paths_are_pages_for_people_and_json_for_programs() -> None:
    """Under the API's bases it is always JSON."""
    browser = Browser(House())
    page = await browser.get("/nothing")
    assert (page.status, page.headers["content-type"]) == (404, "text/html; charset=utf-8")
    for path, accept in (("/nothing", "*/*"), ("/api/v1/nothing", "text/html")):
        answer = await browser.ask("GET", path, accept=accept)
        assert answer.status == 404
        assert answer.headers["content-type"] == "application/json"
    wrong = await browser.ask("DELETE", "/login")
    assert wrong.status == 405


async def test_a_bug_is_a_page_without_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """500 with the request's id; what went wrong is for the log."""
    house = House()
    browser = await member(house)

    async def breaks(account: str) -> None:
        raise RuntimeError("the secret of it")

    monkeypatch.setattr(house.ring, "list", breaks)
    answer = await browser.get("/dashboard/keys")
    assert answer.status == 500
    assert "<h1>Something broke on our side</h1>" in text_of(answer)
    assert answer.headers["x-request-id"] in text_of(answer)
    assert "secret of it" not in text_of(answer)
    assert answer.headers["content-security-policy"] == POLICY
