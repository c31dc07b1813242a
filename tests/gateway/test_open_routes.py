"""No route of a whole gateway changes anything for who shows neither a key nor a session with its proof."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

from starlette.routing import Route

from cxp2p_gateway.app import Gateway, open_gateway
from cxp2p_gateway.config import GatewaySettings, HttpSettings
from cxp2p_gateway.http import Front
from cxp2p_gateway.middleware import Methods
from doors import Answer, ask

SAFE = {"GET", "HEAD", "OPTIONS"}
CHANGING = ("POST", "PUT", "PATCH", "DELETE", "PURGE")
REFUSED = {401, 403}
MADE_UP = "sk-cx-aaaaaaaa-" + "A" * 43
JSON = ("content-type", "application/json")
FORM = ("content-type", "application/x-www-form-urlencoded")
STRANGERS: dict[str, list[tuple[str, str]]] = {
    "nothing": [],
    "a key that was made up": [("authorization", f"Bearer {MADE_UP}")],
    "a session that was made up": [("cookie", f"session={MADE_UP}; cx_session={MADE_UP}; visit={MADE_UP}")],
    "another site": [("origin", "https://elsewhere.example"), ("sec-fetch-site", "cross-site")],
}
BODIES = [
    (
        JSON,
        b'{"model": "smollm2:135m", "messages": [], "name": "mine", "email": "a@b.example", "password": "hunter22"}',
    ),
    (FORM, b"email=a%40b.example&password=hunter22hunter22&name=mine&proof=x&csrf=x"),
]


@asynccontextmanager
async def whole_gateway(folder: Path) -> AsyncIterator[Gateway]:
    """A gateway with all its parts, as an operator starts it, alone in its network."""
    settings = GatewaySettings(data_path=folder / "gateway", http=HttpSettings(port=0))
    async with open_gateway(settings) as gateway:
        yield gateway


def kept(folder: Path) -> str:
    """All that the gateway's database holds."""
    with closing(sqlite3.connect(folder / "gateway" / "gateway.sqlite")) as database:
        return "\n".join(database.iterdump())


def served(front: Front) -> Iterator[tuple[str, str, bool]]:
    """Every path of every route with each method that may change something, and whether it is served."""
    for route in front.routes:
        assert isinstance(route, Route), f"what is {route!r}? A route that is not enumerated is not checked"
        assert isinstance(route.app, Methods)
        path = re.sub(r"\{[^}]*\}", "x", route.path)
        for method in sorted({*CHANGING, *route.app.endpoints} - SAFE):
            yield method, path, method in route.app.endpoints


async def refused(front: Front, method: str, path: str, headers: list[tuple[str, str]], body: bytes) -> Answer:
    return await ask(front, method, path, headers=headers, body=body, key=None)


async def test_no_stranger_changes_anything(tmp_path: Path) -> None:
    """Every route, every method, with every kind of nothing: 401 or 403, and not a byte of the database is another."""
    async with whole_gateway(tmp_path) as gateway:
        before = kept(tmp_path)
        assert gateway.first is not None
        assert gateway.first.user_id in before
        tried = set()
        for method, path, is_served in served(gateway.front):
            for name, headers in STRANGERS.items():
                for kind, body in BODIES:
                    answer = await refused(gateway.front, method, path, [*headers, kind], body)
                    expected = REFUSED if is_served else {405}
                    if is_served and answer.headers["content-type"].startswith("text/html") and kind is JSON:
                        expected = {*REFUSED, 400}  # a form that is none
                    assert answer.status in expected, f"{method} {path} with {name} got {answer.status}"
                    tried.add((method, path))
        assert ("POST", "/v1/chat/completions") in tried
        assert ("DELETE", "/api/v1/keys/x") in tried
        assert kept(tmp_path) == before


async def test_reading_changes_nothing(tmp_path: Path) -> None:
    """A GET of every path, by a stranger and with the key: the books stay as they are."""
    async with whole_gateway(tmp_path) as gateway:
        assert gateway.first is not None
        await ask(gateway.front, "GET", "/v1/models", key=gateway.first.key)  # notes once an hour that the key is used
        before = kept(tmp_path)
        paths = {re.sub(r"\{[^}]*\}", "x", route.path) for route in gateway.front.routes}
        for path in sorted(paths):
            for key in (None, gateway.first.key):
                answer = await ask(gateway.front, "GET", path, key=key)
                assert answer.status < 500 or path.endswith("/ready")
        assert kept(tmp_path) == before
