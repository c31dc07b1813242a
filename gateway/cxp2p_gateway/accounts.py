"""Who may come in: the account that the first start makes, its keys, and whose a stranger's token is."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from random import Random
from typing import Final

import trio

from cxp2p_gateway.asking import Caller
from cxp2p_gateway.exchange import ulid
from cxp2p_gateway.keys import NOBODY, Key, NewKey, key_id, make_key, opens, usable
from cxp2p_gateway.store import Store, StoreError
from cxp2p_gateway.store.rows import User

log = logging.getLogger("cxp2p.accounts")

KEYS_REMEMBERED_MAX: Final = 1024  # about 300 bytes each
LOOK_UPS_MAX: Final = 4  # at once, so that made-up keys never crowd out jobs before the disk
USED_STEP_MS: Final = 3_600_000  # how far behind `used_at_ms` may be: a write an hour, not one a request


class UserIdRule(StrEnum):
    """What X-User-Id has to be. `match`: the key's owner, if it is sent at all; `require`: it must be sent, too."""

    MATCH = "match"
    REQUIRE = "require"


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstAccount:
    """The account of the first start. `key` is shown to its owner now, and can never be shown again."""

    user_id: str
    key: str = field(repr=False)


def new_user(wall_ms: int, rng: Random) -> User:
    """Somebody who cannot log in yet, with an id of their own."""
    return User(id=f"usr_{ulid(wall_ms, rng)}", created_at_ms=wall_ms)


async def found_account(store: Store, credit: int, wall_ms: int, rng: Random) -> FirstAccount | None:
    """Makes the operator's own account with `credit` µcredits and a key; None if there is an account already.

    `rng` must be fit for secrets: a SystemRandom.
    """
    made = make_key(rng.randbytes)
    user = replace(new_user(wall_ms, rng), is_admin=True)
    if not await store.found(user, kept(made, user.id, wall_ms), credit):
        return None
    return FirstAccount(user_id=user.id, key=made.text)


async def issue_key(store: Store, account: str, wall_ms: int, rng: Random) -> str:
    """One more key for an account, for instance because its first was lost. `rng` must be fit for secrets."""
    made = make_key(rng.randbytes)
    await store.put_key(kept(made, account, wall_ms))
    return made.text


def kept(made: NewKey, account: str, wall_ms: int) -> Key:
    """What is kept of a new base key."""
    return Key(id=made.id, account=account, digest=made.digest, created_at_ms=wall_ms)


class Accounts:
    """Recognises callers. Keys that proved right are remembered: a request needs no disk. Wrong ones never are.

    `is_alone`: no other process changes keys. Otherwise none is remembered, so that a revoked one ends at once.
    """

    def __init__(
        self,
        store: Store,
        wall_ms: Callable[[], int],
        rule: UserIdRule = UserIdRule.MATCH,
        *,
        is_alone: bool = True,
    ) -> None:
        self._store = store
        self._is_alone = is_alone
        self._wall_ms = wall_ms
        self._rule = rule
        self._remembered: OrderedDict[str, Key] = OrderedDict()
        self._changes = 0
        self._look_ups = trio.CapacityLimiter(LOOK_UPS_MAX)

    async def authenticate(self, token: str, user_id: str | None) -> Caller | None:
        """Who holds this key; see `Door.authenticate`. A user's id is the id of the account."""
        wanted = key_id(token)
        if wanted is None:
            return None
        key = self._remembered.get(wanted, NOBODY)
        if not opens(token, key, self._wall_ms()):  # looked up also if it is remembered: who guesses cannot tell
            changes = self._changes
            async with self._look_ups:
                key = await self._store.usable_key(wanted) or NOBODY
            if not opens(token, key, self._wall_ms()):
                return None
            if changes == self._changes:
                self._remember(key)
        wall_ms = self._wall_ms()
        if not usable(key, wall_ms) or not self._is_owner(key, user_id):
            return None
        await self._note_use(key, wall_ms)
        return Caller(
            account=key.account,
            key=key.id,
            kind=key.kind,
            services=key.services,
            models=key.models,
            rpm=key.rpm,
            tpm=key.tpm,
        )

    async def revoke(self, key: str) -> bool:
        """Ends a key, by its id, from this moment on. False if there is no such key."""
        wall_ms = self._wall_ms()
        return (
            await self.change(key, lambda kept: replace(kept, revoked_at_ms=kept.revoked_at_ms or wall_ms)) is not None
        )

    async def change(self, key: str, change: Callable[[Key], Key]) -> Key | None:
        """Makes of a key, by its id, what `change` says, from this moment on. None if there is no such key."""
        changed = await self._store.change_key(key, change)
        self._changes += 1
        self._remembered.pop(key, None)
        return changed

    def forget(self) -> None:
        """Remembers no key any longer: some account has changed."""
        self._changes += 1
        self._remembered.clear()

    def _is_owner(self, key: Key, user_id: str | None) -> bool:
        if user_id is None:
            return self._rule is UserIdRule.MATCH
        return user_id == key.account

    def _remember(self, key: Key) -> None:
        if not self._is_alone:
            return
        self._remembered[key.id] = key
        self._remembered.move_to_end(key.id)
        if len(self._remembered) > KEYS_REMEMBERED_MAX:
            self._remembered.popitem(last=False)

    async def _note_use(self, key: Key, wall_ms: int) -> None:
        if key.used_at_ms is not None and wall_ms - key.used_at_ms < USED_STEP_MS:
            return
        if key.id in self._remembered:
            self._remember(replace(key, used_at_ms=wall_ms))  # first, so that requests at once write it once
        try:
            await self._store.change_key(key.id, lambda kept: replace(kept, used_at_ms=wall_ms))
        except StoreError as error:
            log.warning("that key %s was used could not be noted: %s", key.id, error)
