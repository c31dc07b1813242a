"""What a GGUF file says of itself, and what one that lies can do: nothing but be refused."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES
from hypothesis import given, settings
from hypothesis import strategies as st

from cxp2p.records import Service
from cxp2p_node.models import header
from cxp2p_node.models.facts import FILE_TYPES, POOLINGS, ModelFacts, facts_of
from cxp2p_node.models.gguf_write import f32, flag, i32s, text, texts, u32, write_gguf
from cxp2p_node.models.header import BLOCKS, HEADER_BYTES_MAX, HeaderError
from tiny_model import CONTEXT, HEADS, TEMPLATE, WIDTH, write_tiny_model

Packed = dict[str, bytes]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf")


def fields(architecture: str = "llama", **changes: bytes) -> Packed:
    """The least that a model must say; a change with the name of a number is put under the architecture's."""
    own = {
        "context_length": u32(512),
        "embedding_length": u32(64),
        "block_count": u32(2),
        "feed_forward_length": u32(128),
        "attention.head_count": u32(4),
        **{key.replace("__", "."): value for key, value in changes.items()},
    }
    numbers = {f"{architecture}.{key}": value for key, value in own.items() if value}
    return {"general.architecture": text(architecture), **numbers, "tokenizer.ggml.tokens": texts(["a", "b", "c"])}


def written(path: Path, packed: Packed) -> Path:
    write_gguf(path, packed, {"token_embd.weight": np.zeros((3, 64), np.float32)})
    return path


def facts(path: Path, packed: Packed) -> ModelFacts:
    return facts_of(written(path / "made.gguf", packed))


def test_the_facts_of_a_chat_model(tiny: Path) -> None:
    """Another program wrote the file; what is read is what was given there."""
    found = facts_of(tiny)
    assert (found.architecture, found.name, found.service, found.pooling) == ("llama", "tiny", Service.CHAT, None)
    assert (found.layers, found.width, found.inner_width, found.context_units) == (1, WIDTH, WIDTH, CONTEXT)
    assert found.cache_widths == (2 * HEADS * (WIDTH // HEADS),)
    assert found.vocabulary == 261
    assert found.chat_template == TEMPLATE
    assert found.file_bytes == tiny.stat().st_size
    reader = gguf.GGUFReader(tiny)
    assert found.parameters == sum(int(tensor.n_elements) for tensor in reader.tensors)


def test_facts_that_differ_from_layer_to_layer(tmp_path: Path) -> None:
    heads = i32s([0, 2])
    found = facts(tmp_path, fields(attention__head_count_kv=heads, attention__key_length=u32(32)))
    assert found.cache_widths == (0, 2 * (32 + 16))


@pytest.mark.parametrize(
    ("architecture", "pooling", "service", "named"),
    [
        ("bert", 1, Service.EMBED, "mean"),
        ("bert", 2, Service.EMBED, "cls"),
        ("nomic-bert", 0, Service.EMBED, "mean"),
        ("qwen3", 3, Service.EMBED, "last"),
        ("qwen3", 0, Service.CHAT, None),
    ],
)
def test_pooling_makes_an_embedding_model(
    tmp_path: Path, architecture: str, pooling: int, service: Service, named: str | None
) -> None:
    found = facts(tmp_path, fields(architecture, pooling_type=u32(pooling)))
    assert (found.service, found.pooling) == (service, named)
    assert bool(found.cache_widths) == (architecture == "qwen3")  # encoders keep nothing


def test_experts_count_as_many_as_are_used(tmp_path: Path) -> None:
    found = facts(tmp_path, fields(expert_used_count=u32(4), expert_feed_forward_length=u32(100)))
    assert found.inner_width == 400


def test_the_tables_are_those_of_the_format() -> None:
    """The `gguf` package, of llama.cpp's own makers, knows the same types, file types and poolings."""
    assert {kind.value: sizes for kind, sizes in GGML_QUANT_SIZES.items()} == dict(BLOCKS)
    known = {kind.value: kind.name.removeprefix("MOSTLY_").removeprefix("ALL_") for kind in gguf.LlamaFileType}
    assert {kind: name.removesuffix("_MOE") for kind, name in known.items() if kind in FILE_TYPES} == dict(FILE_TYPES)
    assert {kind: gguf.PoolingType(kind).name.lower() for kind in POOLINGS} == dict(POOLINGS)


def joined(*parts: bytes) -> bytes:
    return b"".join(parts)


def string(data: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(data) if length is None else length) + data


def start(tensors: int = 0, count: int = 1, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, count)


HUGE = (1 << 64) - 1
ENTRY = string(b"a.b") + u32(1)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "it is not whole: it ends within its header, after 0 bytes"),
        (b"GGML" + bytes(60), "does not begin with GGUF"),
        (start(version=1), "it is of version 1; read are"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 1), "it is big-endian, version 3"),
        (start(tensors=HUGE), "claims 18446744073709551615 tensors and 1 fields"),
        (start(count=HUGE), "and 18446744073709551615 fields"),
        (start() + string(b"x", HUGE), "the name of a field has 18446744073709551615 bytes, at most 65536"),
        (start() + string(b"x", 9), "ends within its header"),
        (start() + string(b"\xff"), "the name of a field is not UTF-8"),
        (start(count=2) + ENTRY + ENTRY, r"the field 'a\.b' stands twice"),
        (start() + string(b"a") + struct.pack("<I", 99), "the field 'a' has the type 99, which is not known"),
        (start() + string(b"a") + struct.pack("<IQ", 8, 1 << 21), "the field 'a' has 2097152 bytes, at most 1048576"),
        (start() + string(b"a") + struct.pack("<IIQ", 9, 9, 1), "the field 'a' has the type 9"),  # arrays in arrays
        (start() + string(b"a") + struct.pack("<IIQ", 9, 4, HUGE), "ends within its header"),
        (start() + string(b"a") + struct.pack("<IIQ", 9, 8, HUGE), "claims 18446744073709551615 entries"),
        (start() + string(b"a") + struct.pack("<IIQQ", 9, 8, 1, HUGE), "ends within its header"),
        (start() + string(b"general.alignment") + u32(0), "its alignment is 0, expected is a power of two"),
        (start() + string(b"general.alignment") + u32(48), "its alignment is 48"),
        (start(1, 0) + string(b"t") + struct.pack("<I", 99), "the tensor 't' has 99 dimensions, at most 4"),
        (
            start(1, 0) + string(b"t") + struct.pack("<IQIQ", 1, HUGE, 0, HUGE),
            r"its tensors end at 922337203685477\d+",
        ),
    ],
)
def test_what_is_no_whole_header_is_told(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    with pytest.raises(HeaderError, match=said):
        facts_of(path)


def test_a_header_is_read_up_to_its_limit_only(tmp_path: Path) -> None:
    """A file that is all header, and takes no room on the disk, costs no more memory or time than a large one."""
    path = tmp_path / "sparse.gguf"
    with path.open("wb") as sink:
        sink.write(start() + string(b"a") + struct.pack("<IIQ", 9, 0, 1 << 40))
        sink.truncate(1 << 41)
    with pytest.raises(HeaderError, match="its header has more than 64 MiB"):
        facts_of(path)


def test_a_vocabulary_of_nothing_ends_at_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header, "HEADER_BYTES_MAX", 1 << 16)
    path = tmp_path / "sparse.gguf"
    with path.open("wb") as sink:
        sink.write(start() + string(b"a") + struct.pack("<IIQ", 9, 8, 1 << 13))
        sink.truncate(HEADER_BYTES_MAX)
    with pytest.raises(HeaderError, match="its header has more than"):
        facts_of(path)


@pytest.mark.parametrize(
    ("packed", "said"),
    [
        ({}, r"the field 'general\.architecture' is missing"),
        ({"general.architecture": u32(1)}, r"the field 'general\.architecture' is missing or no name"),
        ({"general.architecture": text("a\x1b[2J")}, "missing or no name"),
        (fields("clip"), "of the kind 'clip'; served are language models and embedding models"),
        ({**fields(), "general.type": text("adapter")}, "of the kind 'adapter'"),
        ({**fields(), "split.count": u32(3)}, r"one of 3 parts: join them with `llama-gguf-split --merge`"),
        (fields(pooling_type=u32(4)), "it ranks texts"),
        (fields(pooling_type=u32(9)), r"'llama\.pooling_type' is 9"),
        (fields(block_count=b""), r"the field 'llama\.block_count' is missing"),
        (fields(block_count=u32(5000)), r"'llama\.block_count' is 5000, expected are numbers from 0 to 4096"),
        (fields(block_count=f32(2.0)), r"'llama\.block_count' is 2\.0, expected"),
        (fields(block_count=text("two")), r"'llama\.block_count' is two, expected"),
        (fields(embedding_length=i32s([-1])), r"'llama\.embedding_length' is \(-1,\), expected"),
        (fields(embedding_length=i32s([])), r"'llama\.embedding_length' is \(\), expected"),
        (fields(context_length=texts(["a"])), r"'llama\.context_length' is Entries\(count=1\), expected"),
    ],
)
def test_what_is_no_model_is_told(tmp_path: Path, packed: Packed, said: str) -> None:
    with pytest.raises(HeaderError, match=said):
        facts(tmp_path, packed)


def test_odd_values_beside_the_needed_ones_do_no_harm(tmp_path: Path) -> None:
    odd = {"general.name": u32(1), "general.file_type": flag(True), "tokenizer.chat_template": f32(1.0)}
    found = facts(tmp_path, {**fields(), **odd, "tokenizer.ggml.tokens": text("none"), "llama.vocab_size": u32(7)})
    assert (found.name, found.chat_template, found.vocabulary) == ("", None, 7)


def test_a_licence_is_shown_if_it_fits_a_line(tmp_path: Path) -> None:
    for name, shown in (("apache-2.0", "apache-2.0"), ("a\nb", ""), ("x" * 65, "")):
        assert facts(tmp_path, {**fields(), "general.license": text(name)}).licence == shown


def test_a_file_that_lost_its_end_is_told(tiny: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(tiny.read_bytes()[:-1])
    with pytest.raises(HeaderError, match=r"it is not whole: it has \d+ bytes, and its tensors end at \d+"):
        facts_of(cut)


def spoiled(data: bytes, changes: Iterable[tuple[int, int]]) -> bytes:
    made = bytearray(data)
    for at, value in changes:
        made[at % len(made)] = value
    return bytes(made)


SPOIL = st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=8)
SMALL = 400  # bytes of a header in which each field stands close to the next: a change is more likely to matter


@given(changes=SPOIL, cut=st.integers(0, 1 << 20))
@settings(max_examples=400, deadline=None)
def test_a_spoiled_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]], cut: int
) -> None:
    """Whatever bytes change, and wherever it ends: no other error, and nothing that takes long."""
    folder = tmp_path_factory.mktemp("spoiled")
    data = written(folder / "whole.gguf", fields(attention__head_count_kv=i32s([2, 2]))).read_bytes()
    made = spoiled(
        data[: cut % len(data) + 1] if cut % 3 == 0 else data, [(at % SMALL, value) for at, value in changes]
    )
    (folder / "spoiled.gguf").write_bytes(made)
    with suppress(HeaderError):
        facts_of(folder / "spoiled.gguf")
