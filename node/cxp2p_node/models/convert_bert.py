"""Makes a GGUF file of a BERT encoder for embeddings, from the folder that sentence-transformers keeps it in.

Matrices become float16; norms, biases, position and token type embeddings stay float32: llama.cpp adds to them, and
aborts if they are float16. The pooling comes from `1_Pooling/config.json`, mean if there is none. The same input gives
the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from pydantic import BaseModel, Field, ValidationError
from safetensors import SafetensorError, safe_open

from cxp2p.errors import CxError
from cxp2p_node.models import gguf_write as gguf

WEIGHTS, VOCABULARY, CONFIG = "model.safetensors", "vocab.txt", "config.json"
POOLING, TOKENIZER = "1_Pooling/config.json", "tokenizer_config.json"
NEEDED = (WEIGHTS, VOCABULARY, CONFIG)
OPTIONAL = (POOLING, TOKENIZER)

Array: TypeAlias = np.ndarray[Any, Any]

# How llama.cpp counts.
POOL_MEAN, POOL_CLS = 1, 2
TOKEN_NORMAL, TOKEN_CONTROL, TOKEN_UNUSED = 1, 3, 5
MOSTLY_F16 = 1

WORD_START = "\u2581"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

OUTER = {
    "embeddings.word_embeddings.weight": "token_embd.weight",
    "embeddings.position_embeddings.weight": "position_embd.weight",
    "embeddings.token_type_embeddings.weight": "token_types.weight",
    "embeddings.LayerNorm": "token_embd_norm",
}
INNER = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
KEPT_F32 = frozenset({"position_embd.weight", "token_types.weight"})


class ConvertError(CxError):
    """The files are not of a model that can be converted. The text says which one and why."""


class BertConfig(BaseModel):
    """What is needed of `config.json`."""

    model_type: str
    hidden_act: str
    hidden_size: int = Field(ge=1, le=1 << 16)
    intermediate_size: int = Field(ge=1, le=1 << 18)
    num_hidden_layers: int = Field(ge=1, le=512)
    num_attention_heads: int = Field(ge=1, le=1 << 12)
    max_position_embeddings: int = Field(ge=1, le=1 << 20)
    type_vocab_size: int = Field(ge=1, le=64)
    vocab_size: int = Field(ge=1, le=1 << 22)
    layer_norm_eps: float = Field(gt=0, lt=1)
    position_embedding_type: str = "absolute"


def convert_bert(folder: Path, name: str, target: Path) -> None:
    """Writes the model in `folder` to `target`. Raises ConvertError, and OSError for files that cannot be read."""
    config = _config(folder)
    words = _words(folder / VOCABULARY, config)
    _write(target, {**_facts(config, name, folder), **_tokens(words)}, folder, config)


def _write(target: Path, packed: Mapping[str, bytes], folder: Path, config: BertConfig) -> None:
    try:
        with safe_open(folder / WEIGHTS, framework="numpy") as weights:
            found = set(weights.keys())
            prefix = "bert." if any(key.startswith("bert.") for key in found) else ""
            tensors = {}
            for source, name, shape in _wanted(config):
                if prefix + source not in found:
                    raise ConvertError(f"{WEIGHTS}: the tensor {source!r} of a BERT is missing")
                tensors[name] = _shaped(weights.get_tensor(prefix + source), name, source, shape)
    except SafetensorError as error:
        raise ConvertError(f"{WEIGHTS} is broken: {error}") from error
    gguf.write_gguf(target, packed, tensors)


def _wanted(config: BertConfig) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Each tensor: its name in the weights, its name in GGUF, its shape."""
    width, inner = config.hidden_size, config.intermediate_size
    rows = {
        "token_embd.weight": config.vocab_size,
        "position_embd.weight": config.max_position_embeddings,
        "token_types.weight": config.type_vocab_size,
    }
    shapes = {"ffn_up": (inner, width), "ffn_down": (width, inner)}
    for source, name in OUTER.items():
        if name in rows:
            yield source, name, (rows[name], width)
        else:
            for part in ("weight", "bias"):
                yield f"{source}.{part}", f"{name}.{part}", (width,)
    for layer in range(config.num_hidden_layers):
        for source, name in INNER.items():
            shape = (width,) if name.endswith("norm") else shapes.get(name, (width, width))
            place = f"encoder.layer.{layer}.{source}"
            yield f"{place}.weight", f"blk.{layer}.{name}.weight", shape
            yield f"{place}.bias", f"blk.{layer}.{name}.bias", shape[:1]


def _shaped(tensor: Array, name: str, source: str, shape: tuple[int, ...]) -> Array:
    if tensor.shape != shape:
        raise ConvertError(f"{WEIGHTS}: {source!r} has the shape {tensor.shape}, by {CONFIG} it has {shape}")
    if tensor.dtype not in (np.float32, np.float16):
        raise ConvertError(f"{WEIGHTS}: {source!r} is {tensor.dtype}, and only float32 and float16 are known here")
    half = tensor.ndim == 2 and name not in KEPT_F32
    return tensor.astype("<f2" if half else "<f4")


def _config(folder: Path) -> BertConfig:
    try:
        config = BertConfig.model_validate_json((folder / CONFIG).read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise ConvertError(f"{CONFIG}: {where}: {first['msg']}") from error
    facts = (config.model_type, config.hidden_act, config.position_embedding_type)
    if facts != ("bert", "gelu", "absolute"):
        raise ConvertError(
            f"{CONFIG}: it is a {' '.join(facts)} model; what can be converted is bert with gelu and absolute positions"
        )
    return config


def _json(path: Path) -> dict[str, Any]:
    """An optional file of settings; empty if it is not there."""
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise ConvertError(f"{path.name}: {error}") from error
    if not isinstance(found, dict):
        raise ConvertError(f"{path.name}: it is no JSON object")
    return found


def _facts(config: BertConfig, name: str, folder: Path) -> dict[str, bytes]:
    pooling = _json(folder / POOLING)
    on = {key for key, value in pooling.items() if key.startswith("pooling_mode_") and value}
    if on - {"pooling_mode_mean_tokens", "pooling_mode_cls_token"} or len(on) > 1:
        raise ConvertError(f"{POOLING}: {', '.join(sorted(on))}; known are mean and cls")
    tokenizer = _json(folder / TOKENIZER)
    lowercase = bool(tokenizer.get("do_lower_case", True))
    accents_off = tokenizer.get("strip_accents")
    return {
        "general.architecture": gguf.text("bert"),
        "general.name": gguf.text(name),
        "general.file_type": gguf.u32(MOSTLY_F16),
        "bert.context_length": gguf.u32(config.max_position_embeddings),
        "bert.embedding_length": gguf.u32(config.hidden_size),
        "bert.feed_forward_length": gguf.u32(config.intermediate_size),
        "bert.block_count": gguf.u32(config.num_hidden_layers),
        "bert.attention.head_count": gguf.u32(config.num_attention_heads),
        "bert.attention.layer_norm_epsilon": gguf.f32(config.layer_norm_eps),
        "bert.attention.causal": gguf.flag(False),
        "bert.pooling_type": gguf.u32(POOL_CLS if "pooling_mode_cls_token" in on else POOL_MEAN),
        "tokenizer.ggml.model": gguf.text("bert"),
        "tokenizer.ggml.token_type_count": gguf.u32(config.type_vocab_size),
        "tokenizer.ggml.normalizer.lowercase": gguf.flag(lowercase),
        "tokenizer.ggml.normalizer.strip_accents": gguf.flag(lowercase if accents_off is None else bool(accents_off)),
    }


def _words(path: Path, config: BertConfig) -> list[str]:
    try:
        words = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ConvertError(f"{VOCABULARY}: {error}") from error
    if len(words) != config.vocab_size:
        raise ConvertError(f"{VOCABULARY}: {len(words)} words, by {CONFIG} there are {config.vocab_size}")
    missing = [word for word in SPECIAL if word not in words]
    if missing:
        raise ConvertError(f"{VOCABULARY}: {', '.join(missing)} missing: is it the vocabulary of a BERT?")
    return words


def _tokens(words: list[str]) -> dict[str, bytes]:
    """The vocabulary as llama.cpp writes it: word starts are marked, continuations are not."""
    pad, unk, cls, sep, mask = (words.index(word) for word in SPECIAL)
    return {
        "tokenizer.ggml.tokens": gguf.texts([_token(word) for word in words]),
        "tokenizer.ggml.token_type": gguf.i32s([_token_type(word) for word in words]),
        "tokenizer.ggml.bos_token_id": gguf.u32(cls),
        "tokenizer.ggml.eos_token_id": gguf.u32(sep),
        "tokenizer.ggml.unknown_token_id": gguf.u32(unk),
        "tokenizer.ggml.seperator_token_id": gguf.u32(sep),  # so it is spelled there
        "tokenizer.ggml.padding_token_id": gguf.u32(pad),
        "tokenizer.ggml.mask_token_id": gguf.u32(mask),
    }


def _token(word: str) -> str:
    if _token_type(word) != TOKEN_NORMAL:
        return word
    return word[2:] if word.startswith("##") else WORD_START + word


def _token_type(word: str) -> int:
    if word in SPECIAL:
        return TOKEN_CONTROL
    return TOKEN_UNUSED if word.startswith("[unused") and word.endswith("]") else TOKEN_NORMAL
