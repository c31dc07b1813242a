"""The keys of an account: made, limited, renewed and ended by its owner. What they may be, without HTTP."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from random import Random
from typing import Final

from cxp2p.errors import CxError
from cxp2p.records import Service
from cxp2p_gateway.accounts import Accounts
from cxp2p_gateway.keys import Key, Kind, Terms, make_key, rotated
from cxp2p_gateway.limits import Standing
from cxp2p_gateway.spending import MICRO
from cxp2p_gateway.store import Store

KEYS_MAX: Final = 100  # of one account that are not revoked, its base key among them
REVOKED_MAX: Final = 1000  # of one account that are still told of
NAME_LENGTH_MAX: Final = 80
MODELS_MAX: Final = 64
MODEL_LENGTH_MAX: Final = 128
SPEND_CREDITS_MAX: Final = 1_000_000_000
RPM_MAX: Final = 1_000_000
TPM_MAX: Final = 1_000_000_000
PARALLEL_MAX: Final = 10_000
GRACE_S_MAX: Final = 30 * 86_400
EXPIRES_AT_MS_MAX: Final = 253_402_300_799_999  # the end of the year 9999: the last that RFC 3339 can write


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A key with a new secret. `text` is shown to its owner now, and can never be shown again."""

    key: Key
    text: str = field(repr=False)


class TermWrong(CxError):
    """A term cannot be. `term`: its name as requests have it; `problem`: what was expected instead."""

    def __init__(self, term: str, problem: str) -> None:
        super().__init__(f"{term}: {problem}")
        self.term = term
        self.problem = problem


class KeyUnknown(CxError):
    """This account has no such key."""

    def __init__(self) -> None:
        super().__init__("this account has no such key")


class KeyRevoked(CxError):
    """The key is revoked, and stays so."""


class KeysTooMany(CxError):
    """The account has as many keys as it may."""


class KeyIsBase(CxError):
    """A base key has no limits and cannot be ended; it can be rotated."""


def terms_of(key: Key) -> Terms:
    """What the owner said of a key."""
    return Terms(**{each.name: getattr(key, each.name) for each in fields(Terms)})


def check_terms(terms: Terms, wall_ms: int) -> None:
    """Raises TermWrong for the first term that cannot be."""
    _check_text(terms.name, 0, NAME_LENGTH_MAX, "name")
    if terms.spend_limit is not None and not 0 <= terms.spend_limit <= SPEND_CREDITS_MAX * MICRO:
        raise TermWrong("spend_limit", f"it is not between 0 and {SPEND_CREDITS_MAX} credits")
    known = [service.value for service in Service]
    _check_length(len(terms.services), 0, len(known), "services", "services")
    for index, service in enumerate(terms.services):
        if service not in known:
            raise TermWrong(f"services[{index}]", f"it is not one of {', '.join(known)}")
    _check_length(len(terms.models), 0, MODELS_MAX, "models", "models")
    for index, model in enumerate(terms.models):
        _check_text(model, 1, MODEL_LENGTH_MAX, f"models[{index}]")
    _check_range(terms.rpm, 1, RPM_MAX, "rpm", "requests a minute")
    _check_range(terms.tpm, 1, TPM_MAX, "tpm", "tokens a minute")
    _check_range(terms.parallel_max, 1, PARALLEL_MAX, "max_parallel", "requests at once")
    if terms.expires_at_ms is not None and not wall_ms < terms.expires_at_ms <= EXPIRES_AT_MS_MAX:
        raise TermWrong("expires_at", "it is not in the future")


class KeyRing:
    """The keys of all accounts, for their owners. `rng` must be fit for secrets: a SystemRandom.

    Every call names the account whose key it is to be; another's key is unknown to it.
    """

    def __init__(self, accounts: Accounts, store: Store, wall_ms: Callable[[], int], rng: Random) -> None:
        self._accounts = accounts
        self._store = store
        self._wall_ms = wall_ms
        self._rng = rng

    async def make(self, account: str, terms: Terms) -> Made:
        """One more virtual key. Raises TermWrong, KeysTooMany."""
        wall_ms = self._wall_ms()
        check_terms(terms, wall_ms)
        made = make_key(self._rng.randbytes)
        key = Key(id=made.id, account=account, digest=made.digest, created_at_ms=wall_ms, kind=Kind.VIRTUAL)
        key = _with_terms(key, terms)
        if not await self._store.add_key(key, KEYS_MAX, REVOKED_MAX):
            raise KeysTooMany(f"an account has at most {KEYS_MAX} keys")
        return Made(key=key, text=made.text)

    async def list(self, account: str) -> tuple[Key, ...]:
        """All keys of an account, oldest first, with those that are revoked."""
        return await self._store.keys_of(account)

    async def key(self, account: str, key_id: str) -> Key:
        """One of them. Raises KeyUnknown."""
        key = await self._store.key(key_id)
        if key is None or key.account != account:
            raise KeyUnknown
        return key

    async def standing(self, key: Key) -> Standing:
        """What a key has spent in its period, what is held for it, and where its rates stand."""
        return await self._store.standing(key)

    async def change(self, account: str, key_id: str, change: Callable[[Terms], Terms]) -> Key:
        """Gives a virtual key other terms, from this moment on.

        Raises what `change` raises, and TermWrong, KeyUnknown, KeyRevoked, KeyIsBase.
        """
        wall_ms = self._wall_ms()

        def changed(key: Key) -> Key:
            _check_whose(key, account)
            if key.kind is Kind.BASE:
                raise KeyIsBase("a base key has no limits")
            before = terms_of(key)
            terms = change(before)
            is_same_end = terms.expires_at_ms == before.expires_at_ms  # a key that has expired can be renamed
            check_terms(replace(terms, expires_at_ms=None) if is_same_end else terms, wall_ms)
            return _with_terms(key, terms)

        return await self._changed(key_id, changed)

    async def rotate(self, account: str, key_id: str, grace_s: int = 0) -> Made:
        """A new secret for a key, base or virtual; the old one is good for `grace_s` more.

        Raises TermWrong, KeyUnknown, KeyRevoked.
        """
        _check_range(grace_s, 0, GRACE_S_MAX, "grace_seconds", "seconds")
        wall_ms = self._wall_ms()
        made = make_key(self._rng.randbytes, key_id)

        def changed(key: Key) -> Key:
            _check_whose(key, account)
            return rotated(key, made, wall_ms, grace_s * 1000)

        return Made(key=await self._changed(key_id, changed), text=made.text)

    async def revoke(self, account: str, key_id: str) -> Key:
        """Ends a virtual key from this moment on; once more changes nothing. Raises KeyUnknown, KeyIsBase."""
        wall_ms = self._wall_ms()

        def changed(key: Key) -> Key:
            if key.account != account:
                raise KeyUnknown
            if key.kind is Kind.BASE:
                raise KeyIsBase("a base key cannot be revoked, only rotated")
            return replace(key, revoked_at_ms=key.revoked_at_ms or wall_ms)

        return await self._changed(key_id, changed)

    async def _changed(self, key_id: str, change: Callable[[Key], Key]) -> Key:
        key = await self._accounts.change(key_id, change)
        if key is None:
            raise KeyUnknown
        return key


def _with_terms(key: Key, terms: Terms) -> Key:
    return replace(key, **{each.name: getattr(terms, each.name) for each in fields(Terms)})


def _check_whose(key: Key, account: str) -> None:
    if key.account != account:
        raise KeyUnknown
    if key.revoked_at_ms is not None:
        raise KeyRevoked("this key is revoked")


def _check_text(text: str, least: int, most: int, term: str) -> None:
    _check_length(len(text), least, most, term, "characters")
    if not text.isprintable():
        raise TermWrong(term, "it has characters that cannot be printed")


def _check_length(length: int, least: int, most: int, term: str, unit: str) -> None:
    if not least <= length <= most:
        raise TermWrong(term, f"{length} {unit} is not between {least} and {most}")


def _check_range(value: int | None, least: int, most: int, term: str, unit: str) -> None:
    if value is not None and not least <= value <= most:
        raise TermWrong(term, f"{value} {unit} is not between {least} and {most}")
