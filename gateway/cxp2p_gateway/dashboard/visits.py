"""One request of a browser: who it is from, what its form says, and whether the form is ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qs, parse_qsl, urlsplit

import trio
from starlette.types import Receive, Scope

from cxp2p_gateway.dashboard.refusals import Refused, forged, unreadable
from cxp2p_gateway.exchange import Exchange
from cxp2p_gateway.middleware import ClientGone
from cxp2p_gateway.origins import Network, origin_of
from cxp2p_gateway.store.rows import User
from cxp2p_gateway.tokens import is_proof, is_token, proof_of

FORM_BYTES_MAX: Final = 64 * 1024
FORM_FIELDS_MAX: Final = 100
FORM_WAIT_S: Final = 30.0
PAGES_MAX: Final = 4000  # of one list
SESSION: Final = "cx_session"
VISIT: Final = "cx_visit"
PROOF: Final = "proof"  # the form's field
PROOF_HEADER: Final = "x-form-proof"


@dataclass(slots=True, kw_only=True)
class Visit:
    """Who asks, and for what. `token`: of a session, None if nobody is logged in; `visitor`: of one who is not yet.

    `place`: the address that attempts are counted for; `own`: how the browser reaches this gateway, scheme and host.
    """

    exchange: Exchange
    query: Mapping[str, Sequence[str]]
    params: Mapping[str, str]
    place: str | None
    own: str
    token: str | None = None
    visitor: str | None = None
    user: User | None = None
    form: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def is_secure(self) -> bool:
        """Whether the browser speaks https."""
        return self.own.startswith("https://")

    @property
    def proof(self) -> str:
        """What this visit's forms carry."""
        holder = self.token if self.user is not None else self.visitor
        return proof_of(holder) if holder else ""

    def proves(self, proof: str) -> bool:
        """Whether `proof` is of a page that this browser was given."""
        holder = self.token if self.user is not None else self.visitor
        return holder is not None and is_proof(proof, holder)

    def said(self, name: str) -> str:
        """What the form says in a field; "" for nothing."""
        return next(iter(self.form.get(name, ())), "")

    def asked(self, name: str) -> str:
        """What the address says under a name; "" for nothing."""
        return next(iter(self.query.get(name, ())), "")

    @property
    def page_number(self) -> int:
        """Which page of a long list is asked for, from 1 to PAGES_MAX; the first for anything else."""
        asked = self.asked("page")
        return int(asked) if asked.isascii() and asked.isdigit() and 0 < int(asked[:6]) <= PAGES_MAX else 1


def visit_of(exchange: Exchange, scope: Scope, public_url: str, trusted: Sequence[Network]) -> Visit:
    """The visit that a request is, before anybody knows who it is from. `public_url`: "" if it is not set."""
    peer = (scope.get("client") or [None])[0]
    forwarded = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
    is_proxied = peer is None or origin_of(peer, (), trusted) is None
    scheme = exchange.headers.get("x-forwarded-proto", "").lower() if is_proxied else ""
    scheme = scheme if scheme in ("http", "https") else scope.get("scheme", "http")
    own = public_url.rstrip("/") or f"{scheme}://{exchange.headers.get('host', '')}"
    cookies = _cookies(exchange.headers.get("cookie", ""))
    is_secure = own.startswith("https://")
    token, visitor = (cookies.get(cookie_name(name, is_secure)) for name in (SESSION, VISIT))
    return Visit(
        exchange=exchange,
        query=parse_qs(scope.get("query_string", b"").decode("latin-1"), errors="replace"),
        params=scope.get("path_params", {}),
        place=origin_of(peer, forwarded, trusted),
        own=own,
        token=token if is_token(token) else None,
        visitor=visitor if is_token(visitor) else None,
    )


def cookie_name(name: str, is_secure: bool) -> str:
    """A name that no other host and no plain http can set, where the browser speaks https."""
    return f"__Host-{name}" if is_secure else name


def set_cookie(name: str, value: str, is_secure: bool, age_s: int) -> tuple[str, str]:
    """The header that keeps a cookie, out of reach of scripts and other sites; `age_s` 0 drops it."""
    secure = "; Secure" if is_secure else ""
    cookie = f"{cookie_name(name, is_secure)}={value}; Path=/; Max-Age={age_s}; HttpOnly; SameSite=Lax{secure}"
    return ("set-cookie", cookie)


def _cookies(header: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in header.split(";"):
        name, _, value = part.strip().partition("=")
        found.setdefault(name, value)
    return found


def check_sender(visit: Visit, proof: str) -> None:
    """Raises Refused if a request that changes something may have been made by another site."""
    headers = visit.exchange.headers
    origin = headers.get("origin")
    ours = {visit.own, f"{visit.own.partition(':')[0]}://{headers.get('host', '')}"}
    if origin is not None and _place(origin) not in {_place(each) for each in ours}:
        raise forged()
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise forged()
    if not visit.proves(proof):
        raise forged()


def _place(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


async def read_form(exchange: Exchange, receive: Receive) -> dict[str, list[str]]:
    """The fields of a form, each with all it says. Raises Refused, or ClientGone."""
    kind = exchange.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise unreadable()
    body = bytearray()
    with trio.move_on_after(FORM_WAIT_S) as patience:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            body += message.get("body", b"")
            if len(body) > FORM_BYTES_MAX:
                raise Refused(413, "payload_too_large", f"A form has at most {FORM_BYTES_MAX} bytes.")
            if not message.get("more_body", False):
                break
    if patience.cancelled_caught:
        raise Refused(408, "request_timeout", "The form did not arrive in time.")
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=FORM_FIELDS_MAX)
    except ValueError:
        raise unreadable() from None
    form: dict[str, list[str]] = {}
    for name, value in pairs:
        form.setdefault(name, []).append(value)
    return form
