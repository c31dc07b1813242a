"""Nodes that are killed at every step: what they told is on disk, and no seq gets a second receipt, ever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest
import trio

from cxp2p.identity import Kind, open_envelope
from cxp2p.lanes import NodeLanes
from cxp2p.receipts import charge_of, digest
from cxp2p.records import Order, Receipt, Refusal
from cxp2p.vouchers import reserve
from cxp2p.wire import decode
from cxp2p_node.papers import Paper, State
from cxp2p_node.papers.sqlite import SqlitePapers, open_papers
from cxp2p_node.till import Till
from dying_node import ASKER, NODE, POINTS
from worlds import EPOCH_MS, capability

Place = tuple[bytes, int]
"""A lane and a seq in it."""


@dataclass
class Told:
    """What the asker has seen of a node, over all its lives."""

    orders: dict[Place, Order] = field(default_factory=dict)
    envelopes: dict[Place, bytes] = field(default_factory=dict)
    accepted: set[Place] = field(default_factory=set)
    units: dict[Place, int] = field(default_factory=dict)
    receipts: dict[Place, bytes] = field(default_factory=dict)

    def note(self, lines: list[str]) -> None:
        for what, *words in map(str.split, lines):
            match what:
                case "asked":
                    envelope = bytes.fromhex(words[0])
                    order = decode(Order, open_envelope(Kind.ORDER, envelope).body)
                    self.orders[order.lane, order.seq] = order
                    self.envelopes[order.lane, order.seq] = envelope
                case "accepted":
                    self.accepted.add((bytes.fromhex(words[0]), int(words[1])))
                case "units":
                    self.units[bytes.fromhex(words[0]), int(words[1])] = int(words[2])
                case "receipt":
                    envelope = bytes.fromhex(words[0])
                    receipt = decode(Receipt, open_envelope(Kind.RECEIPT, envelope).body)
                    assert (receipt.lane, receipt.seq) not in self.receipts, "two receipts for one seq"
                    self.receipts[receipt.lane, receipt.seq] = envelope


def start(path: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(Path(__file__).with_name("dying_node.py")), str(path), *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def die_at(path: Path, turn: int, told: Told, point: str, times: int) -> None:
    """Notes what was said until the node killed itself."""
    with start(path, str(turn), point, str(times)) as process:
        assert process.stdout is not None
        told.note(process.stdout.readlines())
    assert process.returncode == -signal.SIGKILL


def die_after(path: Path, turn: int, told: Told, count: int) -> None:
    """Notes what was said until the node was killed after so many lines."""
    with start(path, str(turn)) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(count)]
        process.kill()
        told.note(lines + process.stdout.readlines())
    assert process.returncode == -signal.SIGKILL


async def check(path: Path, told: Told) -> dict[Place, Paper]:
    """Opens what a killed node left. Returns its papers."""
    async with open_papers(path) as papers:
        till = Till(NodeLanes(NODE.peer, 10**12), papers, lambda: EPOCH_MS)
        await till.start()
        kept = {(paper.lane, paper.seq): paper for paper in await papers.newest(100_000)}
        check_papers(kept)
        check_told(kept, told)
        check_replays(till, told)
        await check_exposure(till, papers, kept)
    return kept


def check_papers(kept: dict[Place, Paper]) -> None:
    """Each lane is a chain without holes; only its last order may lack a receipt; none is open."""
    lanes: dict[bytes, list[Paper]] = defaultdict(list)
    for _, paper in sorted(kept.items()):
        lanes[paper.lane].append(paper)
    for lane in lanes.values():
        assert [paper.seq for paper in lane] == list(range(len(lane)))
        head, cum_charge = None, 0
        for paper in lane:
            order = decode(Order, open_envelope(Kind.ORDER, paper.order_envelope).body)
            assert paper.state is not State.OPEN
            assert order.prev_receipt == head
            if paper.receipt_envelope is None:
                assert paper.state is State.LOST
                assert paper is lane[-1]
                continue
            receipt = decode(Receipt, open_envelope(Kind.RECEIPT, paper.receipt_envelope).body)
            assert receipt.order_hash == digest(paper.order_envelope)
            cum_charge += receipt.charge
            assert receipt.cum_charge == cum_charge
            head = digest(paper.receipt_envelope)
            assert (paper.state in (State.SETTLED,)) == (paper.countersign_envelope is not None or not paper.charge)


def check_told(kept: dict[Place, Paper], told: Told) -> None:
    """What the asker saw is on disk: the order of a job that began, the voucher that permitted more, the receipt."""
    for place in told.accepted | set(told.units):
        assert kept[place].order_envelope == told.envelopes[place]
    for place, units in told.units.items():
        order = told.orders[place]
        assert charge_of(order.prices, 1, units) - kept[place].vouched <= reserve(order)
    for place, envelope in told.receipts.items():
        assert kept[place].receipt_envelope == envelope


def check_replays(till: Till, told: Told) -> None:
    """No order that reached the node is taken a second time."""
    for place in told.accepted:
        order = told.orders[place]
        refusal = till.check(ASKER.peer, ASKER.peer, order, order.request_commit, capability())
        assert isinstance(refusal, Refusal)


async def check_exposure(till: Till, papers: SqlitePapers, kept: dict[Place, Paper]) -> None:
    """What the asker owes is what it did not countersign, less what its vouchers cover."""
    owed = sum(max(0, each.charge - each.vouched) for each in kept.values() if each.state is State.CLAIMED)
    assert till.lanes.exposure(ASKER.peer, EPOCH_MS) == owed
    claims = await papers.claims([ASKER.peer], EPOCH_MS + 10**9, 100_000)
    assert {(each.lane, each.seq) for each in claims} == {
        place for place, each in kept.items() if each.state is State.CLAIMED
    }


@pytest.mark.slow
def test_killed_once_the_papers_are_right(tmp_path: Path) -> None:
    """The quick one: between the receipt on disk and its sending."""
    told = Told()
    die_at(tmp_path / "receipts.db", 1, told, "after finish", 10)
    kept = trio.run(check, tmp_path / "receipts.db", told)
    assert any(place not in told.receipts for place, paper in kept.items() if paper.receipt_envelope)


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
def test_killed_at_each_point_the_papers_are_right(tmp_path: Path, point: str) -> None:
    """SIGKILL before and after every write, early and late, of a node that was killed before."""
    told = Told()
    for turn, times in enumerate((1, 9)):
        die_at(tmp_path / "receipts.db", turn, told, point, times)
        trio.run(check, tmp_path / "receipts.db", told)
    assert len(told.orders) > 2


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1])
def test_killed_at_any_time_the_papers_are_right(tmp_path: Path, seed: int) -> None:
    """SIGKILL from outside at random moments, again and again."""
    rng, told = Random(seed), Told()
    lost = 0
    for turn in range(6):
        die_after(tmp_path / "receipts.db", turn, told, rng.randrange(1, 400))
        kept = trio.run(check, tmp_path / "receipts.db", told)
        lost = sum(paper.state is State.LOST for paper in kept.values())
    assert len(told.receipts) > 50
    assert lost > 0
