"""The dashboard's pages: what they show, and what their forms do."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from browsers import EMAIL, LIVE, OPEN, PASSWORD, START_MS, Browser, House, hidden, text_of
from cxp2p.epochs import open_entry
from cxp2p.receipts import HOURS
from cxp2p.records import Service
from cxp2p.rewards import DEFAULT_RULES, rules_hash
from cxp2p_gateway import dashboard
from cxp2p_gateway.closing import Closing, entry_of
from cxp2p_gateway.dashboard.charts import days_back
from cxp2p_gateway.dashboard.live import Live, live_of
from cxp2p_gateway.dashboard.snippets import snippets
from cxp2p_gateway.people import LOG_INS_OF_ACCOUNT, PeopleRules
from cxp2p_gateway.store.epochs import EpochBooks
from cxp2p_gateway.store.rows import User
from doors import MemoryDoor, card
from hours import EPOCH, GATEWAY, receipt_of, seal
from test_closing import Unreached
from test_store import generation

STYLE = Path(dashboard.__file__).parent / "static" / "style.css"
TODAY = "2026-09-21"


async def member(house: House, email: str = EMAIL) -> Browser:
    browser = Browser(house)
    assert (await browser.sign_up(email)).status == 200
    return browser


async def admin(house: House) -> Browser:
    browser = await member(house)
    user = next(iter(house.tables.people.values()))
    house.tables.people[user.id] = replace(user, is_admin=True)
    return browser


async def test_the_front_page_shows_the_network() -> None:
    """Numbers of the live nodes, the models that they offer, and a call to paste."""
    house = House(MemoryDoor(cards=(card(), card("llama3.1:8b", nodes=5))))
    source = text_of(await Browser(house).get("/"))
    assert '<dd data-live="nodes">2</dd>' in source
    assert '<span data-live="units_per_s">42</span>' in source
    assert "5 nodes" in source
    assert "http://gateway.example/api/v1/chat/completions" in source
    answer = await Browser(house).get("/dashboard/live.json")
    assert answer.json() == {"nodes": 2, "models": 3, "running": 1, "units_per_s": 42, "first_piece_ms": 120}
    assert "set-cookie" not in answer.headers
    empty = House(live=Live())
    assert "no node is online" in text_of(await Browser(empty).get("/"))
    assert live_of(()) == Live()


async def test_models_are_listed_by_service_with_a_page_each() -> None:
    """Those that nobody offers now are told from those that somebody does."""
    house = House(MemoryDoor(cards=(card(), card("mine:7b"))))
    browser = Browser(house)
    everything = text_of(await browser.get("/models"))
    assert everything.index("mine:7b") < everything.index("Known, but no node offers them now")
    speech = text_of(await browser.get("/models?service=speech"))
    assert "en_US-amy-medium" in speech
    assert "smollm2:135m" not in speech
    assert "2 nodes online" in text_of(await browser.get("/models/smollm2:135m"))
    assert "2 nodes online" in text_of(await browser.get("/models/smollm2"))
    assert "no node offers it now" in text_of(await browser.get("/models/llama3.1:70b"))
    assert (await browser.get("/models/nobody:1b")).status == 404


@pytest.mark.parametrize("service", Service)
def test_snippets_are_whole_programs(service: Service) -> None:
    """Python compiles, and a model's name stays inside of its quotes in each language."""
    name = 'it\'s "a" model\\ $(rm)`x`'
    curl, python, javascript = snippets(service, name, "https://gateway.example/api/v1", "usr_1")
    compile(python.code, "snippet", "exec")
    for each in (curl, python, javascript):
        assert "YOUR_API_KEY" in each.code
        assert "usr_1" in each.code
    if service is not Service.SCRAPE:
        assert "it'\"'\"'s" in curl.code
        assert r"it's \"a\" model\\ $(rm)`x`" in python.code


async def test_sign_up_shows_what_is_wrong_beside_the_field() -> None:
    """With what was typed still there, but never the password."""
    house = House()
    await member(house)
    answer = await Browser(house).sign_up(EMAIL, "short")
    assert answer.status == 400
    assert 'aria-describedby="password-wrong"' in text_of(answer)
    assert f'value="{EMAIL}"' in text_of(answer)
    assert "short" not in text_of(answer).replace("shortcut", "")
    taken = await Browser(house).sign_up(EMAIL)
    assert 'aria-describedby="email-wrong"' in text_of(taken)
    closed = House(rules=PeopleRules())
    assert "Sign-up is closed" in text_of(await Browser(closed).get("/signup"))
    visit = Browser(closed)
    proof = hidden(await visit.get("/login"), "/login")["proof"]
    assert (await visit.post("/signup", {"proof": proof, "email": EMAIL, "password": PASSWORD})).status == 403


async def test_who_follows_a_members_link_is_brought_by_them() -> None:
    """The link on the rewards page leads through the form."""
    house = House()
    ada = await member(house)
    source = text_of(await ada.get("/dashboard/rewards"))
    link = re.search(r"http://gateway\.example(/signup\?ref=(usr_\w+))", source)
    assert link is not None
    assert (await Browser(house).sign_up("new@example.org", ref=link[2])).status == 200
    brought = next(user for user in house.tables.people.values() if user.email == "new@example.org")
    assert brought.referred_by == link[2]
    assert "<dd><b>1</b></dd>" in text_of(await ada.get("/dashboard/rewards"))


async def test_own_nodes_show_what_they_earned() -> None:
    """By the owner in their offers."""
    house = House()
    ada = await member(house)
    (user,) = house.tables.people
    row = replace(LIVE.rows[0], owner=user)
    house.live = replace(LIVE, rows=(row,))
    await house.store.grant("earned", f"node:{row.peer}", 7_500_000)
    assert '<td class="num">7.5</td>' in text_of(await ada.get("/dashboard/rewards"))


async def test_what_epochs_brought_is_told_with_the_reason() -> None:
    """Held or released, and why; nothing before there is an epoch."""
    house = House()
    ada = await member(house)
    assert "No epoch has been closed here yet" in text_of(await ada.get("/dashboard/rewards"))
    (user,) = house.tables.people
    store = house.door.books
    store.entry_of = entry_of(HOURS)
    await store.grant("credit", user, 5_000_000)
    job = open_entry(*seal(receipt_of(owner=user, charge=5_000_000)))
    begin_ms = HOURS.begins_at_ms(EPOCH)
    await store.reserve("o1", user, 5_000_000, begin_ms)
    signed = {"receipt_envelope": job.receipt_envelope, "countersign_envelope": job.countersign_envelope}
    kept = generation("o1", 5_000_000, account=user, node=job.receipt.node, created_at_ms=begin_ms, **signed)
    await store.settle(kept)
    closing = Closing(
        GATEWAY, EpochBooks(store), Unreached(), HOURS, rules_hash(DEFAULT_RULES), lambda: HOURS.closes_at_ms(EPOCH)
    )
    assert await closing.close_next() is not None

    page = text_of(await ada.get("/dashboard/rewards"))
    assert '>held<br><span class="quiet small">until 2027-01-16 09:10 UTC</span>' in page
    assert "<dt>Held</dt><dd>audits of this epoch&#39;s receipts" in page
    assert "2027-01-15 08:00 UTC" in page
    assert '<td class="num">4.75</td>' in page


async def test_the_password_is_changed_and_other_browsers_are_out() -> None:
    """This one stays in, with a new session."""
    house = House()
    ada = await member(house)
    other = Browser(house)
    await other.log_in()
    page = "/dashboard/account"
    wrong = await ada.send(page, f"{page}/password", old="not it at all", password="a new password, too")
    assert wrong.status == 400
    assert 'id="old-wrong"' in text_of(wrong)
    done = await ada.send(page, f"{page}/password", old=PASSWORD, password="a new password, too")
    assert done.status == 303
    assert (await ada.get(page)).status == 200
    assert (await other.get(page)).status == 303
    left = await ada.send(page, f"{page}/leave")
    assert left.headers["location"] == "/login"
    assert (await ada.get(page)).status == 303


async def test_an_admin_shuts_out_lets_in_and_gives_credit_once() -> None:
    """The same form sent twice gives once; nobody shuts themselves out."""
    house = House()
    browser = await admin(house)
    eve = await member(house, "eve@example.org")
    own, other = sorted(house.tables.people.values(), key=lambda user: not user.is_admin)
    page = "/dashboard/admin"
    source = text_of(await browser.get(page))
    assert "eve@example.org" in source
    assert "cxp2p/0.1.0" in source
    acts = f"{page}/accounts/{other.id}"
    assert (await browser.send(page, f"{acts}/disable")).status == 303
    assert (await eve.get("/dashboard")).status == 303
    assert (await browser.send(page, f"{acts}/enable")).status == 303
    assert (await eve.log_in("eve@example.org")).status == 303
    fields = {**hidden(await browser.get(page), f"{acts}/credit"), "credits": "2.5"}
    for _ in range(2):
        assert (await browser.post(f"{acts}/credit", fields)).status == 303
    assert (await house.store.balance(other.id)).balance == OPEN.signup_credit + 2_500_000
    for credits in ("", "0", "-5", "NaN", "1e9", "x"):
        assert (await browser.post(f"{acts}/credit", {**fields, "credits": credits})).status == 400
    proof = {"proof": fields["proof"]}
    assert (await browser.post(f"{page}/accounts/{own.id}/disable", proof)).status == 400
    assert (await browser.post(f"{page}/accounts/usr_nobody/disable", proof)).status == 404
    assert await house.store.audit() == ()


async def test_the_first_account_is_claimed_by_its_link() -> None:
    """The link leads to a form, the form to the dashboard with the admin page; a spent link is told as such."""
    house = House(rules=PeopleRules())
    house.tables.add_user(User(id="usr_first", created_at_ms=1, is_admin=True))
    link = await house.people.first_link()
    browser, late = Browser(house), Browser(house)
    answer = await browser.send(f"/claim?link={link}", "/claim", email=EMAIL, password=PASSWORD)
    assert answer.headers["location"] == "/dashboard"
    assert (await browser.get("/dashboard/admin")).status == 200
    spent = await late.send(f"/claim?link={link}", "/claim", email="eve@example.org", password=PASSWORD)
    assert spent.status == 403
    assert (await late.get("/dashboard")).status == 303


async def test_too_many_log_ins_are_a_page_with_the_wait(autojump_clock: MockClock) -> None:
    """429 and Retry-After, in words too."""
    house = House()
    await member(house)
    browser = Browser(house)
    for _ in range(LOG_INS_OF_ACCOUNT.burst):
        assert (await browser.log_in(EMAIL, "wrong password")).status == 400
    answer = await browser.log_in(EMAIL, PASSWORD)
    assert answer.status == 429
    assert answer.headers["retry-after"] == "60"
    assert "You can try again in 60 seconds." in text_of(answer)
    await trio.sleep(60)
    assert (await browser.log_in(EMAIL, PASSWORD)).status == 303


async def test_files_are_kept_for_ever_under_names_that_change_with_them() -> None:
    """The style sheet and the scripts that pages name are there; other names are not."""
    house = House()
    browser = await member(house)
    source = text_of(await browser.get("/dashboard/playground"))
    names = re.findall(r'"(/dashboard/static/[^"]+)"', source)
    assert len(names) == 3
    for name in names:
        answer = await browser.get(name)
        assert answer.status == 200
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert "set-cookie" not in answer.headers
        assert re.fullmatch(r"/dashboard/static/\w+\.[0-9a-f]{12}\.(css|js|svg)", name)
    for name in ("style.css", "..%2fdesk.py", "../desk.py", "x"):
        assert (await browser.get(f"/dashboard/static/{name}")).status == 404


def test_text_has_contrast() -> None:
    """Every pair of text and ground that the style sheet makes is at least 4.5 : 1, in light and in dark (WCAG AA)."""
    colours = re.findall(r"--([\w-]+): light-dark\((#\w+), (#\w+)\);", STYLE.read_text())
    sheet = {name: (light, dark) for name, light, dark in colours}
    grounds = ("page", "card", "sunk")
    pairs = [(text, ground) for text in ("ink", "soft", "accent") for ground in grounds]
    pairs += [("accent", "accent-wash"), ("ink", "accent-wash"), ("accent-ink", "accent")]
    pairs += [(kind, f"{kind}-wash") for kind in ("good", "bad")]
    pairs += [("ink", f"{kind}-wash") for kind in ("good", "bad", "warn")] + [("bad", "card")]
    for text, ground in pairs:
        for mode in (0, 1):
            assert contrast(sheet[text][mode], sheet[ground][mode]) >= 4.5, (text, ground, mode)
    for mode in (0, 1):
        assert contrast(sheet["line-strong"][mode], sheet["card"][mode]) >= 3.0  # the edge of a field


def contrast(one: str, other: str) -> float:
    lights = sorted((luminance(one), luminance(other)))
    return (lights[1] + 0.05) / (lights[0] + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_the_clock_of_these_tests() -> None:
    """The day that use is noted on here is the day that pages look back from."""
    assert days_back(TODAY, 1) == [TODAY]
    assert START_MS // 86_400_000 == 20_717
