"""Evidence from a gateway's books to a file that anybody can check: the commands."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner, Result

from cxp2p import cli
from cxp2p.evidence import Evidence, Wrong, check_evidence, dispute, two_receipts
from cxp2p.identity import Kind
from cxp2p.receipts import digest
from cxp2p.records import Countersign, Verdict
from cxp2p.wire import encode
from cxp2p_gateway.commands import gateway
from cxp2p_gateway.store import claims, postgres, sqlite
from cxp2p_gateway.store.claims import EVIDENCE_PER_PEER_MAX, ClaimBooks
from cxp2p_gateway.store.memory import memory_store
from orders import GATEWAY, NODE, order, receipt_for
from test_store import NOW_MS, Clock

ORDER = order()
ORDER_ENVELOPE = GATEWAY.seal(Kind.ORDER, encode(ORDER))
HONEST = receipt_for(ORDER, (1, 2), order_hash=digest(ORDER_ENVELOPE))


def signed(**changes: object) -> bytes:
    return NODE.seal(Kind.RECEIPT, encode(replace(HONEST, **changes)))  # type: ignore[arg-type]


def disputed() -> Evidence:
    said = Countersign(
        receipt_hash=digest(signed()),
        verdict=Verdict.DISPUTED,
        reason="out_units is 2, 1 \x1b[2J arrived",
        in_units=10,
        out_units=1,
        charge=0,
    )
    return dispute(ORDER_ENVELOPE, signed(), GATEWAY.seal(Kind.COUNTERSIGN, encode(said)))


TWO = two_receipts(signed(), signed(in_units=11, charge=15, cum_charge=15))


async def keep(books: ClaimBooks, *kept: Evidence) -> list[bool]:
    added = []
    for each in kept:
        data = encode(each)
        found = check_evidence(data)
        added.append(await books.accuse(found.peer, found.wrong.value, found.says, data))
    return added


def run(*words: str | Path, command: str = "gateway") -> Result:
    return CliRunner().invoke(gateway if command == "gateway" else cli.main, [str(word) for word in words])


@pytest.fixture(params=["sqlite", "postgres"])
def filled(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A gateway's books with two kinds of evidence, and settings that say where they are."""
    monkeypatch.setenv("CXP2P_GATEWAY_DATA_PATH", str(tmp_path))
    if request.param == "postgres":
        url = str(request.getfixturevalue("postgres_url"))
        monkeypatch.setenv("CXP2P_GATEWAY_DATABASE__URL", url)
        opening = postgres.open_store(url, Clock())
    else:
        opening = sqlite.open_store(tmp_path / "gateway.sqlite", Clock())

    async def fill() -> None:
        async with opening as opened:
            assert await keep(ClaimBooks(opened), TWO, disputed()) == [True, True]

    trio.run(fill)
    return str(request.param)


def test_what_is_kept_is_listed_and_can_be_checked_by_anybody(filled: str, tmp_path: Path) -> None:
    """In words and as JSON; each exported file convicts, or says that it does not."""
    listed = run("evidence")
    assert listed.exit_code == 0, listed.output
    assert "\x1b" not in listed.output
    assert "signed two receipts" in listed.output
    rows = [json.loads(line) for line in run("evidence", "--json", "--export", tmp_path / "out").output.splitlines()]
    assert {(row["wrong"], row["convicts"], row["peer"]) for row in rows} == {
        ("two-receipts", True, NODE.peer),
        ("dispute", False, NODE.peer),
    }
    for row in rows:
        file = tmp_path / "out" / f"{row['id']}.evidence"
        told = json.loads(run("evidence", "verify", file, "--json", command="cxp2p").output)
        assert told == {"valid": True, **{name: row[name] for name in ("peer", "wrong", "says", "convicts")}}
        words = run("evidence", "show", file, command="cxp2p").output
        assert ("convicts   nobody" in words) is not row["convicts"]
        assert NODE.peer in words
        assert "\x1b" not in words + run("evidence", "verify", file, command="cxp2p").output


async def test_the_list_needs_no_stopped_gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads beside the process that keeps the file."""
    monkeypatch.setenv("CXP2P_GATEWAY_DATA_PATH", str(tmp_path))
    assert "has never run" in run("evidence").output
    async with sqlite.open_store(tmp_path / "gateway.sqlite", Clock()) as opened:
        assert run("evidence").output == "there is none\n"
        await keep(ClaimBooks(opened), TWO)
        assert "two-receipts" in run("evidence").output


def test_a_file_that_shows_nothing_is_refused_with_the_reason(tmp_path: Path) -> None:
    """Junk, and two receipts that say the same."""
    for name, data, reason in (
        ("junk", b"junk", "CBOR"),
        ("same", encode(two_receipts(signed(), signed())), "say the same"),
    ):
        file = tmp_path / name
        file.write_bytes(data)
        for what in ("show", "verify"):
            result = run("evidence", what, file, command="cxp2p")
            assert result.exit_code == 1
            assert reason in result.output
            assert str(file) in result.output


def test_a_folder_that_cannot_be_made_is_told(filled: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run("evidence", "--export", tmp_path / "file" / "folder")
    assert result.exit_code == 1
    assert "cannot be written to" in result.output


# Limits.


async def test_so_much_is_kept_of_a_kind_about_a_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first ones stay; others' are kept all the same, and the oldest go when there is too much in all."""
    books = ClaimBooks(memory_store(Clock()))
    added = [await books.accuse("peer", "dispute", "", bytes([number])) for number in range(EVIDENCE_PER_PEER_MAX + 2)]
    assert added == [True] * EVIDENCE_PER_PEER_MAX + [False] * 2
    assert await books.accuse("peer", Wrong.TWO_RECEIPTS.value, "", b"two")
    assert not await books.accuse("peer", Wrong.TWO_RECEIPTS.value, "", b"two")
    assert await books.accuse("other", "dispute", "", b"other")
    assert len(await books.evidence()) == EVIDENCE_PER_PEER_MAX + 2
    monkeypatch.setattr(claims, "EVIDENCE_MAX", 3)
    assert await books.accuse("third", "dispute", "", b"third")
    assert len(await books.evidence()) == 3
    assert all(each.at_ms == NOW_MS for each in await books.evidence())
