"""Who fetches now: of each host one at a time, in the order in which they came, and so many in all."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Final

import trio

from cxp2p.records import PageFault
from cxp2p_node.scrape.fetched import FetchRefused
from cxp2p_node.scrape.manners import Manners

WAITERS_MAX: Final = 4096  # for all hosts
HOST_WAITERS_MAX: Final = 256  # for one: jobs have 50 pages at most


@dataclass(slots=True, kw_only=True)
class Budget:
    """What is left of the seconds that a page may take: on its way, and for turns before it."""

    page_s: float
    wait_s: float

    @contextmanager
    def fetching(self) -> Iterator[None]:
        """What happens in here takes of the page's time. Raises FetchRefused when it is over."""
        begun = trio.current_time()
        with trio.move_on_after(self.page_s) as scope:
            try:
                yield
            finally:
                self.page_s = max(0.0, self.page_s - (trio.current_time() - begun))
        if scope.cancelled_caught:
            raise FetchRefused(PageFault.TIMEOUT, "it did not come in time")

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """What happens in here takes of the time to wait. Raises FetchRefused when it is over."""
        begun = trio.current_time()
        with trio.move_on_after(self.wait_s) as scope:
            try:
                yield
            finally:
                self.wait_s = max(0.0, self.wait_s - (trio.current_time() - begun))
        if scope.cancelled_caught:
            raise no_turn()


@dataclass(slots=True)
class _Gate:
    """Before a host. `users`: who is in, or waits."""

    lock: trio.Lock = field(default_factory=trio.Lock)
    users: int = 0


class Turns:
    """Gives turns; `manners` say when."""

    def __init__(self, manners: Manners, at_once: int) -> None:
        self._manners = manners
        self._gates: dict[str, _Gate] = {}
        self._slots = trio.Semaphore(at_once)
        self._users = 0

    def __len__(self) -> int:
        """How many are in, or wait."""
        return self._users

    @asynccontextmanager
    async def of(self, host: str, budget: Budget, look: Callable[[], None]) -> AsyncIterator[None]:
        """A visit to a host. `look` is called before the pause that the host is owed, and may raise FetchRefused.

        Raises FetchRefused if there is no turn within the budget, or if too many wait already.
        """
        gate = self._enter(host)
        try:
            with budget.waiting():
                await gate.lock.acquire()
            try:
                look()
                with budget.waiting():
                    await trio.sleep_until(self._manners.next_at(host))
                    await self._slots.acquire()
                try:
                    yield
                finally:
                    self._slots.release()
            finally:
                gate.lock.release()
        finally:
            gate.users -= 1
            self._users -= 1
            if not gate.users:
                del self._gates[host]

    def _enter(self, host: str) -> _Gate:
        gate = self._gates.get(host) or _Gate()
        if self._users >= WAITERS_MAX or gate.users >= HOST_WAITERS_MAX:
            raise FetchRefused(PageFault.TIMEOUT, "too many wait for a turn of its host")
        self._gates[host] = gate
        gate.users += 1
        self._users += 1
        return gate


def no_turn() -> FetchRefused:
    """Its host has no turn for it in time."""
    return FetchRefused(PageFault.TIMEOUT, "its host had no turn for it in time: one page at a time, with pauses")
