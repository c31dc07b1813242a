"""A front with an account that has keys, for tests of what its owner may ask."""

from __future__ import annotations

from typing import Any

from cxp2p_gateway.asking import Caller
from cxp2p_gateway.keys import Key, Kind, Terms
from cxp2p_gateway.store.rows import Use
from doors import KEY, MemoryDoor, ask, front
from test_openapi import validator

ACCOUNT = "account-1"
VIRTUAL = "sk-cx-virtual"
BASE_KEY = Key(id="abcd2345", account=ACCOUNT, digest=b"d" * 32, created_at_ms=1_600_000_000_000)

Refused = tuple[int, str, str | None, str]


class Shop:
    """A front with an account that has a base key; `virtual` makes one more, and a way in with it."""

    def __init__(self) -> None:
        self.door = MemoryDoor()
        self.door.keys[KEY] = (Caller(account=ACCOUNT, key=BASE_KEY.id), "user-1")
        self.app = front(self.door)

    async def open(self, credit: int = 10_000_000) -> Shop:
        await self.door.books.put_key(BASE_KEY)
        await self.door.books.grant("g", ACCOUNT, credit)
        return self

    async def virtual(self, **terms: Any) -> str:
        key = (await self.door.ring.make(ACCOUNT, Terms(**terms))).key
        caller = Caller(account=ACCOUNT, key=key.id, kind=Kind.VIRTUAL, services=key.services, models=key.models)
        self.door.keys[VIRTUAL] = (caller, "user-1")
        return key.id

    async def ask(self, method: str, path: str, body: Any = b"", key: str = KEY, base: str = "/v1") -> Any:
        """The body of an answer that must be 200."""
        answer = await ask(self.app, method, base + path, body=body, key=key)
        assert answer.status == 200, answer.body
        return answer.json()

    async def refused(self, method: str, path: str, body: Any = b"", key: str = KEY) -> Refused:
        """Status, code, parameter and text of an answer that must not be."""
        answer = await ask(self.app, method, "/v1" + path, body=body, key=key)
        validator("Error").validate(answer.json())
        error = answer.json()["error"]
        return answer.status, error["code"], error["param"], error["message"]

    async def use(self, key: str, day: str, charge: int, **changes: Any) -> None:
        counted = {"requests": 1, "in_units": 3, "out_units": 4}
        fields: dict[str, Any] = {"service": "chat", "model": "m", "app": "", **counted}
        use = Use(account=ACCOUNT, day=day, key=key, charge=charge, **{**fields, **changes})
        await self.door.books.do(lambda tables: tables.add_use(use))
