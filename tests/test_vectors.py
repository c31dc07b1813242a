"""The golden bytes: what went over the wire yesterday still does."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

import golden
from cxp2p import protocols
from cxp2p.epoch_files import read_epoch
from cxp2p.epochs import Inclusion, check_inclusion, open_root
from cxp2p.errors import RemoteProtocolError
from cxp2p.evidence import check_evidence
from cxp2p.identity import Kind, identity_from_seed, open_envelope
from cxp2p.merkle import Proof, Sum, check_proof, sum_leaf
from cxp2p.receipts import Delivered, Lane, check_receipt, digest, request_commit
from cxp2p.records import ChatJob, Countersign, EpochRoot, Offer, Order, Receipt, Voucher
from cxp2p.units import output_commit
from cxp2p.wire import RECORD_OF_TAG, FrameReader, decode, encode, encode_frame

RECORD_OF_KIND: dict[Kind, type] = {
    Kind.OFFER: Offer,
    Kind.ORDER: Order,
    Kind.VOUCHER: Voucher,
    Kind.RECEIPT: Receipt,
    Kind.COUNTERSIGN: Countersign,
    Kind.EPOCH_ROOT: EpochRoot,
}


def stored(name: str) -> Any:
    return json.loads((golden.VECTORS / name).read_text())


def frame_in(data: bytes) -> object:
    reader = FrameReader(protocols.ASK_BYTES_MAX)
    reader.feed(data)
    record = reader.next()
    assert reader.empty
    return record


@pytest.mark.parametrize("name", golden.files())
def test_the_files_are_what_the_code_makes(name: str) -> None:
    """The bytes that this version sends are the stored ones. If not: a new protocol id, see tests/golden.py."""
    assert (golden.VECTORS / name).read_text() == golden.text(golden.files()[name])


@pytest.mark.parametrize("vector", stored("frames.json"), ids=lambda vector: vector["name"])
def test_a_golden_frame_reads_and_writes(vector: dict[str, Any]) -> None:
    """Each frame decodes to its record with its fields, and that record encodes to the same bytes."""
    data = bytes.fromhex(vector["frame"])
    record = frame_in(data)

    assert type(record).__name__ == vector["record"] == RECORD_OF_TAG[vector["tag"]].__name__
    assert golden.fields(record) == vector["fields"]
    assert encode_frame(record) == data


@pytest.mark.parametrize("vector", stored("envelopes.json"), ids=lambda vector: vector["kind"])
def test_a_golden_envelope_opens_and_is_made_again(vector: dict[str, Any]) -> None:
    """Each envelope opens to its signer and record; the same key and record give the same bytes."""
    kind = Kind(vector["kind"])
    envelope = bytes.fromhex(vector["envelope"])
    opened = open_envelope(kind, envelope)
    record: object = decode(RECORD_OF_KIND[kind], opened.body)

    assert opened.peer == vector["peer"]
    assert golden.fields(record) == vector["fields"]
    assert digest(envelope).hex() == vector["sha256"]
    assert identity_from_seed(bytes.fromhex(vector["seed"])).seal(kind, encode(record)) == envelope


@pytest.mark.parametrize("vector", stored("envelopes.json"), ids=lambda vector: vector["kind"])
def test_a_golden_envelope_is_of_one_kind(vector: dict[str, Any]) -> None:
    """A signature of one kind is not valid as any other."""
    for kind in set(Kind) - {Kind(vector["kind"])}:
        with pytest.raises(RemoteProtocolError):
            open_envelope(kind, bytes.fromhex(vector["envelope"]))


def test_every_frame_and_kind_has_a_vector() -> None:
    """Whoever adds a tag or a kind of signature adds its golden bytes."""
    assert {vector["tag"] for vector in stored("frames.json")} == set(RECORD_OF_TAG)
    assert {vector["kind"] for vector in stored("envelopes.json")} == set(Kind)


def test_the_golden_job_holds_together() -> None:
    """The asker of the golden job accepts its receipt, and says so in the golden countersign."""
    lane = Lane(lane=golden.ORDER.lane, seq=3, head=golden.ORDER.prev_receipt, cum_charge=100)
    envelopes = {vector["kind"]: bytes.fromhex(vector["envelope"]) for vector in stored("envelopes.json")}
    answer = check_receipt(
        golden.ORDER,
        envelopes["order"],
        lane,
        golden.NODE.peer,
        decode(Receipt, open_envelope(Kind.RECEIPT, envelopes["receipt"]).body),
        envelopes["receipt"],
        Delivered(units=len(golden.TOKEN_IDS), commit=output_commit(golden.TOKEN_IDS)),
    )

    assert answer == golden.COUNTERSIGN


def test_the_golden_commitments_hold() -> None:
    """Request and output are committed to as stored; the request is a chat job."""
    request = stored("commitments.json")["request"]
    data = bytes.fromhex(request["request"])

    assert golden.fields(decode(ChatJob, data)) == request["fields"]
    assert request_commit(bytes.fromhex(request["salt"]), data).hex() == request["request_commit"]
    for vector in stored("commitments.json")["output"]:
        count = int(vector["token_ids"].partition("..")[2]) + 1 if vector["token_ids"] else 0
        assert output_commit(range(count)).hex() == vector["output_commit"]


@pytest.mark.parametrize("vector", stored("sums.json"), ids=lambda vector: str(vector["root"]["count"]))
def test_a_golden_tree_proves_each_leaf(vector: dict[str, Any]) -> None:
    """Each leaf is made of its amount and content, and its stored path leads to the stored root."""

    def node(fields: dict[str, Any]) -> Sum:
        return Sum(fields["amount"], fields["count"], bytes.fromhex(fields["hash"]))

    root = node(vector["root"])
    assert root.count == len(vector["leaves"])
    for index, each in enumerate(vector["leaves"]):
        leaf = sum_leaf(each["amount"], bytes.fromhex(each["content"]))
        assert leaf.hash.hex() == each["hash"]
        check_proof(root, leaf, Proof(index, root.count, tuple(node(fields) for fields in each["path"])))


def test_the_golden_epoch_verifies() -> None:
    """The stored file holds under its root, each receipt by its own proof too, and the evidence convicts who signed."""
    vector = stored("epochs.json")
    epoch = read_epoch([bytes.fromhex(vector["published"])])

    for entry, stored_entry in zip(epoch.entries, vector["entries"], strict=True):
        assert entry.receipt_envelope.hex() == stored_entry["receipt"]
        assert (entry.amount, entry.leaf().hash.hex()) == (stored_entry["amount"], stored_entry["leaf"])
        inclusion = decode(Inclusion, bytes.fromhex(stored_entry["inclusion"]))
        assert check_inclusion(inclusion) == (epoch.root, entry)
    assert epoch.root == open_root(bytes.fromhex(vector["root"])) == golden.EPOCH_ROOT
    accused = {name: check_evidence(bytes.fromhex(data)).peer for name, data in vector["evidence"].items()}
    assert accused == {"two-roots": golden.GATEWAY.peer, "two-receipts": golden.NODE.peer}


@pytest.mark.parametrize("vector", stored("refused.json"), ids=lambda vector: vector["why"])
def test_a_golden_fault_is_refused(vector: dict[str, Any]) -> None:
    """Bytes that no peer may send are refused, each for its own reason."""
    with pytest.raises(RemoteProtocolError):
        frame_in(bytes.fromhex(vector["frame"]))


def test_the_faults_are_one_step_from_right() -> None:
    """What the faults were made from is right: they are refused for the fault alone."""
    assert encode_frame(golden.FRAMES["cancel"]).hex() == "038205a0"
    assert encode_frame(replace(golden.FRAMES["accepted"], queued=1)).hex() == "0b8202a16671756575656401"  # type: ignore[type-var]
