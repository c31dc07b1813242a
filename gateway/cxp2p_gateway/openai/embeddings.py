"""An embeddings request and its answer, in OpenAI's JSON. Raises Fault, which names the parameter."""

from __future__ import annotations

import base64
import json
import struct
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from cxp2p.embed import DIMENSIONS_MAX, PART_VALUES_MAX, Input, shortened
from cxp2p.known_models import name_of
from cxp2p_gateway.faults import Condition, Fault, invalid_type, out_of_range, unsupported
from cxp2p_gateway.fields import Fields, checked_text, kind_of, ranged_length
from cxp2p_gateway.openai.ask import MODEL_LENGTH_MAX
from cxp2p_gateway.openai.cl100k import Cl100k
from cxp2p_gateway.openai.floats import floats_json

INPUTS_MAX: Final = 2048
TOKENS_MAX: Final = PART_VALUES_MAX - 1  # of one input: it goes to a node in one piece
TOKEN_ID_MAX: Final = 2**32 - 1
LETTERS_MAX: Final = 16 * 1024 * 1024  # of all inputs: as many as fit into a body, where token ids may become more
NUMBERS_AT_ONCE: Final = 1024  # are written before others get their turn: a millisecond
MATRYOSHKA: Final = (
    "embeddinggemma",
    "jina-embeddings-v3",
    "mxbai-embed-large",
    "nomic-embed-text",
    "qwen3-embedding",
    "snowflake-arctic-embed2",
)
NO_TOKENS: Final = (
    "token ids mean something else to each model; pass strings (LangChain: check_embedding_ctx_length=False)"
)


class TokenInput(StrEnum):
    """What becomes of token ids instead of text: they are refused, taken for the model's own, or for OpenAI's."""

    REJECT = "reject"
    NATIVE = "native"
    CL100K = "cl100k"


class Encoding(StrEnum):
    """How a vector is written: as numbers, or as base64 of float32, little-endian."""

    FLOAT = "float"
    BASE64 = "base64"


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedRules:
    """What this gateway's operator allows. `matryoshka`: models whose vectors may be shortened, each with its tags.

    `native`: models whose own token ids are taken, whatever becomes of others'. `cl100k`: what makes text of OpenAI's;
    without it those are refused.
    """

    token_input: TokenInput = TokenInput.REJECT
    native: tuple[str, ...] = ()
    cl100k: Cl100k | None = None
    matryoshka: tuple[str, ...] = MATRYOSHKA

    def tokens_of(self, model: str) -> TokenInput:
        """What becomes of token ids for this model."""
        if model in self.native or name_of(model) in self.native:
            return TokenInput.NATIVE
        return self.token_input

    def shortens(self, model: str) -> bool:
        """Whether the first numbers of this model's vectors are vectors too."""
        return any(
            name in self.matryoshka for name in (model, model.partition(":")[0], name_of(model).partition(":")[0])
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedAsk:
    """An embeddings request. `dimensions` None: as many as the model makes."""

    model: str
    inputs: tuple[Input, ...]
    truncate: bool
    encoding: Encoding
    dimensions: int | None


def embed_ask(body: dict[str, Any], rules: EmbedRules) -> EmbedAsk:
    """The request that a body asks for. Raises Fault with the parameter that is missing, wrong or unsupported."""
    fields = Fields(body)
    model, raw = fields.any("model"), fields.any("input")
    if model is None or model == "":
        raise Fault(Condition.INPUT_MISSING, "model")
    if raw is None or raw in ("", []):
        raise Fault(Condition.INPUT_MISSING, "input")
    if not isinstance(model, str):
        raise invalid_type("model", f"expected a string, got {kind_of(model)}")
    inputs = _inputs(raw, rules, rules.tokens_of(model))
    encoding = fields.choice("encoding_format", [each.value for each in Encoding])
    truncate = fields.flag("truncate")
    dimensions = fields.whole("dimensions", 1, DIMENSIONS_MAX)
    if len(checked_text(model, "model")) > MODEL_LENGTH_MAX:
        raise Fault(Condition.MODEL_UNKNOWN, "model", {"model": model})
    if dimensions is not None and not rules.shortens(model):
        raise unsupported("dimensions", "vectors of this model cannot be shortened")
    return EmbedAsk(
        model=model,
        inputs=inputs,
        truncate=truncate is not False,
        encoding=Encoding(encoding or Encoding.FLOAT),
        dimensions=dimensions,
    )


def _inputs(raw: Any, rules: EmbedRules, tokens: TokenInput) -> tuple[Input, ...]:
    """A string or a token array is one input, an array of either is many."""
    if isinstance(raw, str):
        return (checked_text(raw, "input"),)
    if not isinstance(raw, list):
        raise invalid_type("input", f"expected a string or an array, got {kind_of(raw)}")
    if _is_token(raw[0]):
        return (_tokens(raw, "input", rules, tokens),)
    ranged_length(len(raw), 1, INPUTS_MAX, "input", "inputs")
    made: list[Input] = []
    letters = 0
    for index, each in enumerate(raw):
        made.append(_input(each, f"input[{index}]", rules, tokens))
        letters += len(made[-1])
        if letters > LETTERS_MAX:
            raise out_of_range("input", f"its token ids are more than {LETTERS_MAX} letters")
    return tuple(made)


def _input(each: Any, param: str, rules: EmbedRules, tokens: TokenInput) -> Input:
    if isinstance(each, list):
        return _tokens(each, param, rules, tokens)
    text = checked_text(each, param)
    if not text:
        raise out_of_range(param, "it is empty")
    return text


def _tokens(ids: list[Any], param: str, rules: EmbedRules, tokens: TokenInput) -> Input:
    table = rules.cl100k if tokens is TokenInput.CL100K else None
    if tokens is not TokenInput.NATIVE and table is None:
        raise Fault(Condition.INPUT_UNSUPPORTED, param, {"problem": NO_TOKENS})
    ranged_length(len(ids), 1, TOKENS_MAX, param, "tokens")
    most = len(table.pieces) - 1 if table is not None else TOKEN_ID_MAX
    for index, each in enumerate(ids):
        if not _is_token(each):
            raise invalid_type(f"{param}[{index}]", f"expected a token id, got {kind_of(each)}")
        if not 0 <= each <= most:
            raise out_of_range(f"{param}[{index}]", f"it is not between 0 and {most}")
    return tuple(ids) if table is None else table.text(ids)


def _is_token(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def fitted(vectors: Sequence[array[float]], dimensions: int | None) -> Iterator[array[float]]:
    """Vectors as short as they are wanted. Raises Fault if they are shorter than that, before the first one."""
    if dimensions is not None and dimensions > len(vectors[0]):
        raise out_of_range("dimensions", f"the model's vectors have {len(vectors[0])} numbers")
    if dimensions is None or dimensions == len(vectors[0]):
        return iter(vectors)
    return (shortened(vector, dimensions) for vector in vectors)


def embeddings_json(ask: EmbedAsk, vectors: Iterator[array[float]], in_units: int, cx: object) -> Iterator[bytes]:
    """The body of the answer in parts, each made in about a millisecond."""
    yield b'{"object":"list","data":['
    for index, vector in enumerate(vectors):
        yield b'%s{"object":"embedding","embedding":' % (b"," if index else b"")
        yield from _base64(vector) if ask.encoding is Encoding.BASE64 else _numbers(vector)
        yield b',"index":%d}' % index
    tail: dict[str, object] = {
        "model": ask.model,
        "usage": {"prompt_tokens": in_units, "total_tokens": in_units},
        **({} if cx is None else {"cx": cx}),
    }
    yield b"]," + json.dumps(tail, ensure_ascii=False, separators=(",", ":")).encode()[1:]


def _base64(vector: array[float]) -> Iterator[bytes]:
    yield b'"%s"' % base64.b64encode(struct.pack(f"<{len(vector)}f", *vector))


def _numbers(vector: array[float]) -> Iterator[bytes]:
    for start in range(0, len(vector), NUMBERS_AT_ONCE):
        text = floats_json(vector[start : start + NUMBERS_AT_ONCE])
        yield (b"," if start else b"[") + text.encode()
    yield b"]"
