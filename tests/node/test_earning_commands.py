"""`cxp2p node earnings`: what it shows to people and to programs, and the evidence that it hands out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner, Result

from cxp2p.client import wall_ms as clock_ms
from cxp2p.evidence import check_evidence, two_roots
from cxp2p.receipts import HOURS
from cxp2p.testing import sealed_root
from cxp2p.wire import encode
from cxp2p_node.commands import node as command
from cxp2p_node.papers import OMITTED, KeptWrong
from cxp2p_node.papers.sqlite import FILE_NAME, open_papers
from hours import EPOCH, GATEWAY
from test_counting import ENTRIES, keep

DATA = encode(two_roots(sealed_root(GATEWAY, EPOCH), sealed_root(GATEWAY, EPOCH, sum=1)))


async def write(path: Path, now_epoch: int) -> None:
    """A receipt in each place, and one piece of evidence."""
    async with open_papers(path / FILE_NAME) as papers:
        kept = [await keep(papers, each) for each in ENTRIES]
        await papers.count(kept[0], now_epoch - 1)
        await papers.count(kept[1], now_epoch - 40)
        await papers.count(kept[2], OMITTED)
        says = check_evidence(DATA).says
        await papers.accuse(
            KeptWrong(id="ab" * 32, peer=GATEWAY.peer, wrong="two-roots", says=says, data=DATA, at_ms=1)
        )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    trio.run(write, tmp_path, HOURS.epoch_of(clock_ms()))
    return tmp_path


def run(folder: Path, *words: str) -> Result:
    config = folder / "node.toml"
    config.write_text(f'data_path = "{folder}"\n')
    return CliRunner().invoke(command, ["earnings", "--config", str(config), *words])


def test_each_part_stands_with_its_reason(folder: Path) -> None:
    """Released, held, waiting, left out; then what gateways did wrong."""
    done = run(folder)
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        "earned    0.000500 credits, before the fee",
        "released  0.000100 credits: 1 receipts counted, and nothing can change it any more",
        "held      0.000100 credits: 1 receipts counted under a root; audits may still find it invalid for a day",
        "waiting   0.000200 credits: 2 receipts countersigned, and under no root yet: its epoch is open, "
        "or its gateway was not asked since",
        "omitted   0.000100 credits: 1 receipts countersigned, and left out of every root that could count it",
        f"evidence  {GATEWAY.peer} signed two roots for epoch {EPOCH}",
    ]


def test_programs_get_sums_and_anybody_the_evidence(folder: Path) -> None:
    """In µcredits; the file convicts by its bytes."""
    told = json.loads(run(folder, "--json", "--evidence", str(folder / "evidence")).stdout)
    assert {name: told[name] for name in ("earned", "released", "held", "omitted", "not_countersigned")} == {
        "earned": 500,
        "released": 100,
        "held": 300,
        "omitted": 100,
        "not_countersigned": 0,
    }
    assert told["evidence"][0]["wrong"] == "two-roots"
    (file,) = (folder / "evidence").iterdir()
    assert check_evidence(file.read_bytes()).peer == GATEWAY.peer


def test_a_node_that_never_worked_has_no_earnings(tmp_path: Path) -> None:
    """It says so; without papers it says what is missing."""
    done = run(tmp_path)
    assert done.exit_code == 1
    assert "this node has never run" in done.stderr

    async def empty() -> None:
        async with open_papers(tmp_path / FILE_NAME):
            pass

    trio.run(empty)
    assert run(tmp_path).stdout == "no orders yet\n"
