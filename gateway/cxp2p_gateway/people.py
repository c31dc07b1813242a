"""People: how they get an account, prove who they are, and stay logged in. The rules, and their calls of the store."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from random import Random
from typing import Final

from cxp2p import ledger
from cxp2p.errors import CxError
from cxp2p.ledger import NETWORK
from cxp2p_gateway.accounts import Accounts, kept, new_user
from cxp2p_gateway.attempts import Attempts, Pace
from cxp2p_gateway.keys import Key, Kind, make_key
from cxp2p_gateway.passwords import Hashing, fault_of_password
from cxp2p_gateway.store import Store
from cxp2p_gateway.store.rows import Session, User
from cxp2p_gateway.store.tables import Tables
from cxp2p_gateway.tokens import is_token, link_digest, new_token, session_digest

EMAIL_LENGTH_MAX: Final = 254  # RFC 5321, as erratum 1690 has it
SESSIONS_MAX: Final = 20  # of one account: the oldest is logged out
LINK_MS: Final = 86_400_000  # how long a first link is good
DAY_MS: Final = 86_400_000

LOG_INS_FROM_PLACE: Final = Pace(burst=20, every_s=15.0)  # an office behind one address, and 5,760 guesses a day
LOG_INS_OF_ACCOUNT: Final = Pace(burst=10, every_s=60.0)  # wrong ones only
SIGN_UPS_FROM_PLACE: Final = Pace(burst=5, every_s=600.0)

_EMAIL: Final = re.compile(r"[^@\s\x00-\x1f\x7f]{1,64}@[^@\s\x00-\x1f\x7f.]+(\.[^@\s\x00-\x1f\x7f.]+)+")


class Signup(StrEnum):
    """Who may make an account: anybody, or nobody but the operator."""

    OPEN = "open"
    CLOSED = "closed"


class FormWrong(CxError):
    """What somebody sent cannot be. `place`: the form's field; the message is for them."""

    def __init__(self, place: str, message: str) -> None:
        super().__init__(message)
        self.place = place


class SignupClosed(CxError):
    """Only the operator makes accounts here, or there are as many as may be."""


class TooOften(CxError):
    """Too many attempts; come back after `retry_after_s`."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__("too many attempts")
        self.retry_after_s = retry_after_s


class LinkSpent(CxError):
    """The link was used, is too old, or never was one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeopleRules:
    """Credit is in µcredits. `referral_credit` goes to who brought somebody, for the first `referrals_max`.

    Nobody signs up who would be one more than `accounts_max`.
    """

    signup: Signup = Signup.CLOSED
    accounts_max: int = 1_000_000
    signup_credit: int = 0
    referral_credit: int = 0
    referrals_max: int = 100
    session_days: int = 14


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """A new account: its session's token and its base key, which can never be shown again."""

    user: User
    token: str = field(repr=False)
    key: str = field(repr=False)


def email_of(text: str) -> str:
    """An e-mail address as it is kept. Raises FormWrong."""
    email = text.strip().lower()
    if len(email) > EMAIL_LENGTH_MAX or not _EMAIL.fullmatch(email):
        raise FormWrong("email", "This is not an e-mail address; one looks like name@example.org.")
    return email


def check_password(password: str) -> None:
    """Raises FormWrong if this cannot be a new password."""
    problem = fault_of_password(password)
    if problem is not None:
        raise FormWrong("password", problem)


class People:
    """All that people do with their accounts. `now`: monotonic seconds; `rng` must be fit for secrets."""

    def __init__(
        self,
        store: Store,
        accounts: Accounts,
        hashing: Hashing,
        rules: PeopleRules,
        *,
        now: Callable[[], float],
        wall_ms: Callable[[], int],
        rng: Random,
    ) -> None:
        self.rules = rules
        self._store = store
        self._accounts = accounts
        self._hashing = hashing
        self._now = now
        self._wall_ms = wall_ms
        self._rng = rng
        self._from_place = Attempts(LOG_INS_FROM_PLACE)
        self._of_account = Attempts(LOG_INS_OF_ACCOUNT)
        self._sign_ups = Attempts(SIGN_UPS_FROM_PLACE)

    async def sign_up(self, email: str, password: str, referrer: str, place: str | None) -> Welcome:
        """A new account with its base key, logged in. `place`: where the request is from.

        Raises SignupClosed, FormWrong, TooOften, HashingBusy.
        """
        if self.rules.signup is not Signup.OPEN:
            raise SignupClosed("accounts are made by this gateway's operator")
        wanted = email_of(email)
        check_password(password)
        self._take(self._sign_ups, place)
        wall_ms = self._wall_ms()
        user = replace(new_user(wall_ms, self._rng), email=wanted, password_hash=await self._hashing.hash(password))
        made = make_key(self._rng.randbytes)
        token, session = self._new_session(user.id)

        def act(tables: Tables) -> User:
            joined = _join(tables, user, kept(made, user.id, wall_ms), referrer, self.rules, wall_ms)
            tables.add_session(session, SESSIONS_MAX)
            return joined

        return Welcome(user=await self._store.do(act), token=token, key=made.text)

    async def log_in(self, email: str, password: str, place: str | None) -> str:
        """The token of a new session. Raises FormWrong, the same for all that may be wrong, TooOften, HashingBusy."""
        email = email.strip().lower()[:EMAIL_LENGTH_MAX]
        self._take(self._from_place, place)
        self._take(self._of_account, email)
        user = await self._store.read(lambda tables: tables.user_by_email(email))
        is_right = await self._hashing.verify(None if user is None else user.password_hash, password)
        if user is None or not is_right or user.disabled_at_ms is not None:
            raise FormWrong("password", "E-mail or password is wrong.")
        self._of_account.forget(email)
        return await self._enter(user.id)

    async def visitor(self, token: str | None) -> User | None:
        """Who holds this session's token; None if it is over, or the account is disabled."""
        if token is None or not is_token(token):
            return None
        digest, wall_ms = session_digest(token), self._wall_ms()

        def look(tables: Tables) -> User | None:
            session = tables.session(digest)
            if session is None or session.expires_at_ms <= wall_ms:
                return None
            user = tables.user(session.account)
            return None if user is None or user.disabled_at_ms is not None else user

        return await self._store.read(look)

    async def log_out(self, token: str) -> None:
        """Ends one session."""
        await self._store.do(lambda tables: tables.end_session(session_digest(token)))

    async def log_out_everywhere(self, user_id: str) -> None:
        """Ends all sessions of an account."""
        await self._store.do(lambda tables: tables.end_sessions(user_id))

    async def change_password(self, user: User, old: str, new: str) -> str:
        """Ends all sessions; returns the token of a new one. Raises FormWrong, TooOften, HashingBusy."""
        check_password(new)
        self._take(self._of_account, user.id)
        if not await self._hashing.verify(user.password_hash, old):
            raise FormWrong("old", "This is not your password.")
        self._of_account.forget(user.id)
        hashed = await self._hashing.hash(new)
        await self._changed(user.id, lambda known: replace(known, password_hash=hashed), ends_sessions=True)
        return await self._enter(user.id)

    async def base_key(self, user_id: str) -> Key | None:
        """The account's base key that is good; None if there is none."""
        keys = await self._store.keys_of(user_id)
        return next((key for key in keys if key.kind is Kind.BASE and key.revoked_at_ms is None), None)

    # The operator's first account.

    async def first_link(self) -> str | None:
        """The token of a link that lets the operator claim the first account; None if it has a password already."""
        token, wall_ms = new_token(self._rng.randbytes), self._wall_ms()

        def act(tables: Tables) -> str | None:
            first = next(iter(tables.users(1, 0)), None)
            if first is None or first.password_hash is not None or not first.is_admin:
                return None
            link = Session(
                digest=link_digest(token), account=first.id, created_at_ms=wall_ms, expires_at_ms=wall_ms + LINK_MS
            )
            tables.add_session(link, SESSIONS_MAX)
            return token

        return await self._store.do(act)

    async def claim(self, link: str, email: str, password: str) -> str:
        """Gives the account of a link its e-mail and password; the token of a new session.

        Raises LinkSpent, FormWrong, HashingBusy.
        """
        if not is_token(link):
            raise LinkSpent("this link is not one of ours")
        wanted = email_of(email)
        check_password(password)
        await self._store.read(lambda tables: self._linked(tables, link))
        hashed = await self._hashing.hash(password)

        def act(tables: Tables) -> str:
            user = self._linked(tables, link)
            _check_free(tables, wanted, user.id)
            tables.end_sessions(user.id)
            tables.replace_user(replace(user, email=wanted, password_hash=hashed))
            return user.id

        return await self._enter(await self._store.do(act))

    def _linked(self, tables: Tables, link: str) -> User:
        session = tables.session(link_digest(link))
        user = None if session is None else tables.user(session.account)
        if session is None or user is None or session.expires_at_ms <= self._wall_ms():
            raise LinkSpent("this link was used, or is too old; the next start of the gateway shows a new one")
        return user

    # What an admin does.

    async def set_disabled(self, user_id: str, disabled: bool) -> User | None:
        """Shuts an account out, from its keys too, or lets it in again. None if there is no such account."""
        at_ms = self._wall_ms() if disabled else None
        changed = await self._changed(user_id, lambda user: replace(user, disabled_at_ms=at_ms), ends_sessions=disabled)
        self._accounts.forget()
        return changed

    async def set_admin(self, user_id: str, is_admin: bool) -> User | None:
        """Makes somebody an admin, or no longer. None if there is no such account."""
        return await self._changed(user_id, lambda user: replace(user, is_admin=is_admin))

    async def set_password(self, user_id: str, email: str | None, password: str) -> User | None:
        """What an account logs in with from now on; all its sessions end. Raises FormWrong, HashingBusy."""
        wanted = None if email is None else email_of(email)
        check_password(password)
        hashed = await self._hashing.hash(password)

        def act(tables: Tables) -> User | None:
            user = tables.user(user_id)
            if user is None:
                return None
            if wanted is not None:
                _check_free(tables, wanted, user_id)
            elif user.email is None:
                raise FormWrong("email", "This account has no e-mail yet: give one.")
            changed = replace(user, email=wanted or user.email, password_hash=hashed)
            tables.replace_user(changed)
            tables.end_sessions(user_id)
            return changed

        return await self._store.do(act)

    # Parts.

    async def _changed(
        self, user_id: str, change: Callable[[User], User], *, ends_sessions: bool = False
    ) -> User | None:
        def act(tables: Tables) -> User | None:
            user = tables.user(user_id)
            if user is None:
                return None
            changed = change(user)
            tables.replace_user(changed)
            if ends_sessions:
                tables.end_sessions(user_id)
            return changed

        return await self._store.do(act)

    async def _enter(self, user_id: str) -> str:
        token, session = self._new_session(user_id)

        def act(tables: Tables) -> None:
            tables.forget_sessions(session.created_at_ms)
            tables.add_session(session, SESSIONS_MAX)

        await self._store.do(act)
        return token

    def _new_session(self, user_id: str) -> tuple[str, Session]:
        token, wall_ms = new_token(self._rng.randbytes), self._wall_ms()
        return token, Session(
            digest=session_digest(token),
            account=user_id,
            created_at_ms=wall_ms,
            expires_at_ms=wall_ms + self.rules.session_days * DAY_MS,
        )

    def _take(self, attempts: Attempts, name: str | None) -> None:
        now = self._now()
        wait_s = attempts.wait_s(name, now)
        if wait_s:
            raise TooOften(wait_s)
        attempts.note(name, now)


def _check_free(tables: Tables, email: str, user_id: str) -> None:
    other = tables.user_by_email(email)
    if other is not None and other.id != user_id:
        raise FormWrong("email", "There is an account with this e-mail already.")


def _join(tables: Tables, user: User, key: Key, referrer: str, rules: PeopleRules, at_ms: int) -> User:
    _check_free(tables, user.email or "", user.id)
    if tables.user_count() >= rules.accounts_max:
        raise SignupClosed("there are as many accounts as there may be")
    brought_by = tables.user(referrer) if referrer else None
    if brought_by is not None and brought_by.disabled_at_ms is None:
        user = replace(user, referred_by=brought_by.id)
        if rules.referral_credit and tables.referred_count(brought_by.id) < rules.referrals_max:
            gift = f"referral:{user.id}"
            tables.write(ledger.transfer(tables, gift, NETWORK, brought_by.id, rules.referral_credit), at_ms)
    tables.write(ledger.transfer(tables, f"grant:{user.id}", NETWORK, user.id, rules.signup_credit), at_ms)
    tables.add_user(user)
    tables.put_key(key)
    return user
