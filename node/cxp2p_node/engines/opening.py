"""From a model's settings to the engine that serves it, or to what a shelf needs to load it and unload it."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeVar

import trio

from cxp2p.errors import SettingsError, one_line
from cxp2p.records import Prices, Service
from cxp2p_node.catalog.sources import VOICE_ENDING
from cxp2p_node.config import ModelSettings, ScrapeSettings
from cxp2p_node.engines import Engine, embed, speech
from cxp2p_node.engines.echo import Echo
from cxp2p_node.engines.embed import EmbedSettings, open_embed
from cxp2p_node.engines.llama import described, open_llama
from cxp2p_node.engines.llama_settings import llama_memory, llama_settings, machine_facts
from cxp2p_node.engines.scrape_settings import scrape_of
from cxp2p_node.engines.shelf import Loadable
from cxp2p_node.engines.speech import SpeechSettings, open_speech
from cxp2p_node.engines.upstream_settings import upstream_of
from cxp2p_node.models import Store
from cxp2p_node.models.facts import ModelFacts, facts_of
from cxp2p_node.models.header import HeaderError
from cxp2p_node.models.memory import MemoryParts, memory_parts
from cxp2p_node.models.voice import SETTINGS_ENDING, VoiceFacts, voice_digest, voice_facts

log = logging.getLogger("cxp2p.node")

T = TypeVar("T")

SLOTS = 4  # jobs at once, of an engine that has no model


@asynccontextmanager
async def open_engine(model: ModelSettings, store: Store, pages: ScrapeSettings | None = None) -> AsyncIterator[Engine]:
    """The engine that serves `model`, for as long as the block runs. Raises SettingsError if it cannot be had."""
    prices = Prices(input=model.price_in, output=model.price_out)
    if model.engine == "echo":
        yield Echo(model.name, prices, slots=model.slots or SLOTS, queue_max=model.queue_max)
        return
    if model.engine == "scrape":
        async with scrape_of(model, pages or ScrapeSettings()) as scrape:
            yield scrape
        return
    if model.engine == "upstream":
        async with upstream_of(model) as upstream:
            yield upstream
        return
    async with (await _from_file(model, store)).open() as engine:
        yield engine


async def loadable(model: ModelSettings, store: Store, memory_bytes: int | None = None) -> Loadable | None:
    """What a shelf needs of `model`; None for an engine that holds no model: that one is opened at once.

    `memory_bytes`: what all models may take; what the machine has, if not given. Raises SettingsError; HeaderError for
    a file that cannot be loaded.
    """
    return await _from_file(model, store, memory_bytes) if model.engine == "llama" else None


async def _from_file(model: ModelSettings, store: Store, memory_bytes: int | None = None) -> Loadable:
    name, path, digest = await _model_file(model, store)
    if path.suffix == VOICE_ENDING:
        return _speech(model, name, path, digest, await in_thread(_read, voice_facts, name, path))
    facts = await in_thread(_read, facts_of, name, path)
    if facts.service is Service.EMBED:
        return _embed(model, name, path, digest, facts)
    machine = await in_thread(machine_facts, memory_bytes)
    settings = llama_settings(model, facts, machine, name=name, path=path, digest=digest)
    assert settings.context_units is not None
    parts = llama_memory(facts, settings)
    return Loadable(
        described=described(settings, _runtime(facts), settings.context_units),
        bytes_needed=_bytes_needed(facts, parts, model.gpu_layers),
        file_bytes=facts.file_bytes,
        open=_while_it_is(path, digest, lambda: open_llama(settings)),
        keep=model.keep,
        idle_s=model.idle_s,
    )


def _embed(model: ModelSettings, name: str, path: Path, digest: bytes, facts: ModelFacts) -> Loadable:
    settings = EmbedSettings(
        model=name,
        path=path,
        model_digest=digest,
        prices=Prices(input=model.price_in, output=model.price_out),
        slots=model.slots or embed.SLOTS,
        queue_max=model.queue_max,
        context_units=min(model.context_units or embed.CONTEXT_UNITS_MAX, facts.context_units),
        threads=model.threads,
        gpu_layers=model.gpu_layers,
    )
    assert settings.context_units is not None
    packs = embed.packs_of(settings)
    parts = memory_parts(facts, slots=len(packs), context_units=max(packs), batch=sum(packs))
    return Loadable(
        described=embed.described(settings, _runtime(facts), settings.context_units),
        bytes_needed=_bytes_needed(facts, parts, model.gpu_layers),
        file_bytes=facts.file_bytes,
        open=_while_it_is(path, digest, lambda: open_embed(settings)),
        keep=model.keep,
        idle_s=model.idle_s,
    )


def _speech(model: ModelSettings, name: str, path: Path, digest: bytes, facts: VoiceFacts) -> Loadable:
    settings = SpeechSettings(
        model=name,
        path=path,
        model_digest=digest,
        prices=Prices(input=model.price_in, output=model.price_out),
        slots=model.slots or speech.SLOTS,
        queue_max=model.queue_max,
        threads=model.threads,
    )
    threads = speech.threads_of(settings)
    return Loadable(
        described=speech.described(settings, speech.runtime_here()),
        bytes_needed=speech.memory_needed(facts, slots=settings.slots, threads=threads),
        file_bytes=facts.file_bytes,
        open=_while_it_is(path, digest, lambda: open_speech(settings)),
        keep=model.keep,
        idle_s=model.idle_s,
    )


def _while_it_is(
    path: Path, digest: bytes, opening: Callable[[], AbstractAsyncContextManager[Engine]]
) -> Callable[[], AbstractAsyncContextManager[Engine]]:
    """`opening`, for as long as the file is what the offer says. It is read again only if it seems to have changed."""
    offered = _stamp(path)

    @asynccontextmanager
    async def open_same() -> AsyncIterator[Engine]:
        if _stamp(path) != offered and await in_thread(_digest, path) != digest:
            raise SettingsError(f"{path} is another file than at the start: start the node again to offer that one")
        async with opening() as engine:
            yield engine

    return open_same


def _stamp(path: Path) -> tuple[tuple[int, int], ...]:
    """What changes with a file's content, and with that of a voice's settings beside it."""
    files = (path, path.with_name(path.name + SETTINGS_ENDING)) if path.suffix == VOICE_ENDING else (path,)
    return tuple((found.st_size, found.st_mtime_ns) for file in files if file.exists() for found in (file.stat(),))


def _read(read: Callable[[Path], T], name: str, path: Path) -> T:
    try:
        return read(path)
    except HeaderError as error:
        raise HeaderError(f"{name} cannot be loaded from {path}: {error}") from error
    except OSError as error:
        raise SettingsError(f"models: {name}: {path} cannot be read: {error.strerror}") from error


def _bytes_needed(facts: ModelFacts, parts: MemoryParts, gpu_layers: int) -> int:
    """What the model takes of the machine's memory: layers on the GPU take none of it."""
    layers = max(1, facts.layers)
    here = 0 if gpu_layers < 0 else max(0, layers - gpu_layers)
    return (parts.weights + parts.cache) * here // layers + parts.compute + parts.worker


def _runtime(facts: ModelFacts) -> str:
    """What will run the model, as far as is known before it does."""
    try:
        release = version("llama-cpp-python")
    except PackageNotFoundError as error:
        raise SettingsError("models: llama.cpp is missing here; `pip install 'cxp2p[node]'` brings it") from error
    return one_line(f"llama.cpp {release} {facts.architecture} {facts.quantisation}", 128)


async def _model_file(model: ModelSettings, store: Store) -> tuple[str, Path, bytes]:
    """The name that is offered, the file, and its SHA-256."""
    if model.path is not None:
        path = model.path.expanduser()
        if not path.is_file():
            raise SettingsError(f"models: {model.name}: there is no file {path}")
        return model.name, path, await in_thread(_read, _digest, model.name, path)
    entry = await in_thread(store.entry, model.name, model.source)
    return entry.name, store.file(entry), await in_thread(store.digest, entry)


def _digest(path: Path) -> bytes:
    """What an offer says of the file."""
    if path.suffix == VOICE_ENDING:
        return voice_digest(path)
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").digest()


async def in_thread(work: Callable[..., T], *arguments: object) -> T:
    """Runs what blocks for long; a cancel leaves it behind, and the end of the process ends it."""
    done: T = await trio.to_thread.run_sync(work, *arguments, abandon_on_cancel=True)  # type: ignore[call-arg]
    return done
