"""The process that speaks with a Piper voice: jobs in on standard input, samples out on standard output.

Run by `engines.speech`, never by a person. Piper is under the GPL: it stays in this process, and an extra of its own.
Jobs take turns, a part of a text each; a cancel takes effect between two parts. It ends when standard input closes.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

from cxp2p.errors import RemoteProtocolError, one_line
from cxp2p.records import FailureCode, Finish, Piece, SpeechJob
from cxp2p.speech import parts_to_read
from cxp2p.wire import decode
from cxp2p_node.engines.frames import (
    Alive,
    Counted,
    Credit,
    Done,
    Failed,
    Frames,
    Loaded,
    Made,
    Message,
    Start,
    Stop,
    Unfit,
    pack,
)
from cxp2p_node.engines.speech_sound import milliseconds, samples

EXIT_UNFIT = 3
BEAT_S = 5.0
LETTERS_MAX = 10_000


class VoiceError(Exception):
    """The voice cannot be used. The text says why."""


class Voice:
    """A loaded voice."""

    def __init__(self, path: Path, config_path: Path, threads: int) -> None:
        # Both are large, and only here.
        import onnxruntime  # noqa: PLC0415
        from piper import PiperConfig, PiperVoice  # noqa: PLC0415

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # other workers want the cores too
        try:
            config = PiperConfig.from_dict(json.loads(config_path.read_text()))
            session = onnxruntime.InferenceSession(str(path), sess_options=options, providers=["CPUExecutionProvider"])
        except Exception as error:
            # onnxruntime has no error of its own to catch: whatever it raises means that the file is of no use.
            raise VoiceError(f"Piper cannot load {path.name}: {one_line(str(error), 200)}") from error
        self.rate = int(config.sample_rate)
        self._voice: Any = PiperVoice(session=session, config=config)
        self._usual_scale = float(config.length_scale)

    def say(self, text: str, speed: float) -> bytes:
        """The samples of one part of a text."""
        from piper import SynthesisConfig  # noqa: PLC0415

        how = SynthesisConfig(length_scale=self._usual_scale / speed)
        return b"".join(samples(chunk.audio_float_array, self.rate) for chunk in self._voice.synthesize(text, how))


@dataclass(slots=True)
class Job:
    """One text on its way: the parts that are still to be said, and how much was sent."""

    start: Start
    parts: deque[str]
    speed: float
    credit: int
    sent_bytes: int = 0
    sent_ms: int = 0


class Worker:
    """Says a part of each job in turn, and listens between them."""

    def __init__(self, voice: Voice, inbox: queue.SimpleQueue[Message], out: BinaryIO) -> None:
        self._voice = voice
        self._inbox = inbox
        self._out = out
        self._jobs: dict[int, Job] = {}
        self._turns: deque[int] = deque()
        self._beat_at = time.monotonic()

    def run(self) -> None:
        while True:
            self._listen()
            job = self._next()
            if job is not None:
                self._say_part(job)
            if time.monotonic() - self._beat_at >= BEAT_S:
                self._beat_at = time.monotonic()
                self._tell(Alive())

    def _listen(self) -> None:
        idle = not any(job.credit > 0 for job in self._jobs.values())
        try:
            while True:
                self._hear(self._inbox.get(block=idle, timeout=BEAT_S))
                idle = False
        except queue.Empty:
            return

    def _hear(self, message: Message) -> None:
        match message:
            case Start():
                self._begin(message)
            case Credit(job=number, pieces=pieces) if number in self._jobs:
                self._jobs[number].credit += pieces
            case Stop(job=number) if number in self._jobs:
                del self._jobs[number]
                self._turns.remove(number)

    def _begin(self, start: Start) -> None:
        try:
            job = decode(SpeechJob, start.request)
        except RemoteProtocolError as error:
            self._tell(_failed(start, str(error)))
            return
        parts = parts_to_read(job.text)
        if not parts:
            self._tell(_failed(start, "the text has nothing in it that can be spoken"))
            return
        self._tell(Counted(job=start.job, in_units=len(job.text), cached_units=0))
        self._jobs[start.job] = Job(start, deque(parts), job.speed, start.credit)
        self._turns.append(start.job)

    def _next(self) -> Job | None:
        """Whose turn it is; a job whose reader is slow waits."""
        for _ in range(len(self._turns)):
            self._turns.rotate(-1)
            job = self._jobs[self._turns[-1]]
            if job.credit > 0:
                return job
        return None

    def _say_part(self, job: Job) -> None:
        data = self._voice.say(job.parts.popleft(), job.speed)
        left_ms = job.start.max_out - job.sent_ms
        ms = milliseconds(job.sent_bytes + len(data)) - job.sent_ms
        if ms > left_ms:
            self._end(job, Finish.LENGTH)
            return
        if data:
            job.sent_bytes += len(data)
            job.sent_ms += ms
            job.credit -= 1
            self._tell(Made(job=job.start.job, piece=Piece(data=data, units=ms)))
        if not job.parts:
            self._end(job, Finish.STOP)

    def _end(self, job: Job, finish: Finish) -> None:
        self._tell(Done(job=job.start.job, finish=finish))
        del self._jobs[job.start.job]
        self._turns.remove(job.start.job)

    def _tell(self, message: Message) -> None:
        self._out.write(pack(message))
        self._out.flush()


def _failed(start: Start, reason: str) -> Failed:
    return Failed(job=start.job, code=FailureCode.REQUEST_UNSUPPORTED, reason=reason[:512], limit=0, actual=0)


def listen(source: BinaryIO, inbox: queue.SimpleQueue[Message]) -> None:
    """Reads commands until standard input closes, then ends the process, also in the middle of a sentence."""
    frames = Frames()
    try:
        while data := os.read(source.fileno(), 1 << 16):
            for message in frames.feed(data):
                inbox.put(message)
    finally:
        os._exit(0)


def main() -> None:
    """`python -m cxp2p_node.engines.speech_worker '{"path": …, "config_path": …, "threads": …}'`."""
    settings = json.loads(sys.argv[1])
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints must not break the frames
    inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
    threading.Thread(target=listen, args=(sys.stdin.buffer, inbox), daemon=True).start()
    try:
        voice = Voice(Path(settings["path"]), Path(settings["config_path"]), settings["threads"])
        voice.say("Hello.", 1.0)  # the first time is slow: have it before the first job
    except (VoiceError, ImportError) as error:
        out.write(pack(Unfit(reason=str(error)[:512])))
        out.flush()
        raise SystemExit(EXIT_UNFIT) from None
    runtime = f"piper {version('piper-tts')} onnxruntime {version('onnxruntime')}"
    out.write(pack(Loaded(runtime=runtime, context_units=LETTERS_MAX)))
    out.flush()
    Worker(voice, inbox, out).run()


if __name__ == "__main__":
    main()
