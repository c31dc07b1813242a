"""People: sign-up, log-in, sessions, passwords, who may try how often, and the operator's first account."""

from __future__ import annotations

from dataclasses import replace

import pytest
from trio.testing import MockClock

from browsers import EMAIL, OPEN, PASSWORD, House
from cxp2p_gateway.attempts import Attempts, Pace
from cxp2p_gateway.passwords import Argon2, fault_of_password
from cxp2p_gateway.people import (
    DAY_MS,
    LINK_MS,
    LOG_INS_FROM_PLACE,
    LOG_INS_OF_ACCOUNT,
    SESSIONS_MAX,
    SIGN_UPS_FROM_PLACE,
    FormWrong,
    LinkSpent,
    PeopleRules,
    Signup,
    SignupClosed,
    TooOften,
    email_of,
)
from cxp2p_gateway.store.rows import User
from cxp2p_gateway.tokens import is_proof, is_token, link_digest, new_token, proof_of, session_digest

REF = replace(OPEN, referrals_max=2)


async def test_who_signs_up_has_an_account_credit_a_key_and_a_session() -> None:
    """One transaction makes all of it; the key works at once, and neither password nor token is kept."""
    house = House()
    welcome = await house.people.sign_up("  Ada@Example.org ", PASSWORD, "", "192.0.2.1")

    assert welcome.user.email == "ada@example.org"
    assert not welcome.user.is_admin
    assert (await house.store.balance(welcome.user.id)).balance == OPEN.signup_credit
    caller = await house.accounts.authenticate(welcome.key, welcome.user.id)
    assert caller is not None
    assert caller.account == welcome.user.id
    assert await house.people.visitor(welcome.token) == welcome.user
    kept = repr((house.tables.people, house.tables.sessions, house.tables.keys))
    assert PASSWORD not in kept
    assert welcome.token not in kept
    assert welcome.key not in kept
    assert str(welcome.user.password_hash).startswith("$argon2id$")
    assert await house.store.audit() == ()


@pytest.mark.parametrize("email", ["", "ada", "ada@", "@example.org", "a b@example.org", "ada@example", "a@b..c"])
async def test_an_address_that_is_none_is_refused(email: str) -> None:
    """The field is named, and nothing is made."""
    house = House()
    with pytest.raises(FormWrong) as caught:
        await house.people.sign_up(email, PASSWORD, "", None)
    assert caught.value.place == "email"
    assert not house.tables.people


@pytest.mark.parametrize("password", ["", "short", "aaaaaaaaaaaa", "x" * 201])
async def test_a_password_that_would_be_guessed_is_refused(password: str) -> None:
    """Too short, too long, or of too few characters."""
    assert fault_of_password(password)
    with pytest.raises(FormWrong) as caught:
        await House().people.sign_up(EMAIL, password, "", None)
    assert caught.value.place == "password"


def test_addresses_are_kept_in_one_form() -> None:
    """Nobody has two accounts by writing an address in another case."""
    assert email_of(" ADA@Example.ORG ") == "ada@example.org"
    with pytest.raises(FormWrong):
        email_of("a" * 60 + "@" + "b" * 200 + ".org")


async def test_an_address_has_one_account() -> None:
    """The second is refused whole: no credit, no key, no session."""
    house = House()
    await house.people.sign_up(EMAIL, PASSWORD, "", None)
    before = (dict(house.tables.people), dict(house.tables.keys), dict(house.tables.sessions))
    with pytest.raises(FormWrong, match="account with this e-mail"):
        await house.people.sign_up(EMAIL.upper(), PASSWORD, "", None)
    assert before == (house.tables.people, house.tables.keys, house.tables.sessions)


async def test_signup_is_closed_unless_the_operator_opens_it() -> None:
    """That is what the settings say if nobody says anything."""
    house = House(rules=PeopleRules())
    with pytest.raises(SignupClosed):
        await house.people.sign_up(EMAIL, PASSWORD, "", None)


async def test_strangers_make_so_many_accounts() -> None:
    """Then sign-up is closed, until the operator says a larger number."""
    house = House(rules=replace(OPEN, accounts_max=2))
    for number in range(2):
        await house.people.sign_up(f"{number}@example.org", PASSWORD, "", None)
    with pytest.raises(SignupClosed):
        await house.people.sign_up(EMAIL, PASSWORD, "", None)
    assert len(house.tables.people) == len(house.tables.keys) == 2


async def test_who_brings_somebody_gets_credit_for_so_many() -> None:
    """Once for each, up to the number that the settings say; who was brought is remembered beyond it."""
    house = House(rules=REF)
    ada = (await house.people.sign_up(EMAIL, PASSWORD, "", None)).user
    for number in range(4):
        brought = await house.people.sign_up(f"{number}@example.org", PASSWORD, ada.id, None)
        assert brought.user.referred_by == ada.id
    nobody = await house.people.sign_up("n@example.org", PASSWORD, "usr_nobody", None)
    assert nobody.user.referred_by is None
    assert (await house.store.balance(ada.id)).balance == REF.signup_credit + 2 * REF.referral_credit
    assert house.tables.referred_count(ada.id) == 4
    assert await house.store.audit() == ()


async def test_log_in_gives_a_new_session_each_time() -> None:
    """The same words are said of a wrong password, an unknown address and an account that is shut out."""
    house = House()
    ada = await house.people.sign_up(EMAIL, PASSWORD, "", None)
    token = await house.people.log_in(EMAIL.upper(), PASSWORD, None)
    assert token != ada.token
    assert await house.people.visitor(token) is not None
    texts = set()
    for email, password in ((EMAIL, "wrong password"), ("who@example.org", PASSWORD), (EMAIL, ""), ("", "")):
        with pytest.raises(FormWrong) as caught:
            await house.people.log_in(email, password, None)
        texts.add(str(caught.value))
    await house.people.set_disabled(ada.user.id, True)
    with pytest.raises(FormWrong) as caught:
        await house.people.log_in(EMAIL, PASSWORD, None)
    assert {*texts, str(caught.value)} == {"E-mail or password is wrong."}


async def test_an_unknown_address_costs_as_much_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hash is compared for it, too: time tells nobody which addresses have an account."""
    house = House()
    await house.people.sign_up(EMAIL, PASSWORD, "", None)
    hashing = Argon2(memory_kib=64, passes=1)
    worked = 0
    work = hashing._work

    def counted(password: str, kept: str | None) -> str:
        nonlocal worked
        worked += 1
        assert kept is not None
        return work(password, kept)

    monkeypatch.setattr(hashing, "_work", counted)
    monkeypatch.setattr(house.people, "_hashing", hashing)
    for email in (EMAIL, "nobody@example.org"):
        with pytest.raises(FormWrong):
            await house.people.log_in(email, "wrong password", None)
    assert worked == 2


async def test_a_session_ends_in_time_and_when_it_is_ended() -> None:
    """By its age, by log-out, by log-out everywhere, by a new password, and when the account is shut out."""
    house = House()
    ada = await house.people.sign_up(EMAIL, PASSWORD, "", None)
    people, user = house.people, ada.user
    other = await people.log_in(EMAIL, PASSWORD, None)
    await people.log_out(ada.token)
    assert await people.visitor(ada.token) is None
    assert await people.visitor(other) == user
    house.wall_ms += OPEN.session_days * DAY_MS - 1
    assert await people.visitor(other) == user
    house.wall_ms += 1
    assert await people.visitor(other) is None

    one, two = [await people.log_in(EMAIL, PASSWORD, None) for _ in range(2)]
    new = await people.change_password(user, PASSWORD, "a new password, too")
    assert [await people.visitor(each) for each in (one, two)] == [None, None]
    assert await people.visitor(new) is not None
    await people.log_out_everywhere(user.id)
    assert await people.visitor(new) is None

    last = await people.log_in(EMAIL, "a new password, too", None)
    await people.set_disabled(user.id, True)
    assert await people.visitor(last) is None
    await people.set_disabled(user.id, False)
    assert await people.visitor(last) is None
    for odd in (None, "", "x", "ü" * 43, "a" * 43):
        assert await people.visitor(odd) is None


async def test_keys_of_an_account_that_is_shut_out_end_at_once_and_come_back() -> None:
    """Also those that the gateway remembers."""
    house = House()
    ada = await house.people.sign_up(EMAIL, PASSWORD, "", None)
    assert await house.accounts.authenticate(ada.key, None) is not None
    await house.people.set_disabled(ada.user.id, True)
    assert await house.accounts.authenticate(ada.key, None) is None
    await house.people.set_disabled(ada.user.id, False)
    assert await house.accounts.authenticate(ada.key, None) is not None


async def test_an_account_has_so_many_sessions() -> None:
    """The oldest is logged out; what has expired is dropped."""
    house = House()
    await house.people.sign_up(EMAIL, PASSWORD, "", None)
    tokens = []
    for _ in range(SESSIONS_MAX + 3):
        house.wall_ms += 1
        tokens.append(await house.people.log_in(EMAIL, PASSWORD, None))
    assert len(house.tables.sessions) == SESSIONS_MAX
    assert await house.people.visitor(tokens[0]) is None
    assert await house.people.visitor(tokens[-1]) is not None
    house.wall_ms += 15 * DAY_MS
    await house.people.log_in(EMAIL, PASSWORD, None)
    assert len(house.tables.sessions) == 1


async def test_the_old_password_is_needed_for_a_new_one() -> None:
    """Whoever finds an open browser cannot take the account."""
    house = House()
    ada = await house.people.sign_up(EMAIL, PASSWORD, "", None)
    with pytest.raises(FormWrong) as caught:
        await house.people.change_password(ada.user, "not it at all", "a new password, too")
    assert caught.value.place == "old"
    assert await house.people.visitor(ada.token) is not None


async def test_an_address_is_guessed_at_slowly(autojump_clock: MockClock) -> None:
    """Each account and each place has so many attempts; then the wait is told, and after it one more is let through."""
    house = House()
    await house.people.sign_up(EMAIL, PASSWORD, "", None)

    async def guess(email: str, place: str | None) -> None:
        with pytest.raises(FormWrong):
            await house.people.log_in(email, "wrong password", place)

    for number in range(LOG_INS_OF_ACCOUNT.burst):
        await guess(EMAIL, f"192.0.2.{number}")
    with pytest.raises(TooOften) as caught:
        await house.people.log_in(EMAIL, PASSWORD, "192.0.2.99")
    assert caught.value.retry_after_s == pytest.approx(LOG_INS_OF_ACCOUNT.every_s)
    autojump_clock.jump(LOG_INS_OF_ACCOUNT.every_s)
    assert await house.people.log_in(EMAIL, PASSWORD, "192.0.2.99")
    await guess(EMAIL, "192.0.2.99")  # who was right begins anew

    for number in range(LOG_INS_FROM_PLACE.burst):
        await guess(f"{number}@example.org", "198.51.100.7")
    with pytest.raises(TooOften):
        await house.people.log_in(EMAIL, PASSWORD, "198.51.100.7")
    await house.people.log_in(EMAIL, PASSWORD, "198.51.100.8")


async def test_one_place_makes_few_accounts(autojump_clock: MockClock) -> None:
    """Mistakes in the form do not count."""
    house = House()
    for number in range(SIGN_UPS_FROM_PLACE.burst):
        with pytest.raises(FormWrong):
            await house.people.sign_up(f"{number}@example.org", "short", "", "192.0.2.1")
        await house.people.sign_up(f"{number}@example.org", PASSWORD, "", "192.0.2.1")
    with pytest.raises(TooOften):
        await house.people.sign_up("more@example.org", PASSWORD, "", "192.0.2.1")
    await house.people.sign_up("more@example.org", PASSWORD, "", "192.0.2.2")


def test_attempts_take_bounded_memory() -> None:
    """However many names there are, so many are remembered; who has no name is not counted."""
    attempts = Attempts(Pace(burst=1, every_s=10.0), names_max=100)
    for number in range(10_000):
        attempts.note(str(number), 0.0)
    assert len(attempts) == 100
    assert attempts.wait_s("9999", 0.0) == 10.0
    assert attempts.wait_s("9999", 10.0) == 0.0
    attempts.note(None, 0.0)
    assert attempts.wait_s(None, 0.0) == 0.0


async def test_the_first_link_gives_the_first_account_its_password_once() -> None:
    """It works once and for a day; it is no session, and a session's token is no link."""
    house = House()
    first = User(id="usr_first", created_at_ms=1, is_admin=True)
    house.tables.add_user(first)
    link = await house.people.first_link()
    assert link is not None
    assert await house.people.visitor(link) is None
    assert await house.people.visitor("link:" + link) is None

    with pytest.raises(FormWrong):
        await house.people.claim(link, "not an address", PASSWORD)
    token = await house.people.claim(link, EMAIL, PASSWORD)
    claimed = await house.people.visitor(token)
    assert claimed is not None
    assert (claimed.id, claimed.email, claimed.is_admin) == ("usr_first", EMAIL, True)
    for spent in (link, token, "", "x" * 43):
        with pytest.raises(LinkSpent):
            await house.people.claim(spent, "eve@example.org", PASSWORD)
    assert await house.people.first_link() is None


async def test_a_first_link_that_is_too_old_is_spent() -> None:
    """The next start shows a new one."""
    house = House()
    house.tables.add_user(User(id="usr_first", created_at_ms=1, is_admin=True))
    link = await house.people.first_link()
    assert link is not None
    house.wall_ms += LINK_MS
    with pytest.raises(LinkSpent):
        await house.people.claim(link, EMAIL, PASSWORD)
    assert await house.people.first_link() is not None


def test_tokens_and_proofs() -> None:
    """A proof is of one token, tells nothing of it, and what is kept of a token is never a link's."""
    tokens = [new_token(lambda count, byte=byte: bytes([byte]) * count) for byte in (1, 2)]  # type: ignore[misc]
    assert all(is_token(token) for token in tokens)
    assert not is_token(None)
    assert not is_token(tokens[0] + "x")
    assert is_proof(proof_of(tokens[0]), tokens[0])
    assert not is_proof(proof_of(tokens[0]), tokens[1])
    assert not is_proof("", tokens[0])
    assert not is_proof("ü", tokens[0])
    assert tokens[0] not in proof_of(tokens[0])
    assert session_digest(tokens[0]) != link_digest(tokens[0])


def test_open_is_open() -> None:
    """The rules that these tests use differ from the default."""
    assert OPEN.signup is Signup.OPEN
    assert PeopleRules().signup is Signup.CLOSED
