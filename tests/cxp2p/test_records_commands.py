from __future__ import annotations

import base64
import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

import golden
from cxp2p import cli
from cxp2p.epoch_files import published
from cxp2p.epochs import Inclusion, close_epoch, place_of
from cxp2p.errors import EpochInvalid
from cxp2p.evidence import omission
from cxp2p.identity import Kind
from cxp2p.kept_files import jsonable, settlements_in
from cxp2p.receipts import digest
from cxp2p.records import Verdict
from cxp2p.rewards import DEFAULT_RULES, rules_hash
from cxp2p.wire import encode
from hours import EPOCH, GATEWAY, NODES, entry, hour, receipt_of, seal

DEFAULTS = rules_hash(DEFAULT_RULES)
ENVELOPE, ROOT, ENTRIES, TREE = hour(*(entry(number % 2, number) for number in range(4)), rules_hash=DEFAULTS)
FILE = b"".join(published(ENVELOPE, ENTRIES))


def run(*words: object) -> Result:
    return CliRunner().invoke(cli.main, [str(word) for word in words])


def signed(name: str, record: Any, envelope: bytes) -> dict[str, Any]:
    return {name: {"envelope": base64.b64encode(envelope).decode(), "fields": jsonable(asdict(record))}}


def gateway_answer() -> dict[str, Any]:
    """What `GET /receipts/{id}` says of the golden job."""
    job = signed("receipt", golden.RECEIPT, golden.RECEIPT_ENVELOPE)
    job |= signed("countersign", golden.COUNTERSIGN, golden.COUNTERSIGN_ENVELOPE)
    job |= signed("order", golden.ORDER, golden.ORDER_ENVELOPE)
    return {"id": "gen-1", "object": "receipt", **job, "data": [job]}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "epoch.cxp2p"
    path.write_bytes(FILE)
    return path


@pytest.fixture
def answer(tmp_path: Path) -> Path:
    path = tmp_path / "receipt.json"
    path.write_text(json.dumps(gateway_answer()))
    return path


def test_a_receipt_is_told_in_words(answer: Path) -> None:
    """Who worked for whom on what, how much, at what price, and what was checked."""
    result = run("receipt", "show", answer)

    assert result.exit_code == 0, result.output
    for words in (
        golden.NODE.peer,
        golden.GATEWAY.peer,
        "chat, smollm2:135m",
        "31 tokens, 0 of them from a cache",
        "4 tokens; it was complete",
        "2027-01-15 08:00:00 UTC, 0.115 s",
        "0.000001 credits, of the lane so far 0.000101 credits",
        "at most 0.000013 credits",
        "the gateway agrees",
        "signed by its node, it is about the gateway's order, countersigned by its gateway: accepted",
    ):
        assert words in result.output


def test_a_receipt_is_verified_in_every_form_that_it_comes_in(tmp_path: Path, answer: Path) -> None:
    """A gateway's JSON, one envelope, or an inclusion proof."""
    bare, proof = tmp_path / "bare", tmp_path / "proof"
    bare.write_bytes(golden.RECEIPT_ENVELOPE)
    proof.write_bytes(encode(Inclusion(root=ENVELOPE, place=place_of(ENTRIES[2], TREE.proof(2)))))
    hashes = [golden.RECEIPT_ENVELOPE, golden.RECEIPT_ENVELOPE, ENTRIES[2].receipt_envelope]

    for path, envelope in zip((answer, bare, proof), hashes, strict=True):
        result = run("receipt", "verify", path)
        assert (result.exit_code, f"ok: receipt {digest(envelope).hex()}" in result.output) == (0, True), result.output
        told = json.loads(run("receipt", "verify", path, "--json").output)
        assert told == {"valid": True, "receipts": [digest(envelope).hex()]}
        assert json.loads(run("receipt", "show", path, "--json").output)[0]["sha256"] == digest(envelope).hex()
    assert f"counted under the root of epoch {EPOCH}" in run("receipt", "verify", proof).output
    assert "none in the file" in run("receipt", "show", bare).output


def answer_with(change: Any) -> bytes:
    told = json.loads(json.dumps(gateway_answer()))
    for job in (told, told["data"][0]):
        change(job)
    return json.dumps(told).encode()


def other(name: str, record: Any, envelope: bytes) -> Any:
    return lambda job: job.update(signed(name, record, envelope))


OTHER_ORDER = replace(golden.ORDER, seed=43)
DEAR = replace(golden.RECEIPT, charge=9, cum_charge=109)
DEAR_ENVELOPE = golden.NODE.seal(Kind.RECEIPT, encode(DEAR))
AGREED = replace(golden.COUNTERSIGN, receipt_hash=digest(DEAR_ENVELOPE), charge=9)
DISPUTED = replace(AGREED, verdict=Verdict.DISPUTED, charge=0, reason="charge is 9, 1 is owed")


def dear(job: dict[str, Any], answer: Any = AGREED) -> None:
    job |= signed("receipt", DEAR, DEAR_ENVELOPE)
    job |= signed("countersign", answer, golden.GATEWAY.seal(Kind.COUNTERSIGN, encode(answer)))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda job: job["receipt"]["fields"].update(charge=2), "receipt.fields is not what was signed"),
        (lambda job: job["order"]["fields"].update(seq=9), "order.fields is not what was signed"),
        (lambda job: job["receipt"].pop("envelope"), "receipt.envelope is missing"),
        (lambda job: job.pop("receipt"), "receipt.envelope is missing"),
        (lambda job: job["receipt"].update(envelope="%"), "receipt.envelope is no base64"),
        (lambda job: job["countersign"].update(envelope=job["order"]["envelope"]), "expected b'/cxp2p/countersign/1'"),
        (other("order", OTHER_ORDER, golden.GATEWAY.seal(Kind.ORDER, encode(OTHER_ORDER))), "about another order"),
        (other("order", golden.ORDER, golden.NODE.seal(Kind.ORDER, encode(golden.ORDER))), "not signed by its gateway"),
        (dear, "charge is 9, at the order's prices 1 is owed"),
    ],
)
def test_a_receipt_that_does_not_hold_is_refused_with_the_reason(tmp_path: Path, change: Any, reason: str) -> None:
    """Both commands end with 1 and say what is wrong."""
    path = tmp_path / "receipt.json"
    path.write_bytes(answer_with(change))

    for command in ("show", "verify"):
        result = run("receipt", command, path)
        assert result.exit_code == 1
        assert reason in result.output


def test_a_disputed_receipt_is_shown_with_its_dispute(tmp_path: Path) -> None:
    """A receipt that asks too much is a true receipt; that its gateway disputes it is what matters."""
    path = tmp_path / "receipt.json"
    path.write_bytes(answer_with(lambda job: dear(job, DISPUTED)))
    result = run("receipt", "show", path)

    assert "the gateway disputes it: charge is 9, 1 is owed; 0.000000 credits" in result.output, result.output


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "malformed|expected"),
        (b"{", "not valid JSON"),
        (b'{"data": []}', "no list of 1 to"),
        (b'{"data": [1]}', "data.0 is no object"),
        (b"[" * 100_000, r"\w"),
        (b'{"a":' * 100_000, "not valid JSON"),
        (b'{"\xff": 1}', "not valid JSON"),
    ],
)
def test_what_is_no_receipt_is_refused(data: bytes, reason: str) -> None:
    """Whatever else is in a file: a reason, and nothing worse."""
    with pytest.raises(EpochInvalid, match=reason):
        settlements_in(data)


SPOKEN = json.dumps(gateway_answer()).encode()
KNOWN = settlements_in(SPOKEN)


@given(st.integers(0, len(SPOKEN) * 8 - 1))
def test_a_flipped_bit_of_a_gateways_answer_is_refused_or_changes_nothing_that_is_told(at: int) -> None:
    """JSON has bits that mean nothing: then what is told is still exactly what was signed."""
    flipped = bytearray(SPOKEN)
    flipped[at // 8] ^= 1 << at % 8
    try:
        told = settlements_in(bytes(flipped))
    except EpochInvalid:
        return
    assert [each.receipt_envelope for each in told] == [each.receipt_envelope for each in KNOWN]
    assert all(each.receipt == golden.RECEIPT for each in told)
    assert all(each.order in (golden.ORDER, None) for each in told)
    assert all(each.countersign in (golden.COUNTERSIGN, None) for each in told)


def test_an_epoch_is_shown_and_verified(file: Path) -> None:
    """From the file alone: whose, when, how much, and that every signature and the root hold."""
    shown, verified = run("epoch", "show", file), run("epoch", "verify", file)

    assert (shown.exit_code, verified.exit_code) == (0, 0), shown.output + verified.output
    for words in (
        GATEWAY.peer,
        "2027-01-15 08:00:00 UTC",
        "4, worth 0.000400 credits",
        "the default ones",
        "the first",
    ):
        assert words in shown.output
    assert f"{NODES[0].peer}: 2 receipts, 20 units in, 40 out, 0.000200 credits" in shown.output
    assert f"ok: epoch {EPOCH} of {GATEWAY.peer}: 4 receipts make root {ROOT.root.hex()}" in verified.output
    told = json.loads(run("epoch", "show", file, "--json").output)
    assert told["root"]["sum"] == sum(node["charge"] for node in told["nodes"]) == 400
    assert json.loads(run("epoch", "verify", file, "--json").output)["valid"] is True


def test_an_epoch_must_follow_the_one_before(tmp_path: Path, file: Path) -> None:
    """`--after` compares with the file of the hour before."""
    good, bad = tmp_path / "good", tmp_path / "bad"
    for path, before in ((good, digest(ENVELOPE)), (bad, b"x" * 32)):
        path.write_bytes(b"".join(published(hour(epoch=EPOCH + 1, prev_root=before)[0], ())))

    assert "it follows" in run("epoch", "verify", good, "--after", file).output
    result = run("epoch", "verify", bad, "--after", file)
    assert (result.exit_code, "prev_root is not the root before" in result.output) == (1, True)


@pytest.mark.parametrize("words", [("epoch", "show"), ("epoch", "verify"), ("rewards", "compute")])
def test_a_tampered_epoch_is_refused_by_every_command(tmp_path: Path, words: tuple[str, str]) -> None:
    """Exit code 1, the file's name and the reason; nothing of it is told as if it were true."""
    path = tmp_path / "epoch"
    for at in range(0, len(FILE), 211):
        path.write_bytes(FILE[:at] + bytes([FILE[at] ^ 1]) + FILE[at + 1 :])
        result = run(*words, path)
        assert result.exit_code == 1, at
        assert result.output.startswith(f"error: {path}: ")
    path.write_bytes(FILE[:-300])
    assert "ends in the middle of receipt 4" in run(*words, path).output
    path.unlink()
    assert "cannot be read: No such file" in run(*words, path).output


def test_rewards_are_computed_from_files_alone(file: Path) -> None:
    """The same file, the same numbers; all of the pool and of the charges is told."""
    told = json.loads(run("rewards", "compute", file, "--json").output)
    text = run("rewards", "compute", file).output

    assert told["epoch"] == EPOCH
    assert {each["node"]: (each["paid"], each["pool"]) for each in told["nodes"]} == {
        NODES[0].peer: (190, 6),
        NODES[1].peer: (190, 6),
    }
    assert (told["charged"], told["fee"], told["pool_left"]) == (400, 20, DEFAULT_RULES.pool - 12)
    assert f"node {NODES[0].peer}: 0.000190 credits from users, 0.000006 credits of the pool" in text
    assert "users were charged 0.000400 credits; fee 0.000020 credits" in text


def test_rules_and_verdicts_come_from_files(tmp_path: Path, file: Path) -> None:
    """Other rules are a file made from the default ones; the epoch must be by them. A verdict takes a share."""
    rules, verdicts = tmp_path / "rules.json", tmp_path / "verdicts.json"
    printed = run("rewards", "rules").output
    rules.write_text(printed)
    caught = ENTRIES[0]
    verdicts.write_text(json.dumps([{"receipt": caught.countersign.receipt_hash.hex(), "valid": False}]))
    told = json.loads(run("rewards", "compute", file, "--rules", rules, "--verdicts", verdicts, "--json").output)

    assert told["returned"] == 100
    assert {each["node"]: each["pool"] for each in told["nodes"] if each["caught"]} == {caught.receipt.node: 0}
    rules.write_text(printed.replace("50000", "50001"))
    result = run("rewards", "compute", file, "--rules", rules)
    assert (result.exit_code, "give --rules" in result.output) == (1, True)


@pytest.mark.parametrize(
    ("option", "text", "reason"),
    [
        ("--rules", "{}", "Field required"),
        ("--rules", "[]", "dataclass|dictionary"),
        ("--rules", '{"models": [{"model_digest": "xx"}]}', "models.0.model_digest is 'xx', expected hexadecimal"),
        ("--rules", "nothing", "not valid JSON"),
        ("--verdicts", "{}", "the verdicts are no list"),
        ("--verdicts", '[{"receipt": "00", "valid": true}]', "0: expected receipt, a hash of 64"),
        ("--verdicts", '[{"valid": true}]', "0.receipt is missing"),
    ],
)
def test_a_wrong_rule_or_verdict_is_named(tmp_path: Path, file: Path, option: str, text: str, reason: str) -> None:
    """The file and the field, and what was expected."""
    path = tmp_path / "wrong.json"
    path.write_text(text)
    result = run("rewards", "compute", file, option, path)

    assert (result.exit_code, str(path) in result.output) == (1, True)
    assert re.search(reason, result.output), result.output


def test_files_of_one_gateway_or_of_several_hours_do_not_add_up(tmp_path: Path, file: Path) -> None:
    """No receipt is paid twice because its file was given twice."""
    later = tmp_path / "later"
    foreign = hour(gateway=NODES[3].peer, epoch=EPOCH + 1, rules_hash=DEFAULTS)[1]
    later.write_bytes(b"".join(published(NODES[3].seal(Kind.EPOCH_ROOT, encode(foreign)), ())))

    assert "of which there is another file" in run("rewards", "compute", file, file).output
    result = run("rewards", "compute", file, later)
    assert (result.exit_code, "of several epochs" in result.output) == (1, True)


def test_a_late_receipt_does_not_count_twice(tmp_path: Path, file: Path) -> None:
    """With the epochs before at hand, a receipt that a gateway put under two roots is found and named."""
    for name, entries in (("twice", ENTRIES[:1]), ("late", (entry(0, 9),))):
        root, ordered, _ = close_epoch(GATEWAY.peer, EPOCH + 1, entries, digest(ENVELOPE), DEFAULTS)
        envelope = GATEWAY.seal(Kind.EPOCH_ROOT, encode(root))
        (tmp_path / name).write_bytes(b"".join(published(envelope, ordered)))
    good = run("rewards", "compute", tmp_path / "late", "--earlier", file, "--json")
    result = run("rewards", "compute", tmp_path / "twice", "--earlier", file)

    assert json.loads(good.output)["charged"] == 100
    assert result.exit_code == 1
    assert f"receipt {ENTRIES[0].countersign.receipt_hash.hex()} stands in an epoch before" in result.output
    assert "expected one before" in run("rewards", "compute", file, "--earlier", file).output


@pytest.mark.parametrize("words", [("receipt", "show"), ("receipt", "verify"), ("evidence", "show"), ("epoch", "show")])
def test_an_empty_file_is_told_as_that(tmp_path: Path, words: tuple[str, str]) -> None:
    """As curl leaves one if it had no answer."""
    (tmp_path / "none").touch()
    done = run(*words, tmp_path / "none")
    assert done.exit_code == 1
    assert re.search("none:? .*is empty", done.stderr)


def test_an_omission_may_be_answered(tmp_path: Path) -> None:
    """What a root leaves out may be late: no command says that this convicts before its gateway was asked."""
    path = tmp_path / "omitted.evidence"
    path.write_bytes(encode(omission(ENVELOPE, entry(0, 9), ENTRIES, TREE)))
    for words in ("show", "verify"):
        told = run("evidence", words, path)
        assert told.exit_code == 0
        assert "unless a root up to 24 epochs after the receipt's counts it" in told.stdout
        assert "nobody else" not in told.stdout


def test_control_characters_of_strangers_do_not_reach_the_terminal(tmp_path: Path) -> None:
    """A reason is a gateway's own words: they are spelled out."""
    path = tmp_path / "receipt.json"
    said = "\x1b[2J charge"
    envelope, answer = seal(receipt_of(), verdict=Verdict.DISPUTED, charge=0, reason=said)
    parts = (("receipt", envelope), ("countersign", answer))
    told = {name: {"envelope": base64.b64encode(each).decode()} for name, each in parts}
    path.write_text(json.dumps(told))
    result = run("receipt", "show", path)

    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output
    assert r"\x1b[2J charge" in result.output
