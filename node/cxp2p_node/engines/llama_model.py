"""llama.cpp's C interface, as little of it as is needed. Only the worker process imports this: it can abort."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp as llama
import numpy as np
from llguidance.llamacpp import lltokenizer_from_vocab

from cxp2p.records import Alternative, Logprob, Sampling
from cxp2p_node.engines.constraints import Constraints
from cxp2p_node.engines.llama_library import LoadError as LoadError
from cxp2p_node.engines.llama_library import load_model
from cxp2p_node.engines.slots import Take

TEMPLATE_BYTES_MAX = 1 << 20
LOGPROB_MIN = -9999.0  # what stands for "never": JSON knows no infinity
PENALTY_TOKENS = 4096  # how far back penalties look: more than most answers are long


class Model:
    """A loaded model and one context over `slots` sequences. Not thread-safe, as llama.cpp is not."""

    def __init__(
        self, path: Path, *, slots: int, context_units: int | None, threads: int, gpu_layers: int, batch_max: int
    ) -> None:
        self._model = load_model(path, gpu_layers)
        trained = llama.llama_model_n_ctx_train(self._model)
        self.context_units = min(context_units or trained, trained)
        params = llama.llama_context_default_params()
        params.n_ctx = self.context_units * slots
        params.n_batch = batch_max
        params.n_ubatch = batch_max
        params.n_seq_max = slots
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = False
        self._context = llama.llama_init_from_model(self._model, params)
        if not self._context:
            raise LoadError(f"no room for {slots} times {self.context_units} tokens: lower `slots` or `context_units`")
        # llama.cpp rounds the context up; what is offered must hold in every slot.
        self.context_units = min(self.context_units, llama.llama_n_ctx_seq(self._context))
        self._memory = llama.llama_get_memory(self._context)
        self._vocab = llama.llama_model_get_vocab(self._model)
        self.vocab_size: int = llama.llama_vocab_n_tokens(self._vocab)
        self._batch = llama.llama_batch_init(batch_max, 0, 1)
        self._pieces: dict[int, bytes] = {}

    def template(self) -> str | None:
        """The chat template in the model file."""
        source: bytes | None = llama.llama_model_chat_template(self._model, None)
        return source[:TEMPLATE_BYTES_MAX].decode(errors="replace") if source else None

    def description(self) -> str:
        """Architecture, size and quantisation, in llama.cpp's words."""
        buffer = ctypes.create_string_buffer(128)
        llama.llama_model_desc(self._model, buffer, len(buffer))
        return buffer.value.decode(errors="replace")

    def bos(self) -> str:
        return self._special(llama.llama_vocab_bos(self._vocab))

    def eos(self) -> str:
        return self._special(llama.llama_vocab_eos(self._vocab))

    def tokenize(self, prompt: str) -> list[int]:
        """The tokens of a rendered prompt; special tokens written out in it become one token each."""
        data = prompt.encode(errors="replace")
        begun = self.bos() and prompt.startswith(self.bos())
        room = len(data) + 8
        tokens = (llama.llama_token * room)()
        count = llama.llama_tokenize(self._vocab, data, len(data), tokens, room, not begun, True)
        if count < 0:
            raise LoadError(f"the tokenizer wants {-count} tokens for {len(data)} bytes")
        return tokens[:count]

    def piece(self, token: int) -> bytes:
        """The bytes of a token; none for special ones."""
        known = self._pieces.get(token)
        if known is None:
            known = self._pieces[token] = self._to_bytes(token, special=False)
        return known

    def ends(self, token: int) -> bool:
        """Whether the model says with this token that it is done."""
        return bool(llama.llama_vocab_is_eog(self._vocab, token))

    def decode(self, takes: Sequence[Take]) -> None:
        """Runs the model over a batch. Raises RuntimeError: the context is then in an unknown state."""
        batch = self._batch
        batch.n_tokens = len(takes)
        for at, take in enumerate(takes):
            batch.token[at] = take.token
            batch.pos[at] = take.position
            batch.n_seq_id[at] = 1
            batch.seq_id[at][0] = take.slot
            batch.logits[at] = take.output
        status = llama.llama_decode(self._context, batch)
        if status != 0:
            raise RuntimeError(f"llama_decode returned {status} for {len(takes)} tokens")

    def forget(self, slot: int, after: int) -> None:
        """Drops what a sequence holds beyond its first `after` tokens."""
        if not llama.llama_memory_seq_rm(self._memory, slot, after, -1):
            raise RuntimeError(f"llama.cpp cannot drop a part of sequence {slot}")

    def sampler(self, sampling: Sampling, seed: int) -> Sampler:
        return Sampler(self._context, self.vocab_size, sampling, seed)

    def logits(self, at: int) -> Any:
        """Batch entry `at`'s logits, one for each token of the vocabulary: an array that can be changed in place."""
        pointer = llama.llama_get_logits_ith(self._context, at)
        return np.ctypeslib.as_array(pointer, shape=(self.vocab_size,))

    def constraints(self) -> Constraints:
        """What grammars need of this model. Takes 0.2 s."""
        return Constraints(lltokenizer_from_vocab(self._vocab), self.vocab_size, self.piece, self.ends)

    def logprob(self, logits: Any, token: int, count: int) -> Logprob:
        """The log probability of `token` and of the `count` likeliest tokens, by the model alone (temperature 1)."""
        shifted = logits - logits.max()
        logprobs = shifted - np.log(np.exp(shifted).sum())
        best = np.argpartition(logprobs, -count)[-count:] if count else np.empty(0, dtype=int)
        top = sorted(((float(logprobs[each]), int(each)) for each in best), reverse=True)
        return Logprob(
            data=self.piece(token),
            logprob=max(float(logprobs[token]), LOGPROB_MIN),
            top=tuple(Alternative(data=self.piece(each), logprob=max(value, LOGPROB_MIN)) for value, each in top),
        )

    def _special(self, token: int) -> str:
        return self._to_bytes(token, special=True).decode(errors="replace") if token >= 0 else ""

    def _to_bytes(self, token: int, *, special: bool) -> bytes:
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            count = llama.llama_token_to_piece(self._vocab, token, buffer, size, 0, special)
            if count >= 0:
                return buffer.raw[:count]
            size = -count


class Sampler:
    """How one sequence's next token is drawn: a chain in llama.cpp, seeded. Call `close` at the end."""

    def __init__(self, context: Any, vocab_size: int, sampling: Sampling, seed: int) -> None:
        self._context = context
        self._chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
        for part in _parts(vocab_size, sampling, seed):
            llama.llama_sampler_chain_add(self._chain, part)

    def sample(self, at: int) -> int:
        """Draws from the logits of batch entry `at`, and remembers the token for the penalties."""
        return int(llama.llama_sampler_sample(self._chain, self._context, at))

    def close(self) -> None:
        if self._chain:
            llama.llama_sampler_free(self._chain)
            self._chain = None


def _parts(vocab_size: int, sampling: Sampling, seed: int) -> list[Any]:
    parts = []
    bias = [(token, value) for token, value in sampling.logit_bias if token < vocab_size]
    if bias:
        biases = (llama.llama_logit_bias * len(bias))(*(llama.llama_logit_bias(token, value) for token, value in bias))
        parts.append(llama.llama_sampler_init_logit_bias(vocab_size, len(bias), biases))
    if sampling.frequency_penalty or sampling.presence_penalty or sampling.repeat_penalty != 1:
        penalties = (sampling.repeat_penalty, sampling.frequency_penalty, sampling.presence_penalty)
        parts.append(llama.llama_sampler_init_penalties(vocab_size, PENALTY_TOKENS, *penalties))
    if sampling.temperature == 0:
        return [*parts, llama.llama_sampler_init_greedy()]
    if sampling.top_k:
        parts.append(llama.llama_sampler_init_top_k(sampling.top_k))
    parts.append(llama.llama_sampler_init_temp(sampling.temperature))
    if sampling.min_p:
        parts.append(llama.llama_sampler_init_min_p(sampling.min_p, 1))
    if sampling.top_p < 1:
        parts.append(llama.llama_sampler_init_top_p(max(sampling.top_p, 1e-6), 1))
    return [*parts, llama.llama_sampler_init_dist(_seed32(seed))]


def _seed32(seed: int) -> int:
    """llama.cpp takes 32 bits, and takes the highest value as "choose one"."""
    return ((seed ^ seed >> 32) & 0xFFFFFFFF) % 0xFFFFFFFF
