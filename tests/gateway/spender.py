"""A process that spends credit in a loop until it is killed: `python spender.py PLACE ROUND [POINT TIMES]`.

PLACE is a file or a URL of PostgreSQL. Says `held ID`, `settled ID CHARGE`, `voided ID`, `broken ID` or
`late ID CHARGE` on standard output after each call was answered. With a POINT it kills itself when it has come there
so many times.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import trio
from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.engine.default import DefaultDialect

from cxp2p.errors import InsufficientCredit
from cxp2p.ledger import NETWORK
from cxp2p_gateway.keys import Key
from cxp2p_gateway.limits import Demand
from cxp2p_gateway.spending import Reset
from cxp2p_gateway.store import Generation, Store, postgres, sqlite
from cxp2p_gateway.store.claims import ClaimBooks
from cxp2p_gateway.store.orders import Arrived
from cxp2p_gateway.store.rows import SentOrder, User

ACCOUNT = "user_1"
AT_ONCE = 8
GRANT = 1_000_000
KEYS = tuple(
    Key(id=name, account=ACCOUNT, digest=b"", created_at_ms=0, spend_limit=2**60, spend_reset=reset, rpm=rpm, tpm=10**9)
    for name, reset, rpm in (("daily", Reset.DAILY, None), ("never", Reset.NEVER, 10**6))
)
WRITTEN = {  # in reserve, settle and settle_late
    "order written": "INSERT INTO orders",
    "hold written": "INSERT INTO holds",
    "transfer written": "INSERT INTO transfers",
    "receipt written": "INSERT INTO generations",
    "use written": "INSERT INTO uses",
    "budget written": "INSERT INTO budgets",
    "rate written": "INSERT INTO rates",
    "order forgotten": "DELETE FROM orders",
}
POINTS = (*WRITTEN, "before commit", "after commit", "hold answered")


@dataclass
class Death:
    """Where this process ends."""

    point: str
    times: int

    def come(self, point: str) -> None:
        if point == self.point:
            self.times -= 1
            if self.times == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def wait_in_database(self) -> None:
        """Sees every statement, and both sides of every commit."""
        commit: Callable[[DefaultDialect, Any], None] = DefaultDialect.do_commit

        def do_commit(dialect: DefaultDialect, connection: Any) -> None:
            self.come("before commit")
            commit(dialect, connection)
            self.come("after commit")

        def executed(*seen: Any) -> None:
            for point, words in WRITTEN.items():
                if str(seen[2]).startswith(words):
                    self.come(point)

        DefaultDialect.do_commit = do_commit  # type: ignore[method-assign]
        event.listen(Engine, "after_cursor_execute", executed)


def open_place(place: str) -> AbstractAsyncContextManager[Store]:
    return postgres.open_store(place, lambda: 0) if "://" in place else sqlite.open_store(Path(place), lambda: 0)


def settled(order_id: str, key: str, charge: int) -> Generation:
    return Generation(
        order_id=order_id,
        id=f"chatcmpl-{order_id}",
        account=ACCOUNT,
        key=key,
        model="model",
        node="peer",
        charge=charge,
        in_units=1,
        out_units=2,
        finish="stop",
        created_at_ms=0,
        order_envelope=b"o" * 600,
        receipt_envelope=b"r" * 600,
        countersign_envelope=b"c" * 200,
    )


def late(order_id: str, charge: int) -> Generation:
    """What a claim makes of an order that ended without a receipt."""
    return replace(settled(order_id, "", charge), account=NETWORK)


def sent(order_id: str) -> SentOrder:
    return SentOrder(order_id=order_id, node="peer", lane=b"l" * 16, seq=0, envelope=b"o" * 600, sent_at_ms=0)


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


async def spend(store: Store, name: str, rng: Random, death: Death) -> None:
    count = 0
    while True:
        count += 1
        order_id = f"{name}-{count}"
        key = rng.choice(KEYS).id
        try:
            demand = Demand(key=key, request=order_id, tokens=5, first=True)
            await store.reserve(order_id, ACCOUNT, 1000, 2**60, demand, sent(order_id))
        except InsufficientCredit:
            await store.grant(f"again-{order_id}", ACCOUNT, GRANT)
            continue
        death.come("hold answered")
        say("held", order_id)
        chance = rng.random()
        if chance < 0.1:
            await store.void(order_id)
            say("voided", order_id)
        elif chance < 0.3:
            await store.void(order_id, Arrived(units=2, output_commit=b"c" * 32))
            say("broken", order_id)
            stands = await ClaimBooks(store).settle_late(late(order_id, rng.randrange(1001)), 2**60)
            say("late", order_id, stands.charge)
        else:
            charge = rng.randrange(1001)
            await store.settle(settled(order_id, key, charge), tokens_expected=5)
            say("settled", order_id, charge)


async def main(place: str, name: str, point: str = "", times: str = "0") -> None:
    death = Death(point, int(times))
    async with open_place(place) as store, trio.open_nursery() as nursery:
        await store.found(User(id=ACCOUNT, created_at_ms=0), KEYS[0], GRANT)
        await store.put_key(KEYS[1])
        assert (await store.balance(NETWORK)).balance < 0
        death.wait_in_database()
        for task in range(AT_ONCE):
            nursery.start_soon(spend, store, f"{name}-{task}", Random(f"{name}-{task}"), death)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
