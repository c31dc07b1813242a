"""One HTTP request and its answer: its ids, and what becomes known of it on the way to the access log."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from random import Random, SystemRandom
from typing import Final
from urllib.parse import urlsplit

import trio
from starlette.types import Scope

from cxp2p.program import FIELDS
from cxp2p_gateway.asking import Caller
from cxp2p_gateway.faults import Base, Dialect, Fault, Rendered, base_of, dialect_of
from cxp2p_gateway.keys import without_keys

access_log = logging.getLogger("cxp2p.gateway.access")

CLIENT_GONE: Final = 499  # never sent: what the access log says of a client that left before its answer was complete
CLIENT_ID: Final = re.compile(r"[\x21-\x7e]{1,512}")  # OpenAI's rule for X-Client-Request-Id
TITLE_LENGTH_MAX: Final = 80
REFERER_LENGTH_MAX: Final = 200
LOGGED_LENGTH_MAX: Final = 200  # of a path, model or agent: a log line stays a line

_CROCKFORD: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_KEY: Final = "cxp2p.exchange"


AsPage = Callable[[Fault, Rendered], Rendered]
"""Makes of an error answer a page for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """Time and chance, as the front meets them. `now`: monotonic seconds; `wall_ms`: ms since the Unix epoch."""

    now: Callable[[], float] = trio.current_time
    wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    rng: Random = field(default_factory=SystemRandom)

    def new_id(self) -> str:
        """26 characters of Crockford's base 32, in the order of their making (ULID)."""
        return ulid(self.wall_ms(), self.rng)


@dataclass(slots=True, kw_only=True)
class Exchange:
    """What is known of one request so far. `status` 0: nothing was answered yet; `streaming`: events are being sent.

    `route`: the path's pattern under its base, once one was found. `answered_at`: when the status line was sent.
    `receipt`: SHA-256 of the last one that was signed for it, once there is one.
    `is_page`: it is for a person's browser, and no other site's script may read it; `as_page` shows faults there.
    """

    request_id: str
    client_request_id: str | None
    started_at: float
    method: str
    path: str
    headers: Mapping[str, str]
    base: Base
    dialect: Dialect
    caller: Caller | None = None
    route: str = ""
    is_page: bool = False
    as_page: AsPage | None = None
    status: int = 0
    answered_at: float | None = None
    bytes_out: int = 0
    streaming: bool = False
    last_event: Callable[[Mapping[str, str | None]], bytes | None] | None = None
    ended_at: float | None = None
    complete: bool = False
    gone: bool = False
    error_code: str | None = None
    receipt: str = ""
    notes: dict[str, str | int | bool] = field(default_factory=dict)

    def will_stream(self, streamed: bool) -> None:
        """That its answer is sent as it comes, or whole: the books keep that."""
        if self.caller is not None:
            self.caller = replace(self.caller, streamed=streamed)


def open_exchange(scope: Scope, outside: Outside) -> Exchange:
    """Starts the account of a request and leaves it in the ASGI scope, where `exchange_of` finds it."""
    headers: dict[str, str] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name.decode("latin-1").lower(), value.decode("latin-1").strip())
    base = base_of(scope["path"])
    client_id = headers.get("x-client-request-id", "")
    exchange = Exchange(
        request_id=f"req_{outside.new_id()}",
        client_request_id=client_id if CLIENT_ID.fullmatch(client_id) else None,
        started_at=outside.now(),
        method=scope.get("method", "GET"),
        path=scope["path"],
        headers=headers,
        base=base,
        dialect=dialect_of(headers, base),
    )
    scope[_KEY] = exchange
    return exchange


def exchange_of(scope: Scope) -> Exchange:
    """The exchange that an ASGI scope belongs to."""
    exchange = scope[_KEY]
    assert isinstance(exchange, Exchange)
    return exchange


def status_of(exchange: Exchange) -> int:
    """How a request ended: the status that was sent, or 499 for a client that left first."""
    return CLIENT_GONE if exchange.gone or not exchange.complete else exchange.status


def log_exchange(exchange: Exchange, now: float) -> None:
    """Writes the one line of the access log: JSON, no prompt, no answer, no key."""
    line: dict[str, str | int | bool | None] = {
        "request_id": exchange.request_id,
        "method": exchange.method,
        "path": exchange.path[:LOGGED_LENGTH_MAX],
        "status": status_of(exchange),
        "ms": round(((now if exchange.ended_at is None else exchange.ended_at) - exchange.started_at) * 1000),
        "bytes": exchange.bytes_out,
    }
    if exchange.status and exchange.status != line["status"]:
        line["status_sent"] = exchange.status
    optional = {
        "client_request_id": exchange.client_request_id,
        "account": exchange.caller.account if exchange.caller else None,
        "key": exchange.caller.key if exchange.caller else None,
        "error": exchange.error_code,
        "title": title_of(exchange.headers),
        "referer": site_of(exchange.headers),
        "agent": exchange.headers.get("user-agent", "")[:LOGGED_LENGTH_MAX],
        "retry": exchange.headers.get("x-stainless-retry-count", "")[:8],
    }
    line |= {name: value for name, value in optional.items() if value}
    line |= {
        name: value[:LOGGED_LENGTH_MAX] if isinstance(value, str) else value for name, value in exchange.notes.items()
    }
    said = {name: without_keys(value) if isinstance(value, str) else value for name, value in line.items()}
    access_log.info("%s", json.dumps(said, separators=(",", ":")), extra={FIELDS: {"event": "request", **said}})


def ulid(wall_ms: int, rng: Random) -> str:
    """48 bits of time and 80 of chance as 26 characters of Crockford's base 32 (github.com/ulid/spec)."""
    number = (wall_ms & (2**48 - 1)) << 80 | rng.getrandbits(80)
    return "".join(_CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))


def title_of(headers: Mapping[str, str]) -> str:
    """What a client calls itself in X-Title, without control characters and keys.

    Headers come as Latin-1; who writes more than ASCII mostly means UTF-8.
    """
    header = headers.get("x-title", "")
    with suppress(UnicodeDecodeError):
        header = header.encode("latin-1").decode()
    return without_keys(_CONTROL.sub("", header))[:TITLE_LENGTH_MAX].strip()


def site_of(headers: Mapping[str, str]) -> str:
    """The site that a client says it is from in HTTP-Referer, or that its browser says: no path, no query."""
    referer = headers.get("http-referer") or headers.get("referer", "")
    try:
        parts = urlsplit(referer)
        host = parts.hostname
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return ""
    if parts.scheme not in {"http", "https"} or not host:
        return ""
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}{port}"[:REFERER_LENGTH_MAX]
