"""Engines that speak without a voice: each letter is 10 ms of one level, so that what was said can be read back."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from cxp2p.errors import JobFailed
from cxp2p.records import Capability, FailureCode, Finish, Job, Piece, Prices, Service, SpeechJob, Usage
from cxp2p.speech import parts_to_read
from cxp2p_node.engines import Counted, Emit
from worlds import PRICES, capability

VOICE = "en_US-test-medium"
LETTER_SAMPLES = 441  # 20 ms


def sound_of(text: str) -> bytes:
    """The samples of a text."""
    return b"".join(struct.pack("<h", ord(letter)) * LETTER_SAMPLES for letter in text)


def text_of(data: bytes) -> str:
    """What was said. Raises ValueError for samples that are of no letter."""
    step = 2 * LETTER_SAMPLES
    if len(data) % step:
        raise ValueError(f"{len(data)} bytes are no whole letters")
    letters = (data[start : start + step] for start in range(0, len(data), step))
    said = []
    for letter in letters:
        if letter != letter[:2] * LETTER_SAMPLES:
            raise ValueError("two letters in one")
        said.append(chr(struct.unpack("<h", letter[:2])[0]))
    return "".join(said)


@dataclass
class SpeakingEngine:
    """Says a part of a text every `pause_s`. Can be told to fail or to hang before the part of that number.

    `claimed`: what it says that each letter is worth, in ms.
    """

    name: str = VOICE
    digest: bytes = b"v" * 32
    pause_s: float = 0.1
    fail_at: int | None = None
    hang_at: int | None = None
    fault: JobFailed = field(default_factory=lambda: JobFailed(FailureCode.ENGINE_DIED, "the engine died"))
    claimed: int = 20
    finish: Finish = Finish.STOP
    slots: int = 1
    queue_max: int = 8
    prices: Prices = PRICES
    ready: bool = True
    jobs: list[SpeechJob] = field(default_factory=list)
    stopped_at: list[float] = field(default_factory=list)
    begun_at: list[float] = field(default_factory=list)
    mute: bool = False  # it has no sound for anything

    def on_change(self, call: Callable[[], None]) -> None:
        self._call = call

    def describe(self) -> Capability:
        return capability(
            self.name,
            service=Service.SPEECH,
            model_digest=self.digest,
            slots=self.slots,
            queue_max=self.queue_max,
            prices=self.prices,
        )

    async def run(self, job: Job, seed: int, max_out: int, emit: Emit, counted: Counted) -> Usage:
        assert isinstance(job, SpeechJob)
        self.jobs.append(job)
        self.begun_at.append(trio.current_time())
        counted(len(job.text), 0)
        out_units = 0
        try:
            for number, part in enumerate([] if self.mute else parts_to_read(job.text)):
                await trio.sleep(self.pause_s)
                if number == self.fail_at:
                    raise self.fault
                if number == self.hang_at:
                    await trio.sleep_forever()
                units = self.claimed * len(part)
                await emit(Piece(data=sound_of(part), units=units))
                out_units += units
        except trio.Cancelled:
            self.stopped_at.append(trio.current_time())
            raise
        return Usage(in_units=len(job.text), cached_units=0, out_units=out_units, finish=self.finish)
