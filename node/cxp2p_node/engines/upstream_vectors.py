"""Embeddings by a server's API: the requests that a job becomes, and the vectors in their answers. Pure."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np

from cxp2p.records import EmbedJob
from cxp2p_node.engines.upstream_ask import BYTES_PER_UNIT_MOST, Facts, Maker, count_of
from cxp2p_node.engines.upstream_events import broken, parsed
from cxp2p_node.engines.upstream_faults import ServerFault, fault_of_event

INPUTS_PER_REQUEST: Final = 32
INPUT_BYTES_PER_REQUEST: Final = 256 * 1024
NUMBERS_MAX: Final = 8192  # of a vector
BYTES_PER_NUMBER_MAX: Final = 32  # written out in JSON
BYTES_SPARE: Final = 64 * 1024


def batches(job: EmbedJob) -> Iterator[list[str] | list[list[int]]]:
    """The inputs in their order, in requests of one kind and a size that is answered soon."""
    texts: list[str] = []
    tokens: list[list[int]] = []
    size = 0
    for each in job.inputs:
        weight = len(each) * 4
        full = len(texts) + len(tokens) >= INPUTS_PER_REQUEST or size + weight > INPUT_BYTES_PER_REQUEST
        if (texts or tokens) and (full or bool(texts) != isinstance(each, str)):
            yield texts or tokens
            texts, tokens, size = [], [], 0
        size += weight
        if isinstance(each, str):
            texts.append(each)
        else:
            tokens.append(list(each))
    yield texts or tokens


def embed_body(inputs: Sequence[object], facts: Facts, *, truncate: bool) -> dict[str, Any]:
    """The body of POST /embeddings."""
    body: dict[str, Any] = {"model": facts.model, "input": list(inputs), "encoding_format": "base64"}
    if truncate and facts.maker is Maker.VLLM:
        body["truncate_prompt_tokens"] = -1
    return body


def shortened(each: str | list[int], fault: ServerFault, context_units: int) -> str | list[int]:
    """An input that was too long, cut to what should fit by what the server told, or to the half."""
    limit = fault.limit or context_units
    if not isinstance(each, str) and limit and len(each) > limit:
        return each[: max(1, limit - 2)]  # its tokenizer may add a beginning and an end
    share = 0.95 * limit / fault.actual if limit and fault.actual > limit else 0.5
    return each[: max(1, int(len(each) * share))]


def answer_bytes_max(count: int) -> int:
    """How long an answer with so many vectors may be."""
    return BYTES_SPARE + count * NUMBERS_MAX * BYTES_PER_NUMBER_MAX


def units_least(inputs: Sequence[str | list[int]]) -> int:
    """What the inputs surely have, for a server that does not tell."""
    sizes = (
        len(each.encode(errors="replace")) // BYTES_PER_UNIT_MOST if isinstance(each, str) else len(each)
        for each in inputs
    )
    return sum(max(1, size) for size in sizes)


def vectors_of(body: bytes, count: int, key: str = "") -> tuple[bytes, int, int]:
    """The vectors of an answer as an EmbedJob's data has them, how many numbers each has, and the prompt's units.

    Units are 0 if they are not told. Raises ServerFault for an answer that is not `count` vectors of one length.
    """
    told = parsed(body)
    if told.get("error"):
        raise fault_of_event(told["error"], key)
    data, usage = told.get("data"), told.get("usage")
    rows = [row for row in data if isinstance(row, dict)] if isinstance(data, list) else []
    if len(rows) != count or sorted(_index(row, at) for at, row in enumerate(rows)) != list(range(count)):
        broken(f"it answers with {len(rows)} vectors where {count} were asked for")
    ordered = [row for _, row in sorted(enumerate(rows), key=lambda pair: _index(pair[1], pair[0]))]
    vectors = [_vector(row.get("embedding")) for row in ordered]
    if len({len(vector) for vector in vectors}) != 1:
        broken("its vectors are not all of one length")
    units = count_of(usage.get("prompt_tokens")) if isinstance(usage, dict) else 0
    return b"".join(vector.astype("<f4").tobytes() for vector in vectors), len(vectors[0]), units


def _index(row: dict[str, Any], at: int) -> int:
    index = row.get("index", at)
    return index if isinstance(index, int) else -1


def _vector(told: object) -> np.ndarray[Any, np.dtype[np.float64]]:
    """One vector, made as long as 1."""
    try:
        if isinstance(told, str):
            vector = np.frombuffer(base64.b64decode(told, validate=True), "<f4").astype(np.float64)
        else:
            vector = np.asarray(told, dtype=np.float64)
    except (ValueError, TypeError):
        broken("a vector of its answer is neither numbers nor base64 of them")
    if vector.ndim != 1 or not 1 <= vector.size <= NUMBERS_MAX:
        broken(f"a vector of its answer has not 1 to {NUMBERS_MAX} numbers")
    length = float(np.linalg.norm(vector))
    if not math.isfinite(length) or length == 0.0:
        broken("a vector of its answer has no direction")
    return vector / length
