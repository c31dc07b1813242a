"""Passwords: what may be one, and their hashes, by argon2id. A hash takes 20 MiB and some 30 ms, so few run at once."""

from __future__ import annotations

from typing import Final, Protocol

import trio
from argon2 import PasswordHasher, Type
from argon2.exceptions import Argon2Error, InvalidHashError

from cxp2p.errors import CxError

LENGTH_MIN: Final = 10
LENGTH_MAX: Final = 200  # so that nobody has us hash a book
MEMORY_KIB: Final = 19 * 1024  # OWASP, Password Storage Cheat Sheet: argon2id, m=19 MiB, t=2, p=1
PASSES: Final = 2
AT_ONCE_MAX: Final = 2  # threads
WAITING_MAX: Final = 32  # behind them: about half a second


class HashingBusy(CxError):
    """More people log in at once than can be served; come back in some seconds."""


class Hashing(Protocol):
    """Makes hashes of passwords, and compares."""

    async def hash(self, password: str) -> str:
        """A new hash, with a salt of its own. Raises HashingBusy."""

    async def verify(self, kept: str | None, password: str) -> bool:
        """Whether `kept` is this password's hash. None takes as long, and is never right. Raises HashingBusy."""


def fault_of_password(password: str) -> str | None:
    """What is wrong with a new password; None if nothing is."""
    if len(password) < LENGTH_MIN:
        return f"A password has at least {LENGTH_MIN} characters."
    if len(password) > LENGTH_MAX:
        return f"A password has at most {LENGTH_MAX} characters."
    if len(set(password)) < 4:
        return "This password is one that would be guessed: use more than three different characters."
    return None


class Argon2:
    """`Hashing` by argon2id, in threads."""

    def __init__(self, memory_kib: int = MEMORY_KIB, passes: int = PASSES) -> None:
        self._hasher = PasswordHasher(time_cost=passes, memory_cost=memory_kib, parallelism=1, type=Type.ID)
        self._nobody = self._hasher.hash("a password that nobody has")
        self._limiter = trio.CapacityLimiter(AT_ONCE_MAX)
        self._inside = 0

    async def hash(self, password: str) -> str:
        return await self._apart(password, None)

    async def verify(self, kept: str | None, password: str) -> bool:
        is_right = await self._apart(password, kept or self._nobody) == "right"
        return is_right and kept is not None

    async def _apart(self, password: str, kept: str | None) -> str:
        if self._inside >= AT_ONCE_MAX + WAITING_MAX:
            raise HashingBusy("too many people log in right now; try again in some seconds")
        self._inside += 1
        try:
            return await trio.to_thread.run_sync(self._work, password, kept, limiter=self._limiter)
        finally:
            self._inside -= 1

    def _work(self, password: str, kept: str | None) -> str:
        if kept is None:
            return self._hasher.hash(password)
        try:
            self._hasher.verify(kept, password)
        except (Argon2Error, InvalidHashError):
            return "wrong"
        return "right"
