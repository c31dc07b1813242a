"""An answer that may be long: its JSON is sent in parts, so that its text is never held as a whole."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import trio
from starlette.types import Send

from cxp2p_gateway.exchange import Exchange
from cxp2p_gateway.middleware import encoded

WRITE_BYTES: Final = 256 * 1024  # an answer that is longer is sent in parts of that size


class LongAnswer:
    """A 200 under the id of a generation. What is added is held until it is a part, or the end."""

    def __init__(self, exchange: Exchange, generation: str, send: Send) -> None:
        self._exchange = exchange
        self._generation = generation
        self._send = send
        self._held = bytearray()

    async def add(self, parts: Iterable[bytes]) -> None:
        """More of its JSON, which is made while it is sent."""
        for part in parts:
            if len(self._held) >= WRITE_BYTES:
                await self.send_now(bytes(self._held))
                self._held.clear()
            self._held += part
            await trio.lowlevel.checkpoint()

    async def send_now(self, part: bytes) -> None:
        """A part that does not wait for others."""
        await self._begin(None)
        await self._send({"type": "http.response.body", "body": part, "more_body": True})

    async def end(self) -> None:
        """All of it is there."""
        await self._begin(len(self._held))
        await self._send({"type": "http.response.body", "body": bytes(self._held)})

    async def _begin(self, size: int | None) -> None:
        """Sends the status line, once. `size`: of the body, if it is known."""
        if self._exchange.status:
            return
        headers = [("content-type", "application/json"), ("x-cx-generation-id", self._generation)]
        if size is not None:
            headers.append(("content-length", str(size)))
        await self._send({"type": "http.response.start", "status": 200, "headers": encoded(headers)})
