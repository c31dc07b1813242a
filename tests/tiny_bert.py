"""A GGUF embedding model of some kilobytes whose vectors are known: real llama.cpp in tests, with nothing to fetch.

It is a BERT whose attention and feed-forward weights are zero and whose embeddings are one-hot, so every layer gives
what its norm makes of a token alone, and a text's vector is a count of its tokens (`vector_of`). Its words are the
letters: one begins a word, the others go on with it.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
UNKNOWN, BEGIN, END = 1, 2, 3
LETTERS = string.ascii_lowercase
WIDTH = 256
HEADS = 4
CONTEXT = 128
VOCABULARY = len(SPECIAL) + 2 * len(LETTERS)


def tokens_of(text: str) -> tuple[int, ...]:
    """The tokens of a text of small letters and spaces, without marks."""
    return tuple(
        len(SPECIAL) + LETTERS.index(letter) + (len(LETTERS) if at else 0)
        for word in text.split()
        for at, letter in enumerate(word)
    )


def vector_of(tokens: Sequence[int], *, context: int = CONTEXT) -> npt.NDArray[np.float32]:
    """What the model gives for tokens, marks not among them."""
    marked = (BEGIN, *tokens[: context - 2], END)
    counts = np.bincount(marked, minlength=WIDTH) - len(marked) / WIDTH
    return (counts / np.linalg.norm(counts)).astype(np.float32)


def write_tiny_bert(
    path: Path,
    *,
    layers: int = 1,
    context: int = CONTEXT,
    pooling: gguf.PoolingType | None = gguf.PoolingType.MEAN,
    not_a_number: bool = False,
) -> Path:
    """`not_a_number`: the letter z at the beginning of a word gives no vector."""
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_name("tiny")
    writer.add_context_length(context)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(WIDTH)
    writer.add_block_count(layers)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    if pooling is not None:
        writer.add_pooling_type(pooling)
    writer.add_tokenizer_model("bert")
    writer.add_token_list([*SPECIAL, *(f"\u2581{letter}" for letter in LETTERS), *LETTERS])
    types = [gguf.TokenType.CONTROL] * len(SPECIAL) + [gguf.TokenType.NORMAL] * 2 * len(LETTERS)
    writer.add_token_types(types)
    writer.add_token_type_count(2)
    writer.add_unk_token_id(UNKNOWN)
    writer.add_bos_token_id(BEGIN)
    writer.add_eos_token_id(END)
    writer.add_sep_token_id(END)
    writer.add_pad_token_id(0)
    writer.add_mask_token_id(4)
    embedding = np.eye(VOCABULARY, WIDTH, dtype=np.float32)
    if not_a_number:
        embedding[tokens_of("z")[0]] = np.nan
    writer.add_tensor("token_embd.weight", embedding)
    writer.add_tensor("position_embd.weight", np.zeros((context, WIDTH), dtype=np.float32))
    writer.add_tensor("token_types.weight", np.zeros((2, WIDTH), dtype=np.float32))
    _add_norm(writer, "token_embd_norm")
    for layer in range(layers):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.zeros((WIDTH, WIDTH), dtype=np.float32))
            writer.add_tensor(f"blk.{layer}.{name}.bias", np.zeros(WIDTH, dtype=np.float32))
        _add_norm(writer, f"blk.{layer}.attn_output_norm")
        _add_norm(writer, f"blk.{layer}.layer_output_norm")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_norm(writer: gguf.GGUFWriter, name: str) -> None:
    writer.add_tensor(f"{name}.weight", np.ones(WIDTH, dtype=np.float32))
    writer.add_tensor(f"{name}.bias", np.zeros(WIDTH, dtype=np.float32))
