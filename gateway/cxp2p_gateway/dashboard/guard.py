"""Who may see a page and who may send a form: asked before anything of a request is read or done."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Final
from urllib.parse import quote

from starlette.types import Receive, Scope, Send

from cxp2p_gateway.asking import Caller
from cxp2p_gateway.dashboard.desk import Desk, Reply, go
from cxp2p_gateway.dashboard.refusals import Refused, logged_out, no_page, too_busy, too_often
from cxp2p_gateway.dashboard.visits import PROOF, PROOF_HEADER, VISIT, Visit, check_sender, read_form, set_cookie
from cxp2p_gateway.exchange import Exchange
from cxp2p_gateway.faults import Condition, Fault
from cxp2p_gateway.middleware import Endpoint, among, encoded
from cxp2p_gateway.origins import Crowd
from cxp2p_gateway.passwords import HashingBusy
from cxp2p_gateway.people import SignupClosed, TooOften
from cxp2p_gateway.tokens import new_token

VISIT_AGE_S: Final = 7200  # how long a log-in form may lie open

View = Callable[[Desk, Visit], Awaitable[Reply]]
"""Makes one page, or does what one form says. Raises Refused."""


class Who(Enum):
    """Whom a page is for."""

    ANYBODY = "anybody"
    MEMBER = "member"
    ADMIN = "admin"


class Guarded:
    """One page, or one form. `changes`: it is a form, let through only with the proof that our page sent it.

    `gives_proof`: it is a page with a form for people who are not logged in, and leaves a cookie that the proof is of.
    """

    def __init__(self, view: View, desk: Desk, who: Who, *, changes: bool = False, gives_proof: bool = False) -> None:
        self.view = view
        self.who = who
        self.changes = changes
        self._gives_proof = gives_proof
        self._desk = desk

    async def __call__(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        exchange.is_page = True
        exchange.as_page = self._desk.fault_page
        visit = await self._desk.visit(exchange, scope)
        try:
            reply = await self._reply(visit, receive)
        except Refused as refused:
            exchange.error_code = refused.code
            reply = self._desk.refusal_page(visit, refused)
        await send_reply(reply, send)

    async def _reply(self, visit: Visit, receive: Receive) -> Reply:
        if self.who is not Who.ANYBODY and visit.user is None:
            if self.changes:
                raise logged_out()
            return go("/login?next=" + quote(visit.exchange.path, safe=""))
        if self.who is Who.ADMIN and (visit.user is None or not visit.user.is_admin):
            raise no_page()
        if self.changes:
            visit.form = await read_form(visit.exchange, receive)
            check_sender(visit, visit.said(PROOF))
        headers: tuple[tuple[str, str], ...] = ()
        if self._gives_proof and visit.user is None and visit.visitor is None:
            visit.visitor = new_token(self._desk.rng.randbytes)
            headers = (set_cookie(VISIT, visit.visitor, visit.is_secure, VISIT_AGE_S),)
        try:
            reply = await self.view(self._desk, visit)
        except TooOften as error:
            raise too_often(error.retry_after_s) from None
        except HashingBusy:
            raise too_busy() from None
        except SignupClosed:
            raise Refused(403, "signup_closed", "Accounts are made by the operator of this gateway.") from None
        return reply.also(headers) if headers else reply


class Played:
    """A call of the API from the playground: with the session and the proof in a header instead of a key.

    It goes on the account's base key, within what the account has.
    """

    def __init__(self, endpoint: Endpoint, desk: Desk, crowd: Crowd) -> None:
        self._endpoint = endpoint
        self._desk = desk
        self._crowd = crowd

    async def __call__(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        exchange.is_page = True
        visit = await self._desk.visit(exchange, scope)
        try:
            if visit.user is None:
                raise logged_out()
            check_sender(visit, exchange.headers.get(PROOF_HEADER, ""))
        except Refused as refused:
            exchange.error_code = refused.code
            await send_reply(_as_json(refused), send)
            return
        key = await self._desk.people.base_key(visit.user.id)
        if key is None:
            raise Fault(Condition.KEY_INVALID)
        exchange.caller = Caller(account=key.account, key=key.id, kind=key.kind)
        with among(self._crowd, key.id):
            await self._endpoint(exchange, scope, receive, send)


def _as_json(refused: Refused) -> Reply:
    return Reply(status=refused.status, body=json.dumps({"error": refused.text}).encode(), kind="application/json")


async def send_reply(reply: Reply, send: Send) -> None:
    """Sends it."""
    pairs = [
        ("content-type", reply.kind),
        ("content-length", str(len(reply.body))),
        *reply.headers,
    ]
    await send({"type": "http.response.start", "status": reply.status, "headers": encoded(pairs)})
    await send({"type": "http.response.body", "body": reply.body})
