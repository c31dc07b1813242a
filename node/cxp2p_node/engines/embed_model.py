"""llama.cpp as an embedding model: tokens in, vectors out. Only the worker process imports this: it can abort."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import llama_cpp as llama
import numpy as np
import numpy.typing as npt

from cxp2p_node.engines.llama_library import LoadError, load_model
from cxp2p_node.engines.packs import PACK_INPUTS_MAX
from cxp2p_node.engines.wordpiece import WordPiece

Vector: TypeAlias = npt.NDArray[np.float32]
Tokens: TypeAlias = Sequence[int]

TILE_UNITS = 64  # llama.cpp's flash attention is fast from so many tokens on
PADDED_UNITS_MIN = 40  # from here on it is quicker to fill a tile up than to leave it open
ABORTED = 2  # what llama_decode returns when it was told to stop
META_BYTES_MAX = 64
UNKNOWN = 100  # in BERT's own vocabulary, and llama.cpp's guess where a file does not say


class EmbedModel:
    """A loaded model: its tokenizer and its limits. Safe to use from several threads; encoders are not."""

    def __init__(self, path: Path, *, context_units: int | None, gpu_layers: int) -> None:
        self._model = load_model(path, gpu_layers)
        self._vocab = llama.llama_model_get_vocab(self._model)
        self.vocab_size: int = llama.llama_vocab_n_tokens(self._vocab)
        self.dimensions: int = llama.llama_model_n_embd_out(self._model)
        trained = llama.llama_model_n_ctx_train(self._model)
        self.context_units = min(context_units or trained, trained)
        self._words = self._word_piece() if self._meta("tokenizer.ggml.model") == "bert" else None
        self.marks = self._marks()
        if self.context_units <= len(self.marks[0]) + len(self.marks[1]):
            raise LoadError(f"a context of {self.context_units} tokens has no room for a text")

    def encoder(self, units_max: int, threads: int) -> Encoder:
        """What computes packs of up to `units_max` tokens. Raises LoadError."""
        return Encoder(self._model, self.dimensions, units_max, threads)

    def description(self) -> str:
        """Architecture, size and quantisation, in llama.cpp's words."""
        buffer = ctypes.create_string_buffer(128)
        llama.llama_model_desc(self._model, buffer, len(buffer))
        return buffer.value.decode(errors="replace")

    def tokenize(self, text: str) -> list[int]:
        """The tokens of a text, without marks. A mark that is written out in it is text."""
        return self._words.tokens(text) if self._words is not None else self._tokenize(text, marks=False)

    def _tokenize(self, text: str, *, marks: bool) -> list[int]:
        data = text.encode(errors="replace")
        room = len(data) + 8
        while True:
            tokens = (llama.llama_token * room)()
            count = llama.llama_tokenize(self._vocab, data, len(data), tokens, room, marks, False)
            if count >= 0:
                return list(tokens[:count])
            room = -count

    def _marks(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What this model wants before and after every input."""
        bare, marked = self._tokenize("a", marks=False), self._tokenize("a", marks=True)
        extra = len(marked) - len(bare)
        before = next((at for at in range(extra + 1) if marked[at : at + len(bare)] == bare), extra)
        return tuple(marked[:before]), tuple(marked[before + len(bare) :])

    def _word_piece(self) -> WordPiece:
        starts: dict[str, int] = {}
        rests: dict[str, int] = {}
        for token in range(self.vocab_size):
            if llama.llama_vocab_get_attr(self._vocab, token) & llama.LLAMA_TOKEN_ATTR_CONTROL:
                continue
            word = llama.llama_vocab_get_text(self._vocab, token).decode(errors="replace")
            pieces = starts if word.startswith("\u2581") else rests
            pieces.setdefault(word.removeprefix("\u2581"), token)
        lowercase = self._meta("tokenizer.ggml.normalizer.lowercase") != "false"
        accents = self._meta("tokenizer.ggml.normalizer.strip_accents")
        strip_accents = lowercase if accents is None else accents == "true"
        return WordPiece(starts, rests, self._unknown(), lowercase=lowercase, strip_accents=strip_accents)

    def _unknown(self) -> int:
        """The token of a word that the vocabulary does not have."""
        found = int(self._meta("tokenizer.ggml.unknown_token_id") or UNKNOWN)
        if found >= self.vocab_size:
            raise LoadError(f"its token for unknown words is {found}, of a vocabulary of {self.vocab_size}")
        return found

    def _meta(self, key: str) -> str | None:
        buffer = ctypes.create_string_buffer(META_BYTES_MAX)
        length = llama.llama_model_meta_val_str(self._model, key.encode(), buffer, len(buffer))
        return buffer.value.decode(errors="replace") if length >= 0 else None


class Encoder:
    """One llama.cpp context. Not thread-safe; several of one model may compute at once."""

    def __init__(self, model: Any, dimensions: int, units_max: int, threads: int) -> None:
        self.units_max = units_max
        self._dimensions = dimensions
        params = llama.llama_context_default_params()
        # One sequence fills the tile. llama.cpp aborts if it cannot share the tokens out evenly.
        params.n_seq_max = PACK_INPUTS_MAX + 1
        params.n_ctx = params.n_batch = params.n_ubatch = units_max + -units_max % params.n_seq_max
        params.n_threads = params.n_threads_batch = self._threads = threads
        params.kv_unified = True  # any input may be as long as the context
        params.embeddings = True
        self._context = _context(model, params)
        self._memory = llama.llama_get_memory(self._context)  # none, where tokens look in both directions
        pooling = llama.llama_pooling_type(self._context)
        if pooling == llama.LLAMA_POOLING_TYPE_RANK:
            raise LoadError("it ranks texts and gives no vectors: serve an embedding model")
        if pooling == llama.LLAMA_POOLING_TYPE_NONE:
            if self._memory is not None:
                raise LoadError("it does not say how a text becomes one vector (its pooling): serve an embedding model")
            # An encoder is for vectors, and the mean is what most of them were made for.
            llama.llama_free(self._context)
            params.pooling_type = llama.LLAMA_POOLING_TYPE_MEAN
            self._context = _context(model, params)
        self._columns = _Columns(units_max)
        self._abort = llama.ggml_abort_callback(lambda _: False)

    def embed(self, inputs: Sequence[Tokens], threads: int, unwanted: Callable[[], bool] | None) -> list[Vector] | None:
        """A vector of length 1 for each input; all zero where the model gave none. None: `unwanted` said so meanwhile.

        `unwanted` costs a little time. Raises RuntimeError: the context is then in an unknown state.
        """
        if threads != self._threads:
            llama.llama_set_n_threads(self._context, threads, threads)
            self._threads = threads
        self._abort = llama.ggml_abort_callback((lambda _: unwanted()) if unwanted is not None else 0)
        llama.llama_set_abort_callback(self._context, self._abort, None)
        batch = self._columns.fill(inputs)
        status = llama.llama_decode(self._context, batch)
        if self._memory is not None:
            llama.llama_memory_clear(self._memory, False)
        if status == ABORTED:
            return None
        if status != 0:
            raise RuntimeError(f"llama_decode returned {status} for {batch.n_tokens} tokens")
        return [self._vector(sequence) for sequence in range(len(inputs))]

    def _vector(self, sequence: int) -> Vector:
        pointer = llama.llama_get_embeddings_seq(self._context, sequence)
        if not pointer:
            raise RuntimeError(f"llama.cpp gave nothing for sequence {sequence}")
        vector = np.ctypeslib.as_array(pointer, shape=(self._dimensions,)).astype(np.float64)
        length = float(np.sqrt(vector @ vector))
        if not 0 < length < float("inf"):
            return np.zeros(self._dimensions, np.float32)
        return (vector / length).astype(np.float32)


def _context(model: Any, params: Any) -> Any:
    context = llama.llama_init_from_model(model, params)
    if not context:
        raise LoadError(f"no room to compute {params.n_ubatch} tokens at once: lower `context_units`")
    return context


class _Columns:
    """The memory of a batch, filled by columns: one value after another would take as long as the model does."""

    def __init__(self, units_max: int) -> None:
        self._tokens = np.zeros(units_max, np.int32)
        self._positions = np.zeros(units_max, np.int32)
        self._counts = np.ones(units_max, np.int32)
        self._sequences = np.zeros(units_max, np.int32)
        # Each token has a list of its sequences: here always one, in a column of its own.
        self._pointers = self._sequences.ctypes.data + 4 * np.arange(units_max, dtype=np.uintp)
        self._outputs = np.ones(units_max, np.int8)

    def fill(self, inputs: Sequence[Tokens]) -> Any:
        """A batch of these inputs, each a sequence of its own."""
        at = 0
        for sequence, tokens in enumerate(inputs):
            at = self._put(at, sequence, tokens)
        if PADDED_UNITS_MIN <= at < min(TILE_UNITS, len(self._tokens)):
            tile = min(TILE_UNITS, len(self._tokens))
            at = self._put(at, len(inputs), [inputs[0][0]] * (tile - at))
        return llama.llama_batch(
            n_tokens=at,
            token=_pointer(self._tokens, llama.llama_token),
            embd=None,
            pos=_pointer(self._positions, llama.llama_pos),
            n_seq_id=_pointer(self._counts, ctypes.c_int32),
            seq_id=_pointer(self._pointers, ctypes.POINTER(llama.llama_seq_id)),
            logits=_pointer(self._outputs, ctypes.c_int8),
        )

    def _put(self, at: int, sequence: int, tokens: Tokens) -> int:
        end = at + len(tokens)
        self._tokens[at:end] = tokens
        self._positions[at:end] = range(len(tokens))
        self._sequences[at:end] = sequence
        return end


def _pointer(column: npt.NDArray[Any], kind: Any) -> Any:
    return column.ctypes.data_as(ctypes.POINTER(kind))
