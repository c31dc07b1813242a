"""Processes that are killed while they spend: no event that was told is lost, and nothing is left open."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

import pytest
import trio

import spender
from cxp2p.ledger import Hold, HoldState
from cxp2p_gateway.store import Store, postgres
from cxp2p_gateway.store.claims import ClaimBooks
from cxp2p_gateway.store.rows import GroupBy, UseQuery, UseSum
from cxp2p_gateway.store.tables import Tables
from spender import ACCOUNT, POINTS, open_place

ROUNDS = 12
WAIT_S = 20.0

Told = dict[str, tuple[str, int]]
"""By order: the last that was said of it, and its charge."""


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the killed processes keep their books; who comes after them does not wait long."""
    monkeypatch.setattr(postgres, "SWEEP_S", 0.05)
    monkeypatch.setattr(postgres, "GONE_S", 0.1)
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_url"))
    return str(tmp_path / "gateway.sqlite")


@pytest.mark.slow
@pytest.mark.parametrize("point", ["receipt written"])
def test_killed_once_the_books_are_right(place: str, point: str) -> None:
    """The quick one: in the middle of a settlement."""
    told: Told = {}
    die_at(place, "1", told, point, 30)

    trio.run(check, place, told)


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
def test_killed_at_each_point_the_books_are_right(place: str, point: str) -> None:
    """SIGKILL at every step of a hold and of a settlement, early and late, on books that were killed before."""
    told: Told = {}
    for turn, times in enumerate((1, 2, 17, 60)):
        die_at(place, str(turn), told, point, times)
        trio.run(check, place, told)

    assert len(told) > 20


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1])
def test_killed_at_any_time_the_books_are_right(place: str, seed: int) -> None:
    """SIGKILL from outside at random moments, again and again."""
    rng = Random(seed)
    told: Told = {}
    left = 0
    for turn in range(ROUNDS):
        die_after(place, str(turn), told, rng.randrange(1, 500))
        left += trio.run(check, place, told)

    assert len(told) > ROUNDS * 10
    assert left > 0


def start(place: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(Path(__file__).with_name("spender.py")), place, *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def die_at(place: str, turn: str, told: Told, point: str, times: int) -> None:
    """Notes what a spender said until it killed itself."""
    with start(place, turn, point, str(times)) as process:
        assert process.stdout is not None
        note(told, process.stdout.readlines())
    assert process.returncode == -signal.SIGKILL


def die_after(place: str, turn: str, told: Told, answers: int) -> None:
    """Notes what a spender said until it was killed after so many answers."""
    with start(place, turn) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(answers)]
        process.kill()
        note(told, lines + process.stdout.readlines())
    assert process.returncode == -signal.SIGKILL


def note(told: Told, lines: list[str]) -> None:
    for what, order_id, *charge in map(str.split, lines):
        told[order_id] = (what, int(charge[0]) if charge else 0)


async def check(place: str, told: Told) -> int:
    """Opens what a killed process left; returns how many holds that were told of it has voided."""
    async with open_place(place) as store:
        with trio.fail_after(WAIT_S):
            while await store.do(lambda tables: tables.open_holds()):  # noqa: ASYNC110  # another process
                await trio.sleep(0.05)
        assert await store.audit() == ()
        await claim_all(store, told)
        holds = {hold.id: hold for hold in await store.do(lambda tables: tables.all_holds())}
        await check_told(store, told, holds)
        await check_sums(store, holds)
        for key in spender.KEYS:
            assert await store.do(lambda tables, key=key: tables.held_by_key(key.id)) == 0  # type: ignore[misc]
    return sum(what == "held" and holds[order_id].state is HoldState.VOIDED for order_id, (what, _) in told.items())


async def check_told(store: Store, told: Told, holds: dict[str, Hold]) -> None:
    """What was told as settled is there once; what was told as void or only held has cost nothing, or is there once."""
    transfers = Counter(each.id for each in await store.do(lambda tables: tables.all_transfers()))
    for order_id, (what, charge) in told.items():
        hold = holds[order_id]
        wanted = ["posted"] if what == "settled" else ["voided", "posted"] if what == "held" else ["voided"]
        assert hold.state in wanted, (order_id, what, hold)
        if what == "settled":
            assert hold.charge == charge
            assert transfers[order_id] == (1 if charge else 0)


async def claim_all(store: Store, told: Told) -> None:
    """Every node claims all that it was sent, twice: what was told as paid late is what stands, and all is paid once.

    An order that was settled or given back has nothing to claim. One that was only held may have ended since.
    """
    books = ClaimBooks(store)
    for order_id, (what, charge) in told.items():
        found = await books.claimed(order_id)
        assert not found.is_running
        assert found.sent is None or found.generation is None
        if what in ("settled", "voided"):
            assert found.sent is None
        if what == "broken" and found.sent is not None:
            assert found.sent.units == 2
        if found.sent is None and found.generation is None:
            continue
        stands = [await books.settle_late(spender.late(order_id, paid), 2**60) for paid in (5, 6)]
        assert stands[0] == stands[1]
        if what in ("settled", "late"):
            assert stands[0].charge == charge
    assert await store.audit() == ()


async def check_sums(store: Store, holds: dict[str, Hold]) -> None:
    """Each posted hold has one receipt; budgets and uses of a key are the sums of what was posted for it."""

    def act(tables: Tables) -> tuple[dict[str, int], tuple[UseSum, ...]]:
        spent = {key.id: tables.budget(key.id).spent for key in spender.KEYS}
        days = {"first_day": "0000-00-00", "last_day": "9999-99-99"}
        return spent, tables.uses(UseQuery(group_by=GroupBy.KEY, account=ACCOUNT, **days), 100)

    spent, uses = await store.do(act)
    posted = [hold for hold in holds.values() if hold.state is HoldState.POSTED]
    charges: Counter[str] = Counter()
    for hold in posted:
        charges[hold.key] += hold.charge
    receipts = await all_receipts(store)
    assert receipts == {hold.id: hold.charge for hold in posted}
    assert spent == {key.id: charges[key.id] for key in spender.KEYS}
    assert {use.group: use.charge for use in uses} == {key: charges[key] for key in {hold.key for hold in posted}}
    assert sum(use.requests for use in uses) == len(posted)
    assert sum(use.out_units for use in uses) == 2 * len(posted)
    late = await store.do(lambda tables: tables.late_charge("peer", 0))
    assert (await store.balance("node:peer")).balance == charges.total() + late
    transfers = await store.do(lambda tables: tables.all_transfers())
    assert sum(each.amount for each in transfers if each.id.startswith("late:")) == late


async def all_receipts(store: Store) -> dict[str, int]:
    """The charge by order of all that was signed; no order has two."""
    found: dict[str, int] = {}
    while page := await store.latest_generations(ACCOUNT, 100, len(found)):
        for each in page:
            assert each.order_id not in found
            found[each.order_id] = each.charge
    return found
