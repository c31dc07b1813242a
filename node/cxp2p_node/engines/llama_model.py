"""llama.cpp's C interface, as little of it as is needed. Only the worker process imports this: it can abort."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Collection, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import llama_cpp as llama
import llguidance
import numpy as np

from cxp2p.records import Alternative, Logprob, Sampling
from cxp2p_node.engines.constraints import Constraints
from cxp2p_node.engines.llama_library import LoadError, load_model_with
from cxp2p_node.engines.llama_params import context_params, model_params
from cxp2p_node.engines.llama_sampler import Sampler
from cxp2p_node.engines.serving import Serving
from cxp2p_node.engines.slots import Copy, Part

TEMPLATE_BYTES_MAX = 1 << 20
LOGPROB_MIN = -9999.0  # what stands for "never": JSON knows no infinity
NO_ROOM, STOPPED = 1, 2  # what llama_decode returns


class Decoded(Enum):
    """How a decode ended: with odds, without room for its tokens, or in the middle as it was stopped.

    After the last two nothing is changed.
    """

    DONE = "done"
    NO_ROOM = "no room"
    STOPPED = "stopped"


class Model:
    """A loaded model and one context over some slots. Not thread-safe, as llama.cpp is not; only `brake` is."""

    def __init__(self, path: Path, serving: Serving) -> None:
        sizes = serving.sizes
        self._model = load_model_with(path, model_params(serving))
        trained = llama.llama_model_n_ctx_train(self._model)
        self.context_units = min(sizes.context_units, trained)
        self.brake = Brake()
        params = context_params(serving, self.context_units)
        params.abort_callback, params.abort_callback_data = self.brake.callback, self.brake.data
        self._context = llama.llama_init_from_model(self._model, params)
        if not self._context:
            room = f"{sizes.slots} times {self.context_units} tokens"
            raise LoadError(f"no room for {room}: lower `slots` or `context_units`")
        # llama.cpp rounds the context up; what is offered must hold in every slot.
        self.context_units = min(self.context_units, llama.llama_n_ctx_seq(self._context))
        self.batch_max = sizes.batch
        # The state of a recurrent model is of its last token alone.
        self.cuts = not (llama.llama_model_is_recurrent(self._model) or llama.llama_model_is_hybrid(self._model))
        self._memory = llama.llama_get_memory(self._context)
        self._vocab = llama.llama_model_get_vocab(self._model)
        self.vocab_size: int = llama.llama_vocab_n_tokens(self._vocab)
        self._batch = Batch(sizes.batch)
        self._outputs: list[int] = []
        self._logits_at = 0
        self._logits: Any = None
        self._pieces: dict[int, bytes] = {}
        self._marks: frozenset[bytes] = frozenset()

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

    def show(self, marks: Collection[str]) -> None:
        """Special tokens that are text from now on, as they say where calls and thoughts begin and end."""
        self._marks = frozenset(mark.encode() for mark in marks)
        self._pieces.clear()

    def piece(self, token: int) -> bytes:
        """The bytes of a token; none for special ones that are not shown."""
        known = self._pieces.get(token)
        if known is None:
            known = self._to_bytes(token, special=False)
            if not known and (mark := self._to_bytes(token, special=True)) in self._marks:
                known = mark
            self._pieces[token] = known
        return known

    def ends(self, token: int) -> bool:
        """Whether the model says with this token that it is done."""
        return bool(llama.llama_vocab_is_eog(self._vocab, token))

    # Sequences.

    def decode(self, parts: Sequence[Part]) -> Decoded:
        """Runs the model over a batch. Raises RuntimeError: the context is then in an unknown state."""
        self._outputs = self._batch.fill(parts)
        status = llama.llama_decode(self._context, self._batch.llama)
        if status in (NO_ROOM, STOPPED):
            for part in parts:
                self.forget(part.slot, part.start)
            return Decoded.NO_ROOM if status == NO_ROOM else Decoded.STOPPED
        if status != 0:
            raise RuntimeError(f"llama_decode returned {status} for {self._batch.llama.n_tokens} tokens")
        if self._outputs:
            self._logits = self._all_logits()
        return Decoded.DONE

    def forget(self, slot: int, after: int) -> bool:
        """Drops what a sequence holds beyond its first `after` tokens. False: all of it had to be dropped."""
        if llama.llama_memory_seq_rm(self._memory, slot, after, -1):
            held = llama.llama_memory_seq_pos_max(self._memory, slot) + 1
            if held == after and (not held or llama.llama_memory_seq_pos_min(self._memory, slot) <= 0 or not self.cuts):
                return True
        llama.llama_memory_seq_rm(self._memory, slot, -1, -1)
        return False

    def copy(self, copies: Sequence[Copy]) -> list[Copy]:
        """Gives sequences the beginnings of others. Returns those that worked; the targets of the rest are empty.

        By way of main memory: `llama_memory_seq_cp` copies the whole context from one sequence to the other, also
        where there is nothing in it (600 of 8,192 tokens: 20 ms and more, this way 3 ms).
        """
        states: dict[int, Any] = {}
        worked = []
        for each in copies:
            if each.source not in states:
                states[each.source] = self._state(each.source)
            state = states[each.source]
            size = len(state)
            taken = size and llama.llama_state_seq_set_data(self._context, state, size, each.target) == size
            if taken and self.forget(each.target, each.tokens):
                worked.append(each)
            else:
                self.forget(each.target, 0)
        return worked

    def _state(self, slot: int) -> Any:
        state = (ctypes.c_uint8 * llama.llama_state_seq_get_size(self._context, slot))()
        size = llama.llama_state_seq_get_data(self._context, state, len(state), slot)
        return state if size == len(state) else (ctypes.c_uint8 * 0)()

    # Tokens.

    def sampler(self, sampling: Sampling, seed: int) -> Sampler:
        return Sampler(self._context, self.vocab_size, sampling, seed)

    def sample(self, sampler: Sampler, output: int) -> int:
        """The next token after the batch's part number `output` of those that asked for one."""
        if sampler.greedy:
            return int(self._logits[output].argmax())
        return sampler.sample(self._outputs[output])

    def logits(self, output: int) -> Any:
        """The logits after that part, one for each token of the vocabulary: an array that can be changed in place."""
        return self._logits[output]

    def _all_logits(self) -> Any:
        address = ctypes.cast(llama.llama_get_logits(self._context), ctypes.c_void_p).value
        count = len(self._outputs)
        assert address is not None
        if address != self._logits_at or len(self._logits) < count:
            numbers: Any = (ctypes.c_float * (count * self.vocab_size)).from_address(address)
            self._logits_at = address
            return np.frombuffer(numbers, dtype=np.float32).reshape(count, self.vocab_size)
        return self._logits

    def constraints(self) -> Constraints:
        """What grammars need of this model. Takes 0.2 s."""
        return Constraints(self._tokenizer(), self.vocab_size, self.piece, self.ends)

    def _tokenizer(self) -> llguidance.LLTokenizer:
        """The vocabulary as grammars see it. What is text for us is text for them.

        llguidance's own way takes any token like <this> for special: then no model could write one where calls may
        come, and they are how Qwen's begin to call and to think.
        """
        special = [self._to_bytes(token, special=True) for token in range(self.vocab_size)]
        tokens = [
            b"\xff" + words if self.ends(token) or not self.piece(token) else words
            for token, words in enumerate(special)
        ]
        tokenize: Any = llama.llama_cpp._lib.llama_tokenize
        made: llguidance.LLTokenizer = llguidance.LLTokenizer.from_llamacpp(  # type: ignore[attr-defined]
            tokens=tokens,
            vocab_ptr=self._vocab,
            tokenize_fptr=ctypes.cast(tokenize, ctypes.c_void_p).value,
            eos_token=llama.llama_vocab_eos(self._vocab),
            slices=None,
        )
        return made

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


class Batch:
    """llama.cpp's arrays of what is decoded, filled by whole parts."""

    def __init__(self, size: int) -> None:
        self._tokens = np.zeros(size, dtype=np.int32)
        self._positions = np.zeros(size, dtype=np.int32)
        self._slots = np.zeros(size, dtype=np.int32)
        self._outputs = np.zeros(size, dtype=np.int8)
        self._ones = np.ones(size, dtype=np.int32)
        # Each token has a list of sequences, here of one: the entry of `_slots` in its place.
        self._lists = (self._slots.ctypes.data + 4 * np.arange(size)).astype(np.uintp)
        number: Any = ctypes.POINTER(ctypes.c_int32)
        self.llama: Any = llama.llama_batch()
        self.llama.token = self._tokens.ctypes.data_as(number)
        self.llama.pos = self._positions.ctypes.data_as(number)
        self.llama.n_seq_id = self._ones.ctypes.data_as(number)
        lists: Any = ctypes.POINTER(number)
        self.llama.seq_id = self._lists.ctypes.data_as(lists)
        flags: Any = ctypes.POINTER(ctypes.c_int8)
        self.llama.logits = self._outputs.ctypes.data_as(flags)

    def fill(self, parts: Sequence[Part]) -> list[int]:
        """Puts in the parts; where in the batch those are whose next token is to be drawn."""
        outputs, begin = [], 0
        for part in parts:
            end = begin + len(part.tokens)
            self._tokens[begin:end] = part.tokens
            self._positions[begin:end] = np.arange(part.start, part.start + len(part.tokens))
            self._slots[begin:end] = part.slot
            self._outputs[begin:end] = 0
            if part.output:
                self._outputs[end - 1] = 1
                outputs.append(end - 1)
            begin = end
        self.llama.n_tokens = begin
        return outputs


class Brake:
    """Stops a decode in the middle when all jobs that are in it are stopped. Thread-safe.

    llama.cpp asks between any two operations whether to go on: with a function that says yes or no of some data. Were
    it Python's, each of these questions would wait for the interpreter; C's own `strlen` says no of "" and yes of "x".
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._text = ctypes.create_string_buffer(2)
        self._jobs: set[int] = set()
        self.data = ctypes.cast(self._text, ctypes.c_void_p)
        self.callback = ctypes.cast(ctypes.CDLL(None).strlen, llama.ggml_abort_callback)

    def watch(self, jobs: Collection[int]) -> None:
        """These are in the decode that comes next; none: nothing stops it."""
        with self._lock:
            self._jobs = set(jobs)
            self._text.value = b""

    def stop(self, job: int) -> None:
        """The job is not wanted any more."""
        with self._lock:
            if job in self._jobs:
                self._jobs.discard(job)
                if not self._jobs:
                    self._text.value = b"x"
