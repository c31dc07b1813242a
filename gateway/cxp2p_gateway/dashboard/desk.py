"""What every page needs: the people, the books, the network, and the templates."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from starlette.types import Scope

from cxp2p_gateway.asking import Door
from cxp2p_gateway.dashboard.live import Live
from cxp2p_gateway.dashboard.refusals import TITLES, Refused
from cxp2p_gateway.dashboard.rendering import ASSETS, PAGES
from cxp2p_gateway.dashboard.visits import Visit, visit_of
from cxp2p_gateway.exchange import Exchange
from cxp2p_gateway.faults import Base, Condition, Fault, Rendered, text_of
from cxp2p_gateway.key_ring import KeyRing
from cxp2p_gateway.origins import LOOPBACK, Network
from cxp2p_gateway.people import People, Signup
from cxp2p_gateway.store import Store

POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "style-src 'self'",
        "script-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "media-src blob:",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
SAFE: Final = (
    ("content-security-policy", POLICY),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("permissions-policy", "camera=(), microphone=(), geolocation=()"),
)
PRIVATE: Final = (("cache-control", "no-store"),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer."""

    status: int = 200
    body: bytes = b""
    kind: str = "text/html; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = (*SAFE, *PRIVATE)

    def also(self, headers: Sequence[tuple[str, str]]) -> Reply:
        """The same with more headers."""
        return replace(self, headers=(*self.headers, *headers))


def go(path: str) -> Reply:
    """Sends the browser to a page of ours, which it asks for by GET."""
    return Reply(status=303).also((("location", path),))


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """All that pages are made of. `network`: the live nodes now; `state`: this gateway, in words, for its admins."""

    people: People
    ring: KeyRing
    store: Store
    door: Door
    wall_ms: Callable[[], int]
    rng: Random
    network: Callable[[], Live] = Live
    state: Callable[[], dict[str, str]] = dict
    public_url: str = ""
    trusted: Sequence[Network] = LOOPBACK

    async def visit(self, exchange: Exchange, scope: Scope) -> Visit:
        """The visit that a request is, with who is logged in."""
        visit = visit_of(exchange, scope, self.public_url, self.trusted)
        visit.user = await self.people.visitor(visit.token)
        if visit.user is not None:
            exchange.notes["account"] = visit.user.id
        return visit

    def page(self, visit: Visit, template: str, *, status: int = 200, **words: object) -> Reply:
        """A page from its template."""
        return Reply(status=status, body=self._made(template, visit=visit, **words))

    def refusal_page(self, visit: Visit, refused: Refused) -> Reply:
        """The page that says no."""
        body = self._made(
            "refused.html",
            visit=visit,
            status=refused.status,
            title=TITLES.get(refused.status, "That did not work"),
            text=refused.text,
            wait_s=math.ceil(refused.retry_after_s),
        )
        reply = Reply(status=refused.status, body=body)
        if refused.retry_after_s:
            return reply.also((("retry-after", str(math.ceil(refused.retry_after_s))),))
        return reply

    def fault_page(self, fault: Fault, rendered: Rendered) -> Rendered:
        """The same for what the front itself refuses, and for bugs."""
        text = "The address is wrong, or what was here is gone."
        if fault.condition is not Condition.PATH_UNKNOWN:
            text = text_of(fault, Base.ROOT)
        title = TITLES.get(rendered.status, "That did not work")
        body = self._made("refused.html", visit=None, status=rendered.status, title=title, text=text, wait_s=0)
        kept = [(name, value) for name, value in rendered.headers if name not in ("content-type", "cache-control")]
        headers = [("content-type", "text/html; charset=utf-8"), *SAFE, *PRIVATE, *kept]
        return replace(rendered, headers=tuple(headers), body=body)

    def _made(self, template: str, **words: object) -> bytes:
        common = {
            "assets": ASSETS.names,
            "signup_open": self.people.rules.signup is Signup.OPEN,
            "now_ms": self.wall_ms(),
        }
        return PAGES.get_template(template).render({**common, **words}).encode()
