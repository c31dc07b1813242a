"""From how a model is to be served to llama.cpp's own parameters. Only worker processes import this."""

from __future__ import annotations

import ctypes
from typing import Any, Final

import llama_cpp as llama

from cxp2p_node.engines.serving import CacheType, FlashAttention, Serving, Split

CACHE_TYPES: Final = {CacheType.F16: 1, CacheType.Q8_0: 8, CacheType.Q4_0: 2, CacheType.BF16: 30}
SPLITS: Final = {Split.NONE: 0, Split.LAYER: 1, Split.ROW: 2}
FLASH_ATTENTIONS: Final = {FlashAttention.AUTO: -1, FlashAttention.OFF: 0, FlashAttention.ON: 1}


def model_params(serving: Serving) -> Any:
    """What llama.cpp loads a model with. Keeps alive what it points to."""
    gpu = serving.gpu
    params = llama.llama_model_default_params()
    params.n_gpu_layers = gpu.layers
    params.main_gpu = gpu.main
    params.split_mode = SPLITS[gpu.split]
    if gpu.shares:
        shares = (ctypes.c_float * llama.llama_max_devices())(*gpu.shares[: llama.llama_max_devices()])
        params.tensor_split = shares
        params.kept_alive = shares
    return params


def context_params(serving: Serving, context_units: int) -> Any:
    """A context of `context_units` tokens for each slot."""
    sizes = serving.sizes
    params = llama.llama_context_default_params()
    params.n_ctx = context_units * sizes.slots
    params.n_batch = sizes.batch
    params.n_ubatch = sizes.ubatch
    params.n_seq_max = sizes.slots
    params.n_outputs_max = sizes.slots  # of a prompt only the last token's odds are needed
    params.n_threads = sizes.threads
    params.n_threads_batch = sizes.threads_batch
    params.flash_attn_type = FLASH_ATTENTIONS[serving.flash_attention]
    params.type_k = params.type_v = CACHE_TYPES[serving.cache_type]
    # A sequence of its own for each slot: attention then looks at its own tokens only.
    params.kv_unified = False
    # Sliding windows are kept whole, so that any beginning of a prompt can be used again.
    params.swa_full = True
    return params
