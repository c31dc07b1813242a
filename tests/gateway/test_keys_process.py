"""A key at its limit before a real gateway with SQLite: 64 streams at once, then one after the other."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from cxp2p_gateway.spending import MICRO
from cxp2p_gateway.store.sqlite import open_store
from processes import ask_of, echo_node, gateway

pytestmark = pytest.mark.slow

WORDS = 40


async def stream(client: httpx.AsyncClient, key: str) -> tuple[int, bool]:
    """Status of a streamed answer, and whether it came whole."""
    body = {**ask_of(WORDS), "max_tokens": WORDS}
    answer = await client.post("/chat/completions", json=body, headers={"Authorization": f"Bearer {key}"})
    return answer.status_code, answer.text.endswith("data: [DONE]\n\n")


async def test_64_streams_at_the_limit_of_a_real_gateway(tmp_path: Path) -> None:
    """They go over it by less than one hold, all that was streamed was charged, and the books on disk are right."""
    async with (
        echo_node(tmp_path) as address,
        gateway(tmp_path, address, "", "--port", "0") as running,
    ):
        base_url = running.facts["ready"]["url"] + "/api/v1"
        owner_key = running.facts["account"]["api_key"]
        limits = httpx.Limits(max_connections=80)
        async with httpx.AsyncClient(base_url=base_url, timeout=60, limits=limits) as client:
            client.headers["Authorization"] = f"Bearer {owner_key}"

            async def made(**terms: Any) -> dict[str, Any]:
                answer = await client.post("/keys", json=terms)
                assert answer.status_code == 200, answer.text
                return dict(answer.json())

            body = {**ask_of(WORDS, stream=False), "max_tokens": WORDS}
            first = await client.post("/chat/completions", json=body)
            assert first.status_code == 200, first.text
            signed = (await client.get(f"/receipts/{first.json()['id']}")).json()
            hold, charge = signed["order"]["fields"]["max_charge"], signed["countersign"]["fields"]["charge"]
            assert 0 < charge < hold

            limit = 2 * hold + charge
            key = await made(name="limited", spend_limit=limit / MICRO)
            ended: list[tuple[int, bool]] = []

            async def one() -> None:
                ended.append(await stream(client, key["key"]))

            async with trio.open_nursery() as nursery:
                for _ in range(64):
                    nursery.start_soon(one)
            whole = ended.count((200, True))
            assert whole >= 1
            assert {status for status, _ in ended} == {200, 429}
            assert whole == sum(status == 200 for status, _ in ended)

            async def spent() -> int:
                told: dict[str, float] = (await client.get(f"/keys/{key['id']}")).json()
                return round(told["spent"] * MICRO)

            assert await spent() == whole * charge < limit + hold
            while await stream(client, key["key"]) == (200, True):
                whole += 1
            assert limit <= whole * charge < limit + charge
            assert await spent() == whole * charge
            use = (await client.get(f"/keys/{key['id']}/usage")).json()
            assert (use["requests"], round(use["cost"] * MICRO)) == (whole, whole * charge)
        running.signal(signal.SIGTERM)
        with trio.fail_after(30):
            assert await running.process.wait() == 0

    async with open_store(tmp_path / "gateway" / "gateway.sqlite", lambda: 0) as store:
        assert await store.audit() == ()
        assert await store.do(lambda tables: tables.open_holds()) == ()
        kept = await store.key(key["id"])
        assert kept is not None
        assert key["key"].encode() not in (tmp_path / "gateway" / "gateway.sqlite").read_bytes()
