"""Yamux streams behind our seam: opened in one round trip or none, told what ended them, and never left behind."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio
from libp2p.exceptions import BaseLibp2pError
from libp2p.stream_muxer.exceptions import MuxedConnError, MuxedStreamEOF, MuxedStreamError
from multiaddr.exceptions import Error as MultiaddrError

from cxp2p import protocols
from cxp2p.errors import PeerUnreachable, RemoteProtocolError
from cxp2p.wire import encode_uvarint

log = logging.getLogger("cxp2p.net.libp2p")

READ_BYTES_MAX = 64 * 1024
CLOSE_S = 1.0
LIBP2P_ERRORS: Final = (
    BaseLibp2pError,
    MuxedStreamError,
    MuxedConnError,
    MultiaddrError,
    OSError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    EOFError,
    ValueError,
    KeyError,
)


def words(error: BaseException) -> str:
    """An error of libp2p in one short line."""
    return str(error).partition("\n")[0][:200] or type(error).__name__


def _line(text: str) -> bytes:
    """One message of multistream-select."""
    data = text.encode() + b"\n"
    return encode_uvarint(len(data)) + data


MULTISTREAM: Final = _line("/multistream/1.0.0")
REFUSED: Final = MULTISTREAM + _line("na")


async def end(act: Callable[[], Awaitable[object]]) -> None:
    """Closes or resets: neither a cancellation nor a peer that hangs may prevent it."""
    with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_S):
        try:
            await act()
        except LIBP2P_ERRORS as error:
            log.debug("ending a stream: %s", words(error))


class Libp2pStream:
    """A Yamux stream behind our seam. `protocol` is None on the side that did not open it."""

    def __init__(self, stream: Any, peer: str, protocol: str | None = None) -> None:
        self._stream = stream
        self._muxed = stream.muxed_stream  # libp2p's own stream around it takes a lock for each read and write
        self._peer = peer
        self._protocol = protocol
        self._greeting = MULTISTREAM + _line(protocol) if protocol else b""  # goes ahead of the first bytes
        self._echo = self._greeting  # what the peer answers to the greeting, as far as it is awaited
        self._early = bytearray()
        self._answer_by = trio.current_time() + protocols.STREAM_OPEN_TIMEOUT_S
        self._ended = False

    @property
    def peer(self) -> str:
        return self._peer

    async def send(self, data: bytes) -> None:
        greeting, self._greeting = self._greeting, b""
        data = greeting + data
        try:
            for start in range(0, len(data), protocols.WRITE_BYTES_MAX):
                await self._muxed.write(data[start : start + protocols.WRITE_BYTES_MAX])
        except LIBP2P_ERRORS as error:
            raise PeerUnreachable(f"sending to {self._peer}: {words(error)}") from None

    async def receive(self) -> bytes:
        if self._echo:
            await self.agree()
        if self._early:
            data = bytes(self._early)
            self._early.clear()
            return data
        return await self._read()

    async def _read(self) -> bytes:
        try:
            data: bytes = await self._muxed.read(READ_BYTES_MAX)
        except MuxedStreamEOF:
            return b""
        except LIBP2P_ERRORS as error:
            raise PeerUnreachable(f"receiving from {self._peer}: {words(error)}") from None
        return data

    async def agree(self) -> None:
        """Waits until the peer took the protocol. Raises RemoteProtocolError if it speaks another, PeerUnreachable."""
        if self._greeting:
            await self.send(b"")
        answer = self._early
        with trio.CancelScope(deadline=self._answer_by) as patience:
            while not answer.startswith(self._echo):
                if answer.startswith(REFUSED):
                    raise RemoteProtocolError(f"{self._peer} does not speak {self._protocol}")
                if not self._echo.startswith(answer) and not REFUSED.startswith(answer):
                    raise RemoteProtocolError(f"{self._peer} does not speak multistream-select")
                data = await self._read()
                if not data:
                    raise PeerUnreachable(f"{self._peer} ended the stream before it took {self._protocol}")
                answer += data
        if patience.cancelled_caught:
            raise PeerUnreachable(f"{self._peer} did not answer in {protocols.STREAM_OPEN_TIMEOUT_S:g} s")
        del answer[: len(self._echo)]
        self._echo = b""

    async def close_send(self) -> None:
        try:
            if self._greeting:
                await self.send(b"")
            await self._stream.close_write()
        except LIBP2P_ERRORS as error:
            raise PeerUnreachable(f"closing towards {self._peer}: {words(error)}") from None

    async def close(self) -> None:
        if self._ended:
            return
        self._ended = True
        await end(self._stream.close)

    async def reset(self) -> None:
        if self._ended:
            return
        self._ended = True
        await end(self._stream.reset)
