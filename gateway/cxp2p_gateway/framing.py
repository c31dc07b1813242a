"""What of a connection's bytes the HTTP parser may see: requests whose ends nobody can read differently. Pure.

h11 reads some requests that another server reads otherwise: lines that end with a line feed alone, folded headers, a
length beside chunks, chunks in HTTP/1.0. Where a proxy stands in front, that is how a second request is smuggled past
it. Here such bytes are the end of the connection (RFC 9112, sections 2.2, 3, 5, 6 and 7; RFC 9110, 5.5 and 9.1).
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import Final

HEAD_BYTES_MAX: Final = 128 * 1024  # twice what the front takes, so that it can say no in the client's dialect
HEADERS_MAX: Final = 256
CHUNK_LINE_BYTES_MAX: Final = 256  # a size and its extensions, which nobody sends
CHUNK_FRAMES_BYTES_MAX: Final = 1024 * 1024  # all sizes and line ends of a body: 150,000 chunks or so
TRAILERS_BYTES_MAX: Final = 8 * 1024
POISON: Final = b"\0\r\n\r\n"
"""Wherever a line may begin, no parser takes this for one: it makes h11 say that the request is malformed."""

_TOKEN: Final = rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+"
_AUTHORITY: Final = rb"[-0-9A-Za-z._~!$&'()*+,;=%:\[\]]+"
_REQUEST_LINE: Final = re.compile(rb"([-!#$%&'*+.^_`|~0-9A-Z]+) ([\x21-\x7e]+) HTTP/([0-9]\.[0-9])")
_FIRST: Final = frozenset(b"\r-!#$%&'*+.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ")  # of a method, or an empty line
_ABSOLUTE: Final = re.compile(rb"https?://(" + _AUTHORITY + rb")((?:[/?].*)?)", re.IGNORECASE)
_FIELD: Final = re.compile(rb"(" + _TOKEN + rb"):[ \t]*([\t\x20-\x7e\x80-\xff]*)")
_HOST: Final = re.compile(rb"(?:" + _AUTHORITY + rb")?")
_LENGTH: Final = re.compile(rb"[0-9]{1,18}")
_CHUNK: Final = re.compile(rb"([0-9A-Fa-f]{1,8})(?:;[\t\x20-\x7e\x80-\xff]*)?")


class _At(Enum):
    """What the next line is."""

    REQUEST = auto()
    FIELD = auto()
    CHUNK = auto()
    CHUNK_END = auto()
    TRAILER = auto()


class _Flaw(Exception):
    def __init__(self, status: int = 400) -> None:
        super().__init__(status)
        self.status = status


class Framing:
    """Follows the requests of one connection. `refused`: the status that ended it; None while all is well."""

    def __init__(self) -> None:
        self.refused: int | None = None
        self._at = _At.REQUEST
        self._held = b""  # the beginning of a line
        self._body = 0  # bytes that are still to come of a body or chunk
        self._spent = 0  # bytes of this head, of this body's chunk lines, or of its trailers
        self._fields = 0
        self._version = b""
        self._length: int | None = None
        self._chunked = False
        self._was_empty = False

    def feed(self, data: bytes) -> bytes:
        """What the parser may see of all that came until now: whole lines and bodies; at the first flaw POISON."""
        if self.refused is not None:
            return b""
        data, at = self._held + data, 0
        passed: list[bytes] = []
        try:
            while at < len(data):
                if self._body:
                    end = min(len(data), at + self._body)
                    self._body -= end - at
                else:
                    end = self._line_end(data, at)
                    if not end:
                        break
                    if not self._take(data[at : end - 2]):
                        at = end
                        continue
                passed.append(data[at:end])
                at = end
        except _Flaw as flaw:
            self.refused, self._held = flaw.status, b""
            return b"".join([*passed, POISON])
        self._held = data[at:]
        return b"".join(passed)

    def _line_end(self, data: bytes, at: int) -> int:
        """Where the line ends; 0 if its end is still to come."""
        if self._at is _At.REQUEST and data[at] not in _FIRST:
            raise _Flaw  # TLS, for instance: of which a line may never end
        end = data.find(b"\n", at) + 1
        self._weigh((end or len(data)) - at)
        if end and data[end - 2 : end] != b"\r\n":
            raise _Flaw
        return end

    def _weigh(self, size: int) -> None:
        match self._at:
            case _At.REQUEST | _At.FIELD:
                if self._spent + size > HEAD_BYTES_MAX:
                    raise _Flaw(431)
            case _At.CHUNK | _At.CHUNK_END:
                if size > CHUNK_LINE_BYTES_MAX or self._spent + size > CHUNK_FRAMES_BYTES_MAX:
                    raise _Flaw
            case _At.TRAILER:
                if self._spent + size > TRAILERS_BYTES_MAX:
                    raise _Flaw

    def _take(self, line: bytes) -> bool:
        """Whether the parser may see this line. Raises _Flaw."""
        self._spent += len(line) + 2
        match self._at:
            case _At.REQUEST:
                return self._take_request_line(line)
            case _At.FIELD if line:
                self._take_field(line)
            case _At.FIELD:
                self._begin_body()
            case _At.CHUNK:
                self._take_chunk(line)
            case _At.CHUNK_END:
                if line:
                    raise _Flaw
                self._at = _At.CHUNK
            case _At.TRAILER if line:
                if not _FIELD.fullmatch(line):
                    raise _Flaw
            case _At.TRAILER:
                self._end()
        return True

    def _take_request_line(self, line: bytes) -> bool:
        if not line and not self._was_empty:  # old clients send one line end too many behind a body (RFC 9112, 2.2)
            self._was_empty = True
            return False
        match = _REQUEST_LINE.fullmatch(line)
        if match is None or not _sound_target(match[1], match[2]):
            raise _Flaw
        self._version = match[3]
        self._at = _At.FIELD
        return True

    def _take_field(self, line: bytes) -> None:
        self._fields += 1
        if self._fields > HEADERS_MAX:
            raise _Flaw(431)
        match = _FIELD.fullmatch(line)
        if match is None:
            raise _Flaw
        value = match[2].strip(b" \t")
        match match[1].lower():
            case b"content-length":
                if self._length is not None or not _LENGTH.fullmatch(value):
                    raise _Flaw
                self._length = int(value)
            case b"transfer-encoding":
                if self._chunked or value.lower() != b"chunked" or self._version < b"1.1":
                    raise _Flaw
                self._chunked = True
            case b"host":
                if not _HOST.fullmatch(value):
                    raise _Flaw

    def _begin_body(self) -> None:
        if self._chunked and self._length is not None:
            raise _Flaw
        if self._chunked:
            self._at, self._spent = _At.CHUNK, 0
        else:
            self._body = self._length or 0
            self._end()

    def _take_chunk(self, line: bytes) -> None:
        match = _CHUNK.fullmatch(line)
        if match is None:
            raise _Flaw
        self._body = int(match[1], 16)
        if self._body:
            self._at = _At.CHUNK_END
        else:
            self._at, self._spent = _At.TRAILER, 0

    def _end(self) -> None:
        self._at = _At.REQUEST
        self._spent = self._fields = 0
        self._length, self._chunked, self._was_empty = None, False, False


def origin_form(target: bytes) -> tuple[bytes, bytes | None]:
    """Path and query of a request's target, and the host that it names itself, which then counts (RFC 9112, 3.2.2)."""
    match = _ABSOLUTE.fullmatch(target)
    if match is None:
        return target, None
    return match[2] if match[2].startswith(b"/") else b"/" + match[2], match[1]


def _sound_target(method: bytes, target: bytes) -> bool:
    """Whether this is a path, a URL, or the `*` of those methods that may have it. There are no tunnels here."""
    if method == b"CONNECT":
        return False
    if target == b"*":
        return method in (b"OPTIONS", b"PRI")
    return target.startswith(b"/") or _ABSOLUTE.fullmatch(target) is not None
