"""A browser without a screen, in memory, and the dashboard that it looks at."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any
from urllib.parse import urlencode

import trio

from cxp2p_gateway.accounts import Accounts
from cxp2p_gateway.dashboard.desk import Desk
from cxp2p_gateway.dashboard.live import Live, NodeRow
from cxp2p_gateway.dashboard.routes import Dashboard
from cxp2p_gateway.exchange import Outside
from cxp2p_gateway.http import Front, make_app
from cxp2p_gateway.key_ring import KeyRing
from cxp2p_gateway.passwords import Argon2
from cxp2p_gateway.people import People, PeopleRules, Signup
from cxp2p_gateway.store import Store
from cxp2p_gateway.store.memory import MemoryTables, memory_store
from doors import Answer, MemoryDoor, ask

HOST = "gateway.example"
EMAIL = "ada@example.org"
PASSWORD = "correct horse battery"
START_MS = 1_790_000_000_000
OPEN = PeopleRules(signup=Signup.OPEN, signup_credit=1_000_000_000, referral_credit=5_000_000)
LIVE = Live(
    nodes=2,
    models=3,
    running=1,
    units_per_s=42,
    first_piece_ms=120,
    rows=(
        NodeRow(
            peer="12D3KooWAbCdEfGhIjKlMnOpQrStUvWxYz",
            agent="cxp2p/0.1.0",
            owner="",
            models=("smollm2:135m", "all-minilm-l6-v2"),
            running=1,
            queued=0,
            slots=4,
            found_via="dht",
        ),
    ),
)


@dataclass
class House:
    """A gateway with a dashboard, in memory. `wall_ms` moves when a test says so."""

    door: MemoryDoor = field(default_factory=MemoryDoor)
    rules: PeopleRules = OPEN
    public_url: str = ""
    live: Live = LIVE
    wall_ms: int = START_MS
    tables: MemoryTables = field(default_factory=MemoryTables)
    store: Store = field(init=False)
    people: People = field(init=False)
    accounts: Accounts = field(init=False)
    ring: KeyRing = field(init=False)
    front: Front = field(init=False)

    def __post_init__(self) -> None:
        rng = Random(7)
        self.store = memory_store(lambda: self.wall_ms, self.tables)
        self.accounts = Accounts(self.store, lambda: self.wall_ms)
        self.ring = KeyRing(self.accounts, self.store, lambda: self.wall_ms, rng)
        self.people = People(
            self.store,
            self.accounts,
            Argon2(memory_kib=64, passes=1),
            self.rules,
            now=trio.current_time,
            wall_ms=lambda: self.wall_ms,
            rng=rng,
        )
        desk = Desk(
            people=self.people,
            ring=self.ring,
            store=self.store,
            door=self.door,
            wall_ms=lambda: self.wall_ms,
            rng=rng,
            network=lambda: self.live,
            state=lambda: {"Version": "0.1.0"},
            public_url=self.public_url,
        )
        outside = Outside(wall_ms=lambda: self.wall_ms, rng=Random(1))
        self.front = make_app(self.door, outside=outside, dashboard=Dashboard(desk))


@dataclass
class Browser:
    """Keeps cookies and sends forms as a browser does. `origin`: whose page it says that it is on."""

    house: House
    origin: str = f"http://{HOST}"
    cookies: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)

    async def ask(self, method: str, path: str, body: Any = b"", **headers: str) -> Answer:
        sent = {"host": HOST, "accept": "text/html", **self.headers}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        if self.cookies:
            sent["cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        answer = await ask(self.house.front, method, path, headers=sent, body=body, key=None)
        for name, value in answer.raw_headers:
            if name == b"set-cookie":
                self._keep(value.decode())
        return answer

    async def get(self, path: str) -> Answer:
        return await self.ask("GET", path)

    async def post(self, path: str, fields: Mapping[str, Any], **headers: str) -> Answer:
        """Sends fields as a form, as they are."""
        body = urlencode(fields, doseq=True).encode()
        headers = {"content_type": "application/x-www-form-urlencoded", "origin": self.origin, **headers}
        return await self.ask("POST", path, body, **headers)

    async def send(self, page: str, path: str, **fields: Any) -> Answer:
        """Loads `page`, and sends its form for `path` with what is hidden in it."""
        loaded = await self.get(page)
        assert loaded.status == 200, loaded.status
        return await self.post(path, {**hidden(loaded, path), **fields})

    async def sign_up(self, email: str = EMAIL, password: str = PASSWORD, ref: str = "") -> Answer:
        return await self.send(f"/signup?ref={ref}" if ref else "/signup", "/signup", email=email, password=password)

    async def log_in(self, email: str = EMAIL, password: str = PASSWORD) -> Answer:
        return await self.send("/login", "/login", email=email, password=password)

    def _keep(self, header: str) -> None:
        name, _, rest = header.partition("=")
        value, _, attributes = rest.partition(";")
        if "Max-Age=0" in attributes:
            self.cookies.pop(name, None)
        else:
            self.cookies[name] = value


def text_of(answer: Answer) -> str:
    """The page's source."""
    return answer.body.decode()


def hidden(answer: Answer, path: str) -> dict[str, str]:
    """What is hidden in the page's form for `path`."""
    found = re.search(rf'<form[^>]*action="{re.escape(path)}(?:#\w+)?"[^>]*>(.*?)</form>', text_of(answer), re.DOTALL)
    assert found is not None, f"no form for {path}"
    fields = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', found[1])
    return {name: html.unescape(value) for name, value in fields}


def key_in(answer: Answer) -> str:
    """The key that a page shows."""
    found = re.findall(r"sk-cx-[a-z2-7]{8}-[A-Za-z0-9_-]{43}", text_of(answer))
    assert len(found) == 1, found
    return str(found[0])
