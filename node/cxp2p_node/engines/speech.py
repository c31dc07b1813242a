"""Speech by a Piper voice, which runs in a supervised worker process."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from pathlib import Path

from cxp2p import units
from cxp2p.errors import SettingsError
from cxp2p.records import Capability, Job, Load, Prices, Service, Usage
from cxp2p.speech import TEXT_LETTERS_MAX
from cxp2p.wire import encode
from cxp2p_node.engines import Counted, Emit
from cxp2p_node.engines.serving import threads_for
from cxp2p_node.engines.supervise import Worker, open_worker
from cxp2p_node.models.voice import VoiceFacts, piper_here
from cxp2p_node.processors import cores_usable

WORKER = "cxp2p_node.engines.speech_worker"
SPEED_MIN = 0.25  # as the job's record has it
SLOTS = 4  # texts that are read in turns: many times faster than anybody listens
THREADS_MAX = 8  # more have nothing to do: a sentence is not so long

# Measured: a worker with nothing loaded, what a voice takes for each byte of its file, what a sentence is computed
# with, what each thread adds to that, and what is kept of each text on its way.
WORKER_BYTES = 112 << 20
LOADED_TIMES = 1.6
COMPUTE_BYTES = 64 << 20
THREAD_BYTES = 32 << 20
SLOT_BYTES = 8 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechSettings:
    """How one voice is served. `threads` None: all cores, up to eight."""

    model: str
    path: Path
    model_digest: bytes
    prices: Prices
    queue_max: int
    slots: int = SLOTS
    threads: int | None = None


class Speech:
    """The engine. Made by `open_speech`."""

    def __init__(self, settings: SpeechSettings, worker: Worker) -> None:
        self._settings = settings
        self.worker = worker
        assert worker.loaded is not None
        self._loaded = worker.loaded

    @property
    def ready(self) -> bool:
        return self.worker.ready

    def on_change(self, call: Callable[[], None]) -> None:
        self.worker.on_change(call)

    def describe(self) -> Capability:
        return described(self._settings, self._loaded.runtime)

    async def run(self, job: Job, seed: int, max_out: int, emit: Emit, counted: Counted) -> Usage:
        return await self.worker.run(encode(job), seed, max_out, emit, counted)


def described(settings: SpeechSettings, runtime: str) -> Capability:
    """What is offered of a voice."""
    return Capability(
        service=Service.SPEECH,
        model=settings.model,
        model_digest=settings.model_digest,
        runtime=runtime,
        context_units=TEXT_LETTERS_MAX,
        output_units_max=units.audio_ms_max(TEXT_LETTERS_MAX, SPEED_MIN),
        prices=settings.prices,
        slots=settings.slots,
        queue_max=settings.queue_max,
        load=Load(running=0, queued=0, first_piece_ms=0, units_per_s=0, loading_ms=0),
    )


def runtime_here() -> str:
    """What speaks on this machine. Raises SettingsError if it is not installed."""
    try:
        return piper_here()
    except PackageNotFoundError as error:
        raise SettingsError(
            f"models: {error.name} is missing here; voices need Piper, which is under the GPL and so an extra of its "
            "own: `pip install 'cxp2p[node,speech]'` brings it"
        ) from error


def threads_of(settings: SpeechSettings) -> int:
    """How many threads compute."""
    return settings.threads or min(threads_for(cores_usable()), THREADS_MAX)


def memory_needed(facts: VoiceFacts, *, slots: int, threads: int) -> int:
    """Bytes that serving a voice takes."""
    loaded = WORKER_BYTES + int(LOADED_TIMES * facts.file_bytes)
    return loaded + COMPUTE_BYTES + threads * THREAD_BYTES + slots * SLOT_BYTES


@asynccontextmanager
async def open_speech(settings: SpeechSettings) -> AsyncIterator[Speech]:
    """Loads the voice, and keeps it loaded for as long as the block runs. Raises SettingsError if it cannot be."""
    arguments = json.dumps({"path": str(settings.path), "threads": threads_of(settings)})
    async with open_worker(settings.model, WORKER, (arguments,)) as worker:
        yield Speech(settings, worker)
