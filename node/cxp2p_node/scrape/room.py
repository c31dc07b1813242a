"""Room for the bodies of large pages, from when one turns out to be large until it was read.

Small pages are few enough by their number. Who has room never waits for more of it, so nobody waits for ever.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import trio

LARGE_BYTES: Final = 1 << 20  # a body with more is large
ROOM_BYTES: Final = 80_000_000  # for all large ones together: eight of the largest


class Room:
    """So many bytes. Who comes first has room first, however much it wants."""

    def __init__(self, bytes_max: int = ROOM_BYTES) -> None:
        self.bytes_max = bytes_max
        self.used = 0
        self._waiting: deque[tuple[int, trio.Event]] = deque()

    def __repr__(self) -> str:
        return f"<Room {self.used} of {self.bytes_max} bytes, {len(self._waiting)} wait>"

    async def take(self, size: int) -> None:
        """Waits until there is room for so many bytes, which is at most all of it."""
        if not self._waiting and self.used + size <= self.bytes_max:
            self.used += size
            return
        given = trio.Event()
        self._waiting.append((size, given))
        try:
            await given.wait()
        except trio.Cancelled:
            if given.is_set():
                self.give(size)
            else:
                self._waiting.remove((size, given))
                self._serve()
            raise

    def give(self, size: int) -> None:
        """So many bytes are gone."""
        self.used -= size
        self._serve()

    def _serve(self) -> None:
        while self._waiting and self.used + self._waiting[0][0] <= self.bytes_max:
            size, given = self._waiting.popleft()
            self.used += size
            given.set()


class Place:
    """The room that one page has; none until it is large. `leave` it when the body is not needed any more."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._size = 0

    async def grow(self, bytes_max: int) -> None:
        """Room for a body that turned out to be large, and may have so many bytes. Only once."""
        assert not self._size
        await self._room.take(bytes_max)
        self._size = bytes_max

    def settle(self, size: int) -> None:
        """It has only so many bytes."""
        if size < self._size:
            self._room.give(self._size - size)
            self._size = size

    async def share(self, size: int) -> None:
        """Room for a body that is there already: others have it, or it is a copy."""
        if size > LARGE_BYTES and not self._size:
            await self.grow(size)

    def leave(self) -> None:
        """The body is gone."""
        self.settle(0)
