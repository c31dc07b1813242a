"""What a GGUF file says of its model, checked and named as this program names it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cxp2p.records import Service
from cxp2p_node.models.header import Entries, Header, HeaderError, Value, read_header

LAYERS_MAX = 4096
LICENCE_MAX = 64  # letters of its name
WIDTH_MAX = 1 << 24  # more than any width, context or vocabulary of today by far

POOLINGS: Final[Mapping[int, str]] = {1: "mean", 2: "cls", 3: "last"}
NO_POOLING, RANK_POOLING = 0, 4

# Encoders: they keep nothing of a text but its vector, so llama.cpp gives them no cache.
ENCODERS: Final = frozenset(
    {"bert", "jina-bert-v2", "jina-bert-v3", "nomic-bert", "nomic-bert-moe", "neo-bert", "eurobert", "modern-bert"}
    | {"gemma-embedding"}
)
NOT_SERVED: Final = frozenset({"clip", "t5", "t5encoder", "wavtokenizer-dec", "imatrix", "dream", "llada", "rnd1"})

FILE_TYPES: Final[Mapping[int, str]] = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS",
    21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4", 39: "NVFP4",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """`cache_widths`: for each layer, the numbers that it keeps of one token. `pooling`: None for a chat model.

    `inner_width` is what is computed at once between a layer's halves: of all experts that are used together.
    `state_bytes` is what recurrent layers keep of a whole sequence.
    """

    architecture: str
    name: str
    service: Service
    file_bytes: int
    parameters: int
    quantisation: str
    layers: int
    width: int
    inner_width: int
    cache_widths: tuple[int, ...]
    state_bytes: int
    context_units: int
    vocabulary: int
    sliding: bool
    pooling: str | None
    chat_template: str | None
    licence: str = ""


def facts_of(path: Path) -> ModelFacts:
    """The facts of the model in the file at `path`. Raises HeaderError, and OSError if it cannot be read."""
    return facts_from(read_header(path))


def facts_from(header: Header) -> ModelFacts:
    """The facts in a header. Raises HeaderError if it is not of a model that can be served."""
    fields = header.fields
    architecture = _text(fields, "general.architecture")
    _check_kind(fields, architecture)
    of = _Numbers(fields, architecture)
    layers = of.one("block_count", most=LAYERS_MAX)
    vocabulary = fields.get("tokenizer.ggml.tokens")
    words = vocabulary.count if isinstance(vocabulary, Entries) else 0
    template = fields.get("tokenizer.chat_template")
    name, file_type = fields.get("general.name"), fields.get("general.file_type")
    pooling = _pooling(fields, architecture)
    encoder = architecture in ENCODERS
    return ModelFacts(
        architecture=architecture,
        name=name if isinstance(name, str) else "",
        service=Service.CHAT if pooling is None else Service.EMBED,
        file_bytes=header.file_bytes,
        parameters=header.parameters,
        quantisation=FILE_TYPES.get(file_type, "mixed") if isinstance(file_type, int) else "mixed",
        layers=layers,
        width=of.one("embedding_length"),
        inner_width=_inner_width(of, layers),
        cache_widths=() if encoder else _cache_widths(of, layers),
        state_bytes=_state_bytes(of, layers),
        context_units=of.one("context_length"),
        vocabulary=words or of.one("vocab_size", 0),
        sliding=of.one("attention.sliding_window", 0) > 0,
        pooling=pooling,
        chat_template=template if isinstance(template, str) else None,
        licence=_licence(fields.get("general.license")),
    )


def _licence(value: Value | None) -> str:
    """The licence that a file names; nothing if it is none that can be shown in a line."""
    return value if isinstance(value, str) and value.isprintable() and len(value) <= LICENCE_MAX else ""


class _Numbers:
    """The numbers under an architecture's name."""

    def __init__(self, fields: Mapping[str, Value], architecture: str) -> None:
        self._fields = fields
        self._architecture = architecture

    def __contains__(self, key: str) -> bool:
        return f"{self._architecture}.{key}" in self._fields

    def one(self, key: str, default: int | None = None, *, most: int = WIDTH_MAX) -> int:
        """One number; the largest, where there is one for each layer."""
        return max(self.each(key, 1, default, most=most))

    def each(self, key: str, layers: int, default: int | None = None, *, most: int = WIDTH_MAX) -> tuple[int, ...]:
        """One number for each layer."""
        name = f"{self._architecture}.{key}"
        value = self._fields.get(name, default)
        if value is None:
            raise HeaderError(f"the field {name!r} is missing")
        values = value if isinstance(value, tuple) else (value,)
        numbers = tuple(each for each in values if isinstance(each, int))
        if not numbers or len(numbers) < len(values) or not all(0 <= each <= most for each in numbers):
            raise HeaderError(f"the field {name!r} is {str(value)[:64]}, expected are numbers from 0 to {most}")
        return numbers * layers if len(numbers) == 1 else numbers


def _inner_width(of: _Numbers, layers: int) -> int:
    dense = of.one("feed_forward_length", 0)
    used = of.one("expert_used_count", 0)
    expert = of.one("expert_feed_forward_length", dense)
    shared = of.one("expert_shared_feed_forward_length", 0)
    return max(dense, used * expert + shared)


def _cache_widths(of: _Numbers, layers: int) -> tuple[int, ...]:
    heads = of.each("attention.head_count", layers, 0)
    most = max(heads)
    default = of.one("embedding_length") // most if most else 0
    key = of.one("attention.key_length", default)
    value = 0 if "attention.key_length_mla" in of else of.one("attention.value_length", default)
    shared = of.each("attention.head_count_kv", layers, most)
    return tuple(each * (key + value) for each in shared)


def _state_bytes(of: _Numbers, layers: int) -> int:
    """For state-space layers; where only some are, all are counted, as files do not say it in one way."""
    state, inner = of.one("ssm.state_size", 0), of.one("ssm.inner_size", 0)
    groups, kernel = of.one("ssm.group_count", 0), of.one("ssm.conv_kernel", 0)
    short = of.one("shortconv.l_cache", 0)
    kept = state * inner + max(kernel - 1, 0) * (inner + 2 * groups * state)
    return 4 * layers * (kept + max(short - 1, 0) * of.one("embedding_length"))


def _check_kind(fields: Mapping[str, Value], architecture: str) -> None:
    kind = fields.get("general.type", "model")
    if kind != "model" or architecture in NOT_SERVED:
        what = architecture if kind == "model" else str(kind)[:32]
        raise HeaderError(f"it is of the kind {what!r}; served are language models and embedding models")
    parts = fields.get("split.count", 0)
    if isinstance(parts, int) and parts > 1:
        raise HeaderError(f"it is one of {parts} parts: join them with `llama-gguf-split --merge` first")


def _pooling(fields: Mapping[str, Value], architecture: str) -> str | None:
    """How an embedding model makes one vector of a text."""
    value = fields.get(f"{architecture}.pooling_type", NO_POOLING)
    if value == RANK_POOLING:
        raise HeaderError("it ranks texts (its pooling is `rank`); served are language models and embedding models")
    if value == NO_POOLING:
        return "mean" if architecture in ENCODERS else None
    if not isinstance(value, int) or value not in POOLINGS:
        raise HeaderError(f"the field '{architecture}.pooling_type' is {str(value)[:32]}, known are 0 to 4")
    return POOLINGS[value]


def _text(fields: Mapping[str, Value], key: str) -> str:
    value = fields.get(key)
    if not isinstance(value, str) or not value or len(value) > 64 or not value.isprintable():
        raise HeaderError(f"the field {key!r} is missing or no name: is it a model file?")
    return value
