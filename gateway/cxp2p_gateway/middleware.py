"""Pure ASGI layers round the routes: the account of each exchange, its faults, CORS, limits, and who may come in."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

import trio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cxp2p_gateway import sse
from cxp2p_gateway.asking import Caller, Door
from cxp2p_gateway.exchange import Exchange, Outside, exchange_of, open_exchange, site_of, title_of
from cxp2p_gateway.faults import Condition, Fault, error_object, render
from cxp2p_gateway.framing import HEADERS_MAX
from cxp2p_gateway.origins import Crowd, Crowds, origin_of
from cxp2p_gateway.rate_headers import rate_headers
from cxp2p_gateway.rates import Counted, Rate
from cxp2p_gateway.store import StoreUnavailable

log = logging.getLogger("cxp2p.gateway.http")

HEADERS_BYTES_MAX: Final = 64 * 1024
HTTP_OK: Final = 200
HTTP_VERSIONS: Final = ("1.0", "1.1")

ALLOWED_HEADERS: Final = (
    "Authorization",
    "Content-Type",
    "X-User-Id",
    "X-Title",
    "HTTP-Referer",
    "X-Client-Request-Id",
    "X-Cx-Metadata",
    "X-Error-Format",
    "OpenAI-Beta",
    "OpenAI-Organization",
    "OpenAI-Project",
)
STAINLESS_HEADERS: Final = tuple(
    f"x-stainless-{part}"
    for part in (
        "arch",
        "async",
        "helper-method",
        "lang",
        "os",
        "package-version",
        "read-timeout",
        "retry-count",
        "runtime",
        "runtime-version",
        "timeout",
    )
)
EXPOSED_HEADERS: Final = (
    "x-request-id",
    "x-client-request-id",
    "retry-after",
    *(f"x-ratelimit-{what}-{of}" for of in ("requests", "tokens") for what in ("limit", "remaining", "reset")),
    "x-cx-generation-id",
    "x-cx-receipt",
    "x-cx-receipt-url",
    "x-cx-processing-ms",
    "x-cx-voice",
    "x-cx-audio-seconds",
    "x-cx-sample-rate",
    "x-error-code",
    "x-error-type",
)
PREFLIGHT_AGE_S: Final = 86_400

Endpoint = Callable[[Exchange, Scope, Receive, Send], Awaitable[None]]
"""Answers one request. Raises Fault."""


RatesOf = Callable[[Caller], Mapping[Counted, Rate]]

Ended = Callable[[Exchange, float], None]
"""Is told of a request that has ended, and when: for the access log and the metrics."""


class ClientGone(Exception):
    """The client left before the request was whole, or before its answer was."""


class Accounted:
    """Gives every request an exchange and every answer its common headers; tells `ended` of each.

    `rates`: where those of a caller's key stand.
    """

    def __init__(self, app: ASGIApp, outside: Outside, closing: trio.Event, ended: Ended, rates: RatesOf) -> None:
        self._app = app
        self._rates = rates
        self._ended = ended
        self._outside = outside
        self._closing = closing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = open_exchange(scope, self._outside)
        now = self._outside.now

        async def observed(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                exchange.answered_at = now()
                headers = [*message["headers"], *common_headers(exchange, now())]
                if exchange.caller is not None:
                    headers += encoded(rate_headers(self._rates(exchange.caller)))
                if self._closing.is_set() and not any(name == b"connection" for name, _ in headers):
                    headers.append((b"connection", b"close"))
                message = {**message, "headers": headers}
            elif message["type"] == "http.response.body":
                if exchange.method == "HEAD":
                    message = {**message, "body": b""}
                exchange.bytes_out += len(message.get("body", b""))
                if not message.get("more_body", False):
                    exchange.ended_at = now()
            await send(message)
            exchange.complete = exchange.ended_at is not None

        try:
            await self._app(scope, receive, observed)
        finally:
            self._ended(exchange, now())


class Faults:
    """Turns what was raised into an error answer, or into the last event of a stream that had begun.

    The gateway's outermost handler: what is not a Fault is a bug, logged by its place and type. Its message is not,
    because it may quote a prompt.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = exchange_of(scope)
        try:
            await self._app(scope, receive, send)
            return
        except ClientGone:
            exchange.gone = True
            return
        except Fault as error:
            fault = error
        except StoreUnavailable as error:
            log.error("%s waits for the database: %s", exchange.request_id, error)
            fault = Fault(Condition.BOOKS_AWAY)
        except Exception as error:  # noqa: BLE001  # the gateway's outermost handler: what gets here is a bug
            log.error("bug in %s: %s", exchange.request_id, place_of(error))
            fault = Fault(Condition.BUG, None, {"request_id": exchange.request_id})
        exchange.error_code = render(fault, exchange.dialect, exchange.base).code
        if not exchange.status:
            await send_fault(exchange, fault, send)
        elif exchange.streaming and not exchange.complete:
            await _send_last_event(exchange, fault, send)


class Gate:
    """Answers what needs no route: preflights, oversized headers, too much from one address behind a proxy, and
    everything while the gateway shuts down.
    """

    def __init__(self, app: ASGIApp, closing: trio.Event, crowds: Crowds) -> None:
        self._app = app
        self._closing = closing
        self._crowds = crowds
        self._running: set[trio.CancelScope] = set()

    @property
    def running(self) -> int:
        """Requests that run."""
        return len(self._running)

    def cut(self) -> None:
        """Ends every request that still runs, with the error that the gateway shuts down."""
        for each in self._running:
            each.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = exchange_of(scope)
        size = len(scope.get("raw_path", b"")) + len(scope.get("query_string", b""))
        if size + sum(len(name) + len(value) + 4 for name, value in scope["headers"]) > HEADERS_BYTES_MAX:
            raise Fault(Condition.HEADERS_TOO_LARGE, None, {"limit": HEADERS_BYTES_MAX, "count": HEADERS_MAX})
        if scope["http_version"] not in HTTP_VERSIONS:
            raise Fault(Condition.HTTP_VERSION)
        if exchange.method == "OPTIONS":
            await send_empty(204, preflight_headers(exchange.headers), send)
            return
        if self._closing.is_set():
            raise Fault(Condition.SHUTTING_DOWN)
        origin = self._forwarded_from(scope)
        if self._crowds.forwarded.is_full(origin):
            raise Fault(Condition.ADDRESS_CROWDED)
        running = trio.CancelScope()
        self._running.add(running)
        try:
            with running, self._crowds.forwarded.one_more(origin):
                await self._app(scope, receive, send)
        finally:
            self._running.discard(running)
        if running.cancelled_caught:
            raise Fault(Condition.SHUTTING_DOWN)

    def _forwarded_from(self, scope: Scope) -> str | None:
        """Whom a trusted proxy asks for; None if a client asks itself: its connections are counted already."""
        peer = (scope.get("client") or [None])[0]
        headers = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
        trusted = self._crowds.rules.trusted_proxies
        if not headers or origin_of(peer, (), trusted) is not None:
            return None
        return origin_of(peer, headers, trusted)


class Methods:
    """One path: which endpoint serves which method. A GET also serves HEAD. `path` is what requests are counted by."""

    def __init__(self, **endpoints: Endpoint) -> None:
        self.endpoints = endpoints
        self.path = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = exchange_of(scope)
        exchange.route = self.path
        endpoint = self.endpoints.get("GET" if exchange.method == "HEAD" else exchange.method)
        if endpoint is None:
            allowed = [*self.endpoints, *(["HEAD"] if "GET" in self.endpoints else []), "OPTIONS"]
            raise Fault(Condition.METHOD_UNKNOWN, None, {"allow": ", ".join(allowed)})
        await endpoint(exchange, scope, receive, send)


class Admitted:
    """Lets a request through to its endpoint only with a valid key, before any of its body is read.

    `crowd` counts the requests that run with each key.
    """

    def __init__(self, endpoint: Endpoint, door: Door, crowd: Crowd) -> None:
        self._endpoint = endpoint
        self._door = door
        self._crowd = crowd

    async def __call__(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        if sum(name.lower() == b"authorization" for name, _ in scope["headers"]) != 1:
            raise Fault(Condition.KEY_MISSING)
        token = bearer_token(exchange.headers["authorization"])
        if token is None:
            raise Fault(Condition.KEY_MISSING)
        user_id = exchange.headers.get("x-user-id") or None
        caller = await self._door.authenticate(token, user_id)
        if caller is None:
            raise Fault(Condition.KEY_INVALID)
        exchange.caller = replace(caller, app=title_of(exchange.headers), origin=site_of(exchange.headers))
        with among(self._crowd, caller.key):
            await self._endpoint(exchange, scope, receive, send)


@contextmanager
def among(crowd: Crowd, key: str) -> Iterator[None]:
    """One more request with this key, until the block ends. Raises Fault if it is one too many."""
    if crowd.is_full(key):
        raise Fault(Condition.RATE_LIMITED, None, {"limit": f"{crowd.each_max} requests at once"})
    with crowd.one_more(key):
        yield


def bearer_token(authorization: str) -> str | None:
    """The token of `Bearer <token>`: the scheme in any case, the token with spaces and all; None if garbled."""
    scheme, _, token = authorization.partition(" ")
    token = token.strip()
    return token if scheme.lower() == "bearer" and token else None


def common_headers(exchange: Exchange, now: float) -> list[tuple[bytes, bytes]]:
    """The headers that stand on every answer."""
    headers = [
        ("x-request-id", exchange.request_id),
        ("x-cx-processing-ms", str(round((now - exchange.started_at) * 1000))),
    ]
    if not exchange.is_page:
        headers.append(("access-control-allow-origin", "*"))
        headers.append(("access-control-expose-headers", ", ".join(EXPOSED_HEADERS)))
    if "generation" in exchange.notes and exchange.status == HTTP_OK:
        headers.append(("x-cx-receipt-url", f"{exchange.base.value}/receipts/{exchange.notes['generation']}"))
    if exchange.receipt:
        headers.append(("x-cx-receipt", exchange.receipt))
    if exchange.client_request_id is not None:
        headers.append(("x-client-request-id", exchange.client_request_id))
    return encoded(headers)


def preflight_headers(asked: Mapping[str, str]) -> list[tuple[str, str]]:
    """What a browser is told before it sends: the documented headers, and every `x-stainless-*` it asks for."""
    allowed = [*ALLOWED_HEADERS, *STAINLESS_HEADERS]
    known = {name.lower() for name in allowed}
    for name in asked.get("access-control-request-headers", "").lower().split(","):
        name = name.strip()
        if name.startswith("x-stainless-") and name.isascii() and name.replace("-", "").isalnum() and name not in known:
            allowed.append(name)
    return [
        ("access-control-allow-methods", "GET, HEAD, POST, PATCH, DELETE, OPTIONS"),
        ("access-control-allow-headers", ", ".join(allowed)),
        ("access-control-max-age", str(PREFLIGHT_AGE_S)),
        ("vary", "Access-Control-Request-Headers"),
    ]


def encoded(headers: Sequence[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """Header pairs as ASGI wants them."""
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]


async def send_empty(status: int, headers: Sequence[tuple[str, str]], send: Send) -> None:
    """Sends an answer without a body."""
    await send({"type": "http.response.start", "status": status, "headers": encoded(headers)})
    await send({"type": "http.response.body", "body": b""})


async def send_json(body: object, send: Send, headers: Sequence[tuple[str, str]] = ()) -> None:
    """Sends a 200 with a JSON body, as UTF-8."""
    data = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    pairs = [("content-type", "application/json"), ("content-length", str(len(data))), *headers]
    await send({"type": "http.response.start", "status": 200, "headers": encoded(pairs)})
    await send({"type": "http.response.body", "body": data})


async def send_fault(exchange: Exchange, fault: Fault, send: Send) -> None:
    """Sends an error answer in the dialect of the exchange, or as a page."""
    answer = render(fault, exchange.dialect, exchange.base)
    if exchange.as_page is not None:
        answer = exchange.as_page(fault, answer)
    headers = [*answer.headers, ("content-length", str(len(answer.body)))]
    await send({"type": "http.response.start", "status": answer.status, "headers": encoded(headers)})
    await send({"type": "http.response.body", "body": answer.body})


async def _send_last_event(exchange: Exchange, fault: Fault, send: Send) -> None:
    """Ends a stream with an error event and without [DONE]: it must not look finished."""
    error = error_object(fault, exchange.base)
    data = exchange.last_event(error) if exchange.last_event is not None else None
    if data is None:
        event: dict[str, object] = {"error": error}
        if "generation" in exchange.notes:
            event["id"] = exchange.notes["generation"]
        data = sse.event(json.dumps(event, separators=(",", ":")))
    await send({"type": "http.response.body", "body": data})


def place_of(error: BaseException) -> str:
    """Type and source lines of an error and of all it holds, without its message."""
    lines = [type(error).__name__, "\n", *traceback.format_tb(error.__traceback__)]
    if isinstance(error, BaseExceptionGroup):
        lines += [place_of(inner) for inner in error.exceptions]
    return "".join(lines)
