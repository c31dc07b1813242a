"""As much of an HTTP client as can load a server: connections that are kept, and requests that are made once."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import trio

READ_BYTES = 65_536
SHOWN_MAX = 300
CHUNKED = b"transfer-encoding: chunked"
LENGTH = b"content-length:"


class LoadError(Exception):
    """The server said something else than an answer. The text is the start of what it said."""


@dataclass(slots=True)
class Load:
    """What came of some seconds of load: the answers, and how long each took."""

    seconds: float = 0.0
    took_ms: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def per_s(self) -> float:
        return len(self.took_ms) / self.seconds


def request(url: str, headers: Mapping[str, str], body: Mapping[str, object]) -> bytes:
    """The bytes of a POST with a JSON body, on a connection that is kept."""
    place = urlsplit(url)
    data = json.dumps(body).encode()
    head = [f"POST {place.path} HTTP/1.1", f"Host: {place.netloc}"]
    head += [f"{name}: {value}" for name, value in headers.items()]
    head += ["Content-Type: application/json", f"Content-Length: {len(data)}", "", ""]
    return "\r\n".join(head).encode() + data


async def load(url: str, sent: bytes, at_once: int, seconds: float, events: int = 0) -> Load:
    """Asks the same again and again over `at_once` connections. `events`: how many an answer has at least."""
    result = Load()
    begun = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(at_once):
            nursery.start_soon(_ask_on, url, sent, begun + seconds, events, result)
    result.seconds = time.perf_counter() - begun
    return result


async def _ask_on(url: str, sent: bytes, until: float, events: int, result: Load) -> None:
    place = urlsplit(url)
    while time.perf_counter() < until:
        try:
            async with await trio.open_tcp_stream(place.hostname or "127.0.0.1", place.port or 80) as stream:
                while (begun := time.perf_counter()) < until:
                    await stream.send_all(sent)
                    check(await _answer(stream), events)
                    result.took_ms.append(1000 * (time.perf_counter() - begun))
        except (LoadError, OSError, trio.BrokenResourceError) as error:
            result.errors.append(str(error))
            if len(result.errors) > SHOWN_MAX:
                raise


async def _answer(stream: trio.SocketStream) -> bytes:
    data = bytearray()
    while not _is_whole(data):
        more = await stream.receive_some(READ_BYTES)
        if not more:
            raise LoadError(f"the connection ended: {bytes(data[:SHOWN_MAX])!r}")
        data += more
    return bytes(data)


def _is_whole(data: bytearray) -> bool:
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return False
    head = bytes(data[:end]).lower()
    if CHUNKED in head:
        return data.endswith(b"0\r\n\r\n")
    length = next((line for line in head.split(b"\r\n") if line.startswith(LENGTH)), None)
    if length is None:
        raise LoadError(f"an answer without a length: {head[:SHOWN_MAX]!r}")
    return len(data) >= end + 4 + int(length[len(LENGTH) :])


def check(answer: bytes, events: int) -> None:
    """Raises LoadError if an answer is none: another status than 200, or fewer events than there must be."""
    if not answer.startswith(b"HTTP/1.1 200"):
        raise LoadError(answer[:SHOWN_MAX].decode(errors="replace"))
    if events and (answer.count(b"data: ") < events or b"data: [DONE]" not in answer):
        raise LoadError(f"{answer.count(b'data: ')} events, not {events}")
