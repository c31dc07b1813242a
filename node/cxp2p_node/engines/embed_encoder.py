"""Tokens to vectors in llama.cpp. Only the worker process imports this: it can abort."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import llama_cpp as llama
import numpy as np
import numpy.typing as npt

from cxp2p_node.engines.llama_library import LoadError
from cxp2p_node.engines.packs import PACK_INPUTS_MAX

# On a processor, flash attention is the quicker one for packs of a whole tile, and the slower one for less: by a third
# at 48 tokens. In between it is quickest to fill the tile up.
TILE_UNITS = 64
SMALL_UNITS_MAX = 52
ABORTED = 2  # what llama_decode returns when it was told to stop

Vector: TypeAlias = npt.NDArray[np.float32]
Tokens: TypeAlias = Sequence[int]


class Encoder:
    """Computes packs of up to `units_max` tokens. Not thread-safe; several of one model may compute at once."""

    def __init__(self, model: Any, units_max: int, threads: int, *, gpu: bool) -> None:
        self.units_max = units_max
        self._dimensions: int = llama.llama_model_n_embd_out(model)
        self._large = _Context(model, units_max, threads, llama.LLAMA_FLASH_ATTN_TYPE_AUTO)
        self._small = None if gpu else _Context(model, TILE_UNITS, threads, llama.LLAMA_FLASH_ATTN_TYPE_DISABLED)
        self._columns = _Columns(max(units_max, TILE_UNITS))

    def embed(self, inputs: Sequence[Tokens], threads: int, unwanted: Callable[[], bool] | None) -> list[Vector] | None:
        """A vector of length 1 for each input; all zero where the model gave none. None: `unwanted` said so meanwhile.

        `unwanted` costs a little time. Raises RuntimeError: the context is then in an unknown state.
        """
        is_small = sum(map(len, inputs)) <= SMALL_UNITS_MAX
        context = self._small if self._small is not None and is_small else self._large
        batch = self._columns.fill(inputs, TILE_UNITS if self._small is not None and context is self._large else 0)
        if not context.compute(batch, threads, unwanted):
            return None
        return [self._unit(context.vector(sequence, self._dimensions)) for sequence in range(len(inputs))]

    def _unit(self, vector: Vector) -> Vector:
        exact = vector.astype(np.float64)
        length = float(np.sqrt(exact @ exact))
        if not 0 < length < float("inf"):
            return np.zeros(self._dimensions, np.float32)
        return (exact / length).astype(np.float32)


class _Context:
    """One context of llama.cpp, and what it was last told."""

    def __init__(self, model: Any, units_max: int, threads: int, attention: int) -> None:
        params = llama.llama_context_default_params()
        # One sequence fills the tile. llama.cpp aborts if it cannot share the tokens out evenly.
        params.n_seq_max = PACK_INPUTS_MAX + 1
        params.n_ctx = params.n_batch = params.n_ubatch = units_max + -units_max % params.n_seq_max
        params.n_threads = params.n_threads_batch = self._threads = threads
        params.kv_unified = True  # any input may be as long as the context
        params.embeddings = True
        params.flash_attn_type = attention
        self._context = _open(model, params)
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
            self._context = _open(model, params)
        self._abort = llama.ggml_abort_callback(0)

    def compute(self, batch: Any, threads: int, unwanted: Callable[[], bool] | None) -> bool:
        """Runs the model. False: it was stopped, as `unwanted` said so. Raises RuntimeError."""
        if threads != self._threads:
            llama.llama_set_n_threads(self._context, threads, threads)
            self._threads = threads
        self._abort = llama.ggml_abort_callback((lambda _: unwanted()) if unwanted is not None else 0)
        llama.llama_set_abort_callback(self._context, self._abort, None)
        status = llama.llama_decode(self._context, batch)
        if self._memory is not None:
            llama.llama_memory_clear(self._memory, False)
        if status not in (0, ABORTED):
            raise RuntimeError(f"llama_decode returned {status} for {batch.n_tokens} tokens")
        return bool(status == 0)

    def vector(self, sequence: int, dimensions: int) -> Vector:
        """What the model made of a sequence, of whatever length; it is good until the next call."""
        pointer = llama.llama_get_embeddings_seq(self._context, sequence)
        if not pointer:
            raise RuntimeError(f"llama.cpp gave nothing for sequence {sequence}")
        vector: Vector = np.ctypeslib.as_array(pointer, shape=(dimensions,))
        return vector


def _open(model: Any, params: Any) -> Any:
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

    def fill(self, inputs: Sequence[Tokens], units_min: int) -> Any:
        """A batch of these inputs, each a sequence of its own; one more fills it up to `units_min` tokens."""
        at = 0
        for sequence, tokens in enumerate(inputs):
            at = self._put(at, sequence, tokens)
        if at < units_min:
            at = self._put(at, len(inputs), [inputs[0][0]] * (units_min - at))
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
