"""llama.cpp itself: how it starts, where its errors go, and a model's file loaded. For worker processes only."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Any

import llama_cpp as llama

from cxp2p.errors import one_line

LOG_LEVEL_ERROR = 4
NO_GPU_BUILD = (
    "`gpu_layers` is set, but the llama.cpp here is built without a GPU's support: leave it out, or install a build "
    "with it, see docs/models.md"
)
REASON = "error loading model: "  # llama.cpp's words before it says why
NO_REASON = "failed to load model from"
REASON_CHARS_MAX = 200
STOPPED = (b"failed with error 1\n", b"compute status: 1\n", b"ret = 2\n")  # llama.cpp was told to stop: no error


class LoadError(Exception):
    """The model file cannot be used. The text says why, as far as llama.cpp tells."""


_reasons: list[str] = []  # why the last file could not be loaded


def _print_error(level: int, text: bytes, _: object) -> None:
    if level == LOG_LEVEL_ERROR and not text.endswith(STOPPED):
        words = text.decode(errors="replace")
        sys.stderr.write(words)
        _, mark, reason = words.partition(REASON)
        if mark and NO_REASON not in reason:
            _reasons.append(one_line(reason.strip(), REASON_CHARS_MAX))


_log = llama.llama_log_callback(_print_error)  # kept here, as llama.cpp does not keep it alive


def load_model(path: Path, gpu_layers: int) -> Any:
    """llama.cpp's handle of the model in a file. Raises LoadError."""
    params = llama.llama_model_default_params()
    params.n_gpu_layers = gpu_layers
    return load_model_with(path, params)


def load_model_with(path: Path, params: Any) -> Any:
    """The same, with llama.cpp's own parameters.

    Layers for a GPU that this build cannot use would be computed here, in memory that nobody had reckoned with.
    """
    if params.n_gpu_layers and not llama.llama_supports_gpu_offload():
        raise LoadError(NO_GPU_BUILD)
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")  # before it aborts, it would start a debugger and wait for it
    llama.llama_log_set(_log, ctypes.c_void_p(0))
    llama.llama_backend_init()
    _reasons.clear()
    model = llama.llama_model_load_from_file(str(path).encode(), params)
    if not model:
        why = _reasons[0] if _reasons else "is it a GGUF file of a model it knows?"
        raise LoadError(f"llama.cpp cannot load {path.name}: {why}")
    return model
