"""A GGUF model of a few hundred kilobytes whose answer is known: real llama.cpp in tests, with nothing to fetch.

It is a transformer whose attention and feed-forward weights are zero, so the next token depends on the last one alone:
embeddings are one-hot, and the output matrix is the table of successors. After the newline that ends every prompt it
says ``abc…lm é n…z``, then ends; with ``loop`` it begins again instead, for ever.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import gguf
import numpy as np

SPECIAL = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")
ANSWER = "abcdefghijklménopqrstuvwxyz"
WIDTH = 320
HEADS = 4
CONTEXT = 512
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{{ '<|im_start|>assistant\n' }}"
)


def byte_letters() -> list[str]:
    """The letter that stands for each byte in the vocabularies of GPT-2's kind: printable ones for themselves."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def token_of(byte: int) -> int:
    return len(SPECIAL) + byte


def token_ids(text: str) -> tuple[int, ...]:
    return tuple(token_of(byte) for byte in text.encode())


END = SPECIAL.index("<|im_end|>")


def write_tiny_model(
    path: Path,
    *,
    loop: bool = False,
    context: int = CONTEXT,
    architecture: str = "llama",
    half: tuple[str, ...] = (),
    says: tuple[str, ...] = (),
    control: tuple[str, ...] = (),
    template: str = TEMPLATE,
) -> Path:
    """`half`: the tensors that are stored as 16 bits, which llama.cpp cannot bear of every one.

    `says`: what it says in place of the alphabet, each text a token; `control`: which of them llama.cpp does not show.
    """
    vocab = len(SPECIAL) + 256 + len(says)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_context_length(context)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(vocab)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    letters = byte_letters()
    writer.add_token_list([*SPECIAL, *letters, *says])
    kinds = [*[gguf.TokenType.CONTROL] * len(SPECIAL), *[gguf.TokenType.NORMAL] * 256]
    shown, hidden = gguf.TokenType.USER_DEFINED, gguf.TokenType.CONTROL
    writer.add_token_types([*kinds, *(hidden if each in control else shown for each in says)])
    writer.add_token_merges([f"{letters[0]} {letters[0]}"])  # there must be one; this one is of no use
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(END)
    writer.add_add_bos_token(False)
    writer.add_chat_template(template)
    for name, tensor in tensors(vocab, loop, len(says)).items():
        writer.add_tensor(name, tensor.astype(np.float16) if name in half else tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tensors(vocab: int, loop: bool, says: int) -> dict[str, np.ndarray]:
    embedding = np.eye(vocab, WIDTH, dtype=np.float32)
    output = np.zeros((vocab, WIDTH), dtype=np.float32)
    chain = [token_of(byte) for byte in (b"\n"[0], *ANSWER.encode())]
    if says:
        chain = [chain[0], *range(vocab - says, vocab)]
    for last, following in itertools.pairwise(chain):
        output[following, last] = 2.0
    output[chain[1] if loop else END, chain[-1]] = 2.0
    zeros = np.zeros((WIDTH, WIDTH), dtype=np.float32)
    ones = np.ones(WIDTH, dtype=np.float32)
    return {
        "token_embd.weight": embedding,
        "output_norm.weight": ones,
        "output.weight": output,
        "blk.0.attn_norm.weight": ones,
        "blk.0.attn_q.weight": zeros,
        "blk.0.attn_k.weight": zeros,
        "blk.0.attn_v.weight": zeros,
        "blk.0.attn_output.weight": zeros,
        "blk.0.ffn_norm.weight": ones,
        "blk.0.ffn_gate.weight": zeros,
        "blk.0.ffn_up.weight": zeros,
        "blk.0.ffn_down.weight": zeros,
    }
