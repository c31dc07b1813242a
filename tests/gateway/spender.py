"""A process that spends credit in a loop until it is killed: `python spender.py DATABASE ROUND`.

Says `held ID`, `settled ID CHARGE` or `voided ID` on standard output after each call was answered.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from random import Random

import trio

from cxp2p.errors import InsufficientCredit
from cxp2p.ledger import NETWORK
from cxp2p_gateway.store import Generation, Store
from cxp2p_gateway.store.sqlite import open_store

ACCOUNT = "user_1"
AT_ONCE = 8
GRANT = 1_000_000


def settled(order_id: str, charge: int) -> Generation:
    return Generation(
        order_id=order_id,
        id=f"chatcmpl-{order_id}",
        account=ACCOUNT,
        key="key",
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


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


async def spend(store: Store, name: str, rng: Random) -> None:
    count = 0
    while True:
        count += 1
        order_id = f"{name}-{count}"
        try:
            await store.reserve(order_id, ACCOUNT, 1000, 2**60)
        except InsufficientCredit:
            await store.grant(f"again-{order_id}", ACCOUNT, GRANT)
            continue
        say("held", order_id)
        if rng.random() < 0.2:
            await store.void(order_id)
            say("voided", order_id)
        else:
            charge = rng.randrange(1001)
            await store.settle(settled(order_id, charge))
            say("settled", order_id, charge)


async def main(path: str, name: str) -> None:
    async with open_store(Path(path), lambda: 0) as store, trio.open_nursery() as nursery:
        await store.grant("first", ACCOUNT, GRANT)
        assert (await store.balance(NETWORK)).balance < 0
        for task in range(AT_ONCE):
            nursery.start_soon(spend, store, f"{name}-{task}", Random(f"{name}-{task}"))


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
