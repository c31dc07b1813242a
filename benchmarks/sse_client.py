"""As little of an HTTP client as can stream chats: what it costs itself must not hide what is measured."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import trio

FAULT_CHARS_MAX = 300


class AnswerError(Exception):
    """The server said something else than an answer. The text is the end of what it said."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One streamed answer: its tokens by the server's own count, and the seconds to its first text and to its end."""

    tokens: int
    first_s: float
    whole_s: float


async def ask(base_url: str, headers: Mapping[str, str], body: Mapping[str, object]) -> Answer:
    """One streamed chat completion over a connection of its own. Raises AnswerError, OSError."""
    place = urlsplit(base_url)
    data = json.dumps({**body, "stream": True, "stream_options": {"include_usage": True}}).encode()
    head = [f"POST {place.path}/chat/completions HTTP/1.1", f"Host: {place.netloc}", "Connection: close"]
    head += [f"{name}: {value}" for name, value in headers.items()]
    head += ["Content-Type: application/json", f"Content-Length: {len(data)}", "", ""]
    begun = time.perf_counter()
    stream = await trio.open_tcp_stream(place.hostname or "127.0.0.1", place.port or 80)
    async with stream:
        await stream.send_all("\r\n".join(head).encode() + data)
        reader = _Reader(begun)
        while chunk := await stream.receive_some():
            reader.feed(chunk)
    return reader.answer()


class _Reader:
    """Reads the chunked answer line by line, and parses only the lines that matter."""

    def __init__(self, begun: float) -> None:
        self._begun = begun
        self._rest = b""
        self._said = b""
        self._tokens = 0
        self._first_s = 0.0
        self._done = False

    def feed(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._said = (self._said + data)[-FAULT_CHARS_MAX:]
        for line in lines:
            if not self._first_s and b'"content":"' in line.replace(b" ", b"") and b'"content":""' not in line:
                self._first_s = time.perf_counter() - self._begun
            if b'"usage":{' in line.replace(b" ", b""):
                self._tokens = json.loads(line[line.index(b"{") :])["usage"]["completion_tokens"]
            self._done |= line.startswith(b"data: [DONE]")

    def answer(self) -> Answer:
        """Raises AnswerError if the answer did not come to its end."""
        if not self._done or not self._tokens:
            raise AnswerError(self._said.decode(errors="replace"))
        return Answer(self._tokens, self._first_s, time.perf_counter() - self._begun)
