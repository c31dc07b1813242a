"""The body of a page as it comes, decompressed, with an end to how much it may become. Pure."""

from __future__ import annotations

import zlib
from typing import Final, Protocol

from cxp2p.records import PageFault
from cxp2p_node.scrape.fetched import FetchRefused

ACCEPTED: Final = "gzip, deflate"  # what zlib does; servers that have others have these too
RATIO_MAX: Final = 200  # a page of text shrinks to a fifth or a tenth, one of tables to a fiftieth; zeros to 1/1000
RATIO_FROM_BYTES: Final = 1 << 20  # less is no bomb
STEP_BYTES: Final = 1 << 18
GZIP: Final = b"\x1f"  # how a file of gzip begins; a body may be several


class _Decompress(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unconsumed_tail(self) -> bytes: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = ..., /) -> bytes: ...


class Body:
    """A body as it comes. `encoding` is the Content-Encoding, `bytes_max` what it may become."""

    def __init__(self, encoding: str, bytes_max: int) -> None:
        self._coding = coding_of(encoding)
        self._bytes_max = bytes_max
        self._parts: list[bytes] = []
        self._inflate: _Decompress | None = None
        self._came = 0
        self.size = 0

    def take(self, data: bytes) -> None:
        """What came next. Raises FetchRefused for more than it may be, and for what is compressed otherwise."""
        self._came += len(data)
        if self._came > self._bytes_max:
            raise too_large(self._bytes_max)
        if not self._coding:
            self._keep(data)
            return
        try:
            while data:
                data = self._inflated(data)
        except zlib.error:
            raise FetchRefused(PageFault.CONNECT_ERROR, f"its body is not compressed as {self._coding}") from None

    def end(self) -> bytes:
        """All of it. Raises FetchRefused if it was cut off."""
        if self._inflate is not None and not self._inflate.eof:
            raise FetchRefused(PageFault.CONNECT_ERROR, "its body breaks off")
        return self.begun()

    def begun(self) -> bytes:
        """What there is of it so far."""
        return b"".join(self._parts)

    def _inflated(self, data: bytes) -> bytes:
        """Keeps what the first part of `data` becomes, and returns the rest."""
        if self._inflate is None:
            self._inflate = zlib.decompressobj(_window(self._coding, data))
        elif self._inflate.eof:
            if self._coding != "gzip" or not data.startswith(GZIP):
                return b""  # what stands after the end is nobody's
            self._inflate = zlib.decompressobj(_window(self._coding, data))
        part = self._inflate.decompress(data, STEP_BYTES)
        self._keep(part)
        while len(part) == STEP_BYTES and not self._inflate.eof:  # zlib may hold more, though it took all there was
            part = self._inflate.decompress(self._inflate.unconsumed_tail, STEP_BYTES)
            self._keep(part)
        return self._inflate.unused_data if self._inflate.eof else self._inflate.unconsumed_tail

    def _keep(self, part: bytes) -> None:
        self.size += len(part)
        if self.size > self._bytes_max:
            raise too_large(self._bytes_max)
        if self.size > RATIO_FROM_BYTES and self.size > RATIO_MAX * self._came:
            raise FetchRefused(PageFault.TOO_LARGE, "its body is compressed more than pages are")
        if part:
            self._parts.append(part)


def coding_of(encoding: str) -> str:
    """gzip, deflate, or "" for none. Raises FetchRefused for any other Content-Encoding."""
    told = encoding.strip().lower()
    if told in ("", "identity"):
        return ""
    if told in ("gzip", "x-gzip"):
        return "gzip"
    if told == "deflate":
        return "deflate"
    raise FetchRefused(PageFault.UNSUPPORTED_CONTENT_TYPE, f"its body is compressed as {told[:64]!r}, unasked")


def too_large(bytes_max: int) -> FetchRefused:
    """It is larger than a page may be."""
    return FetchRefused(PageFault.TOO_LARGE, f"it has more than {bytes_max} bytes")


def _window(coding: str, data: bytes) -> int:
    """How zlib is told what begins like this. Some servers leave the two bytes away that deflate begins with."""
    if coding == "gzip":
        return 16 + zlib.MAX_WBITS
    zlib_header = data[0] & 0x0F == 8 and (len(data) < 2 or int.from_bytes(data[:2], "big") % 31 == 0)
    return zlib.MAX_WBITS if zlib_header else -zlib.MAX_WBITS
