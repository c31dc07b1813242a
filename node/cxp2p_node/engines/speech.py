"""Speech by a Piper voice, which runs in a supervised worker process."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from cxp2p import units
from cxp2p.records import Capability, Job, Load, Prices, Service, Usage
from cxp2p.wire import encode
from cxp2p_node.engines import Counted, Emit
from cxp2p_node.engines.supervise import Worker, open_worker

WORKER = "cxp2p_node.engines.speech_worker"
LETTERS_MAX = 10_000
SLOTS = 4  # texts that are read in turns: many times faster than anybody listens


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechSettings:
    """How one voice is served. `config_path`: the JSON file beside the voice's ONNX file."""

    model: str
    path: Path
    config_path: Path
    model_digest: bytes
    prices: Prices
    queue_max: int
    slots: int = SLOTS
    threads: int = 1


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
        settings = self._settings
        return Capability(
            service=Service.SPEECH,
            model=settings.model,
            model_digest=settings.model_digest,
            runtime=self._loaded.runtime,
            context_units=LETTERS_MAX,
            output_units_max=units.AUDIO_MS_SPARE + 4 * LETTERS_MAX * units.AUDIO_MS_PER_LETTER_MAX,
            prices=settings.prices,
            slots=settings.slots,
            queue_max=settings.queue_max,
            load=Load(running=0, queued=0, first_piece_ms=0, units_per_s=0, loading_ms=0),
        )

    async def run(self, job: Job, seed: int, max_out: int, emit: Emit, counted: Counted) -> Usage:
        return await self.worker.run(encode(job), seed, max_out, emit, counted)


@asynccontextmanager
async def open_speech(settings: SpeechSettings) -> AsyncIterator[Speech]:
    """Loads the voice, and keeps it loaded for as long as the block runs. Raises SettingsError if it cannot be."""
    arguments = json.dumps(
        {"path": str(settings.path), "config_path": str(settings.config_path), "threads": settings.threads}
    )
    async with open_worker(settings.model, WORKER, (arguments,)) as worker:
        yield Speech(settings, worker)
