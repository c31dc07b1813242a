"""Server-sent events as bytes (WHATWG HTML, section 9.2): what an event, a comment and the headers look like."""

from __future__ import annotations

from typing import Final

HEADERS: Final = (
    ("content-type", "text/event-stream; charset=utf-8"),
    ("cache-control", "no-cache, no-transform"),
    ("x-accel-buffering", "no"),
)
KEEP_ALIVE: Final = b": keep-alive\n\n"

# JSON leaves these as they are, and clients that split decoded text into lines (httpx does) would break events there.
_LINE_ENDS: Final = {"\x85": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def event(data: str) -> bytes:
    """One event. `data`: JSON text on one line."""
    return f"data: {one_line(data)}\n\n".encode()


def one_line(data: str) -> str:
    """JSON text with no character left in it that some client takes for the end of a line."""
    for character, escape in _LINE_ENDS.items():
        data = data.replace(character, escape)
    return data
