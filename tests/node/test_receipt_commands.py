"""`cxp2p node receipts`: what it shows to people and to programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner, Result

from cxp2p.receipts import Lane
from cxp2p_node.commands import node as command
from cxp2p_node.papers import NEVER_MS, Answer, State, taken
from cxp2p_node.papers.sqlite import FILE_NAME, open_papers
from orders import GATEWAY, WALL, order, receipt_for

ANSWERS = {
    State.SETTLED: Answer(state=State.SETTLED, agreed=14, note="", envelope=b"c"),
    State.ADJUSTED: Answer(state=State.ADJUSTED, agreed=12, note="one token less", envelope=b"c"),
    State.DISPUTED: Answer(state=State.DISPUTED, agreed=0, note="nobody cancelled", envelope=b"c"),
}


async def write(path: Path) -> None:
    """An order in each state."""
    async with open_papers(path / FILE_NAME) as papers:
        for number, state in enumerate(State):
            paper = taken(order(Lane(lane=bytes([number]) * 16)), b"order", WALL + number * 86_400_000)
            await papers.take(paper)
            if state is State.LOST:
                await papers.lose(paper)
            if state in (State.OPEN, State.LOST):
                continue
            await papers.finish(paper, receipt_for(order(), (1, 2)), bytes([number]), WALL)
            if state is State.REFUSED:
                await papers.put_off(paper, NEVER_MS, "never heard of it")
            if state in ANSWERS:
                await papers.settle(paper, ANSWERS[state])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    trio.run(write, tmp_path)
    return tmp_path


def run(folder: Path, *words: str) -> Result:
    config = folder / "node.toml"
    config.write_text(f'data_path = "{folder}"\n')
    return CliRunner().invoke(command, ["receipts", "--config", str(config), *words])


def test_each_order_is_a_line_and_the_sums_come_last(folder: Path) -> None:
    """The newest first: when, for whom, what, for how much, and what became of it; then what all of it comes to."""
    done = run(folder)
    shown = done.stdout.splitlines()

    assert done.exit_code == 0
    assert shown[0] == (
        f"2027-01-21 08:00:00  {GATEWAY.peer}  echo  10 tokens in, 2 tokens out  0.000014 credits  "
        "disputed (its gateway will not pay: nobody cancelled)"
    )
    assert shown[1].endswith("0.000014 credits  adjusted: one token less")
    assert shown[7] == "earned 0.000026 credits, held back 0.000042 credits"
    assert "1 claimed (not countersigned yet; claimed when its gateway is connected)" in shown


def test_only_what_is_held_back(folder: Path) -> None:
    """With its reasons, in JSON."""
    told = [json.loads(line) for line in run(folder, "--held", "--json").stdout.splitlines()]

    assert [(each["state"], each["note"]) for each in told[:-1]] == [
        ("disputed", "nobody cancelled"),
        ("refused", "never heard of it"),
        ("claimed", ""),
    ]
    assert told[0]["day"] == "2027-01-21"
    assert told[-1]["sums"]["settled"] == {"count": 1, "charge": 14, "agreed": 14}


def test_the_newest_so_many(folder: Path) -> None:
    """One line for one order."""
    told = [json.loads(line) for line in run(folder, "--limit", "1", "--json").stdout.splitlines()]
    assert [each.get("state") for each in told] == ["disputed", None]


def test_a_node_without_papers_is_told(tmp_path: Path) -> None:
    """No traceback."""
    done = run(tmp_path)
    assert done.exit_code == 1
    assert "this node has never run" in done.output


def test_a_node_without_orders_says_so(tmp_path: Path) -> None:
    """Nothing is not an error."""

    async def make() -> None:
        async with open_papers(tmp_path / FILE_NAME):
            await trio.lowlevel.checkpoint()

    trio.run(make)
    assert run(tmp_path).stdout == "no orders yet\n"
