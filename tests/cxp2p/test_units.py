"""What a job may take in and give, and how what it gave is counted and committed."""

from __future__ import annotations

import struct
from hashlib import sha256
from typing import Any

import pytest

from cxp2p.errors import RemoteProtocolError
from cxp2p.merkle import merkle_root
from cxp2p.records import ChatJob, EmbedJob, Job, Message, Piece, Role, ScrapeJob, Service, SpeechJob
from cxp2p.testing.records import make_capability
from cxp2p.units import Output, answer_bytes_max, input_units_max, longest_input_bytes, output_commit, output_units_max
from cxp2p.wire import decode, encode

CHAT = ChatJob(model="m", messages=(Message(role=Role.USER, content="x" * 1000),))
VECTOR = struct.pack("<384f", *([0.05] * 384))


def embed(*inputs: str | tuple[int, ...]) -> EmbedJob:
    return EmbedJob(model="m", inputs=inputs)


@pytest.mark.parametrize(
    ("job", "context_units", "units"),
    [
        (CHAT, 10_000, len(encode(CHAT)) + 512),
        (CHAT, 800, 800),
        (embed("four", "é"), 100, (4 + 8) + (2 + 8)),
        (embed("x" * 1000, "four"), 100, 100 + (4 + 8)),
        (embed((1, 2, 3)), 100, 3 + 8),
        (SpeechJob(model="m", text="Grüße"), 10, 5),
        (ScrapeJob(model="m", urls=("http://a", "http://b")), 10, 2),
    ],
)
def test_the_most_input_units_of_a_job(job: Job, context_units: int, units: int) -> None:
    """A chat is one prompt; each input of an embedding is cut at the context by itself."""
    assert input_units_max(job, encode(job), context_units) == units


def test_as_many_vectors_are_ordered_as_there_are_inputs() -> None:
    """What a node offers does not change that; the bytes that it may send follow from it."""
    job = embed("a", "b", "c")

    assert output_units_max(job, make_capability()) == 3
    assert 3 * 8192 * 4 < answer_bytes_max(job, 3) < 3 * 40_000 + 65_536


@pytest.mark.parametrize(("speed", "ms"), [(1.0, 85_000), (2.0, 45_000), (0.25, 325_000)])
def test_slow_speech_may_be_longer(speed: float, ms: int) -> None:
    """Audio is ordered by the letters and the speed, and bytes by the audio."""
    job = SpeechJob(model="m", text="x" * 100, speed=speed)

    assert output_units_max(job, make_capability()) == ms
    assert 44.1 * ms < answer_bytes_max(job, ms) < 50 * ms + 65_536


def test_a_page_is_a_unit() -> None:
    """As many pages are ordered as there are addresses."""
    job = ScrapeJob(model="m", urls=("http://a",) * 50)

    assert output_units_max(job, make_capability()) == 50
    assert answer_bytes_max(job, 50) == 65_536 + 50 * 4 * 1024 * 1024


def test_only_the_longest_input_must_fit() -> None:
    """Many short inputs are no long prompt."""
    job = embed(*["short"] * 1000, "longer than all others")

    assert longest_input_bytes(job, encode(job)) == len("longer than all others")
    assert longest_input_bytes(CHAT, encode(CHAT)) == len(encode(CHAT))


def test_a_chat_commits_to_its_token_ids() -> None:
    """In pieces or in one."""
    output = Output(Service.CHAT)
    for token in range(100):
        output.add(Piece(text="x", token_ids=(token,)))

    assert output.units == 100
    assert output.commit() == output_commit(range(100))


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 200_000])
@pytest.mark.parametrize("step", [1000, 65_536, 70_000])
def test_other_services_commit_to_their_bytes(size: int, step: int) -> None:
    """Leaves are of 64 KiB, however the bytes were cut on their way."""
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    output = Output(Service.EMBED)
    for start in range(0, size, step):
        output.add(Piece(data=data[start : start + step], units=2))

    leaves = [data[start : start + 65_536] for start in range(0, size, 65_536)]
    assert output.units == 2 * len(range(0, size, step))
    assert output.commit() == merkle_root(leaves)
    assert size or output.commit() == sha256().digest()


@pytest.mark.parametrize(
    ("service", "piece"),
    [
        (Service.CHAT, Piece(data=VECTOR)),
        (Service.CHAT, Piece(text="x", units=1)),
        (Service.EMBED, Piece(text="x")),
        (Service.EMBED, Piece(token_ids=(1,), data=VECTOR)),
    ],
)
def test_a_piece_of_another_kind_is_refused(service: Service, piece: Piece) -> None:
    """A chat has no bytes, and a vector no tokens."""
    with pytest.raises(RemoteProtocolError, match="another kind"):
        Output(service).add(piece)


@pytest.mark.parametrize("job", [embed("a", "Grüße"), embed((1, 2), (3,)), embed("a", (7,))])
def test_an_embed_job_survives_the_wire(job: EmbedJob) -> None:
    """Texts stay texts, tokens tokens."""
    assert decode(EmbedJob, encode(job)) == job


@pytest.mark.parametrize(
    "job", [{"inputs": ()}, {"inputs": ("x",) * 2049}, {"inputs": ((),)}, {"inputs": (1,)}, {"inputs": ((-1,),)}]
)
def test_an_embed_job_has_limits(job: dict[str, Any]) -> None:
    """From 1 to 2,048 inputs, none without a token."""
    with pytest.raises(ValueError, match="inputs"):
        EmbedJob(model="m", **job)
