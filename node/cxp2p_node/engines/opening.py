"""From a model's settings to the engine that serves it."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import trio

from cxp2p.errors import SettingsError
from cxp2p.records import Prices
from cxp2p_node.catalog import look_up
from cxp2p_node.config import ModelSettings
from cxp2p_node.engines import Engine
from cxp2p_node.engines.echo import Echo
from cxp2p_node.models import Store

log = logging.getLogger("cxp2p.node")

T = TypeVar("T")

SLOTS = 4  # jobs at once: most of what batching gains on a CPU


@asynccontextmanager
async def open_engine(model: ModelSettings, store: Store) -> AsyncIterator[Engine]:
    """The engine that serves `model`, for as long as the block runs. Raises SettingsError if it cannot be had."""
    prices = Prices(input=model.price_in, output=model.price_out)
    if model.engine == "echo":
        yield Echo(model.name, prices, slots=model.slots or SLOTS, queue_max=model.queue_max)
        return
    # llama-cpp-python is an extra that only this engine needs.
    from cxp2p_node.engines.llama import LlamaSettings, open_llama  # noqa: PLC0415

    name, path, digest = await _model_file(model, store)
    log.info("loading %s from %s", name, path)
    opening = open_llama(
        LlamaSettings(
            model=name,
            path=path,
            model_digest=digest,
            prices=prices,
            slots=model.slots or SLOTS,
            queue_max=model.queue_max,
            context_units=model.context_units,
            threads=model.threads,
            gpu_layers=model.gpu_layers,
        )
    )
    async with opening as engine:
        yield engine


async def _model_file(model: ModelSettings, store: Store) -> tuple[str, Path, bytes]:
    """The name that is offered, the file, and its SHA-256."""
    if model.path is not None:
        path = model.path.expanduser()
        if not path.is_file():
            raise SettingsError(f"models: {model.name}: there is no file {path}")
        return model.name, path, await in_thread(_sha256, path)
    entry = look_up(model.name)
    return entry.name, store.file(entry), entry.sha256


def _sha256(path: Path) -> bytes:
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").digest()


async def in_thread(work: Callable[..., T], *arguments: object) -> T:
    """Runs what blocks for long; a cancel leaves it behind, and the end of the process ends it."""
    done: T = await trio.to_thread.run_sync(work, *arguments, abandon_on_cancel=True)  # type: ignore[call-arg]
    return done
