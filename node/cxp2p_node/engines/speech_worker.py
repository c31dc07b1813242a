"""The process that speaks with a Piper voice: jobs in on standard input, samples out on standard output.

Run by `engines.speech`, never by a person. Piper is under the GPL: it stays in this process, and an extra of its own.
One thread listens, one decides, the others compute. It ends when standard input closes.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, TypeAlias

from cxp2p.errors import CxError, RemoteProtocolError
from cxp2p.records import FailureCode, Finish, Piece, SpeechJob
from cxp2p.speech import TEXT_LETTERS_MAX, parts_to_read
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
    Unfit,
    pack,
)
from cxp2p_node.engines.frames import Stop as StopJob
from cxp2p_node.engines.speech_sound import encoded, gain_for, milliseconds
from cxp2p_node.engines.speech_turns import Reading, Say, Shape, Task, Turns
from cxp2p_node.engines.speech_voice import Sentence, Stop, VoiceError, load
from cxp2p_node.engines.thread_faults import end_with_traceback
from cxp2p_node.models.voice import piper_here

EXIT_UNFIT = 3
BEAT_S = 5.0
STUCK_S = 60.0  # no task takes so long: then it is not alive


class Speaker(Protocol):
    """What the worker needs of a voice."""

    def shapes(self, text: str, speed: float, stop: Stop) -> list[Sentence]: ...


@dataclass(frozen=True, slots=True)
class Shaped:
    """A part of a text became sentences."""

    job: int
    sentences: list[Sentence]


@dataclass(frozen=True, slots=True)
class Said:
    """A piece of the sound is there."""

    job: int
    place: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Broken:
    """A task failed."""

    job: int
    reason: str


Result: TypeAlias = Shaped | Said | Broken
Inbox: TypeAlias = "queue.SimpleQueue[Message | Result]"


@dataclass(slots=True)
class _Job:
    """What is told of one job so far."""

    start: Start
    sent_bytes: int = 0
    sent_ms: int = 0


class Worker:
    """Decides what is computed next, and tells what was. `submit` gives a task to one of `threads` threads."""

    def __init__(self, inbox: Inbox, out: BinaryIO, submit: Callable[[Task], object], threads: int) -> None:
        self._inbox = inbox
        self._out = out
        self._submit = submit
        self._threads = self._free = threads
        self._turns = Turns()
        self._jobs: dict[int, _Job] = {}
        self._beat_at = self._result_at = time.monotonic()

    def run(self) -> None:
        while True:
            self.step(BEAT_S)

    def step(self, patience_s: float) -> None:
        """Waits for news, heeds them, and hands out what can be done then."""
        try:
            self._hear(self._inbox.get(timeout=patience_s))
            while True:
                self._hear(self._inbox.get_nowait())
        except queue.Empty:
            pass
        while self._free and (task := self._turns.next_task(self._threads)) is not None:
            self._free -= 1
            self._submit(task)
        self._beat()

    def _beat(self) -> None:
        now = time.monotonic()
        stuck = self._free < self._threads and now - self._result_at > STUCK_S
        if now - self._beat_at >= BEAT_S and not stuck:
            self._beat_at = now
            self._tell(Alive())

    def _hear(self, news: Message | Result) -> None:
        match news:
            case Start():
                self._begin(news)
            case Credit(job=number, pieces=pieces):
                if (reading := self._turns.get(number)) is not None:
                    reading.credit += pieces
            case StopJob(job=number):
                self._leave(number)
            case Shaped() | Said() | Broken():
                self._free += 1
                self._result_at = time.monotonic()
                self._take(news)

    def _begin(self, start: Start) -> None:
        try:
            job = decode(SpeechJob, start.request)
        except RemoteProtocolError as error:
            self._tell(_failed(start, FailureCode.REQUEST_UNSUPPORTED, str(error)))
            return
        parts = deque(parts_to_read(job.text))
        self._tell(Counted(job=start.job, in_units=len(job.text), cached_units=0))
        self._jobs[start.job] = _Job(start)
        self._turns.add(Reading(job=start.job, parts=parts, speed=job.speed, credit=start.credit, stop=Stop()))
        self._end_if_over(start.job)

    def _take(self, result: Result) -> None:
        reading = self._turns.get(result.job)
        if reading is None:  # it was stopped meanwhile
            return
        match result:
            case Shaped(sentences=sentences):
                reading.shaped(sentences)
            case Said(place=place, data=data):
                for ready in reading.said(place, data):
                    if not self._send(self._jobs[result.job], ready):
                        self._end(result.job, Finish.LENGTH)
                        return
            case Broken(reason=reason):
                self._tell(_failed(self._jobs[result.job].start, FailureCode.INTERNAL, reason))
                self._leave(result.job)
                return
        self._end_if_over(result.job)

    def _send(self, job: _Job, data: bytes) -> bool:
        """Tells a piece; False if it is more than was ordered."""
        ms = milliseconds(job.sent_bytes + len(data)) - job.sent_ms
        if job.sent_ms + ms > job.start.max_out:
            return False
        job.sent_bytes += len(data)
        job.sent_ms += ms
        self._tell(Made(job=job.start.job, piece=Piece(data=data, units=ms)))
        return True

    def _end_if_over(self, number: int) -> None:
        reading = self._turns.get(number)
        if reading is not None and reading.over:
            self._end(number, Finish.STOP)

    def _end(self, number: int, finish: Finish) -> None:
        self._tell(Done(job=number, finish=finish))
        self._leave(number)

    def _leave(self, number: int) -> None:
        """The job is over; what is still computed for it stops."""
        reading = self._turns.get(number)
        if reading is not None:
            reading.stop.set()
            self._turns.remove(number)
            del self._jobs[number]

    def _tell(self, message: Message) -> None:
        self._out.write(pack(message))
        self._out.flush()


def do(voice: Speaker, gain: float, task: Task) -> Result:
    """One task, on a thread."""
    try:
        match task:
            case Shape():
                return Shaped(task.job, voice.shapes(task.text, task.speed, task.stop))
            case Say(sentence=sentence, begin=begin, end=end):
                sound = sentence.sound(begin, end, task.stop)
                data = encoded(sound, gain, begins=begin == 0, ends=end == sentence.frames)
                return Said(task.job, task.place, data)
    except VoiceError as error:
        return Broken(task.job, str(error))


def _failed(start: Start, code: FailureCode, reason: str) -> Failed:
    return Failed(job=start.job, code=code, reason=reason[:512], limit=0, actual=0)


def listen(source: BinaryIO, inbox: Inbox) -> None:
    """Reads commands until standard input closes, then ends the process, also in the middle of a sentence."""
    frames = Frames()
    while data := os.read(source.fileno(), 1 << 16):
        for message in frames.feed(data):
            inbox.put(message)
    os._exit(0)


def compute(voice: Speaker, gain: float, tasks: queue.SimpleQueue[Task], inbox: Inbox) -> None:
    """Does tasks for as long as the process lives."""
    while True:
        inbox.put(do(voice, gain, tasks.get()))


def main() -> None:
    """`python -m cxp2p_node.engines.speech_worker '{"path": …, "threads": …}'`."""
    settings = json.loads(sys.argv[1])
    logging.basicConfig(level=logging.WARNING)
    logging.getLogger("piper").setLevel(logging.ERROR)  # it warns of each phoneme that the voice lacks
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints must not break the frames
    threading.excepthook = end_with_traceback
    inbox: Inbox = queue.SimpleQueue()
    threading.Thread(target=listen, args=(sys.stdin.buffer, inbox), daemon=True).start()
    try:
        voice = load(Path(settings["path"]), settings["threads"])
        gain = gain_for(voice.calibration())  # it also makes the first job as quick as later ones
    except (VoiceError, CxError, OSError, ImportError) as error:
        out.write(pack(Unfit(reason=str(error)[:512])))
        out.flush()
        raise SystemExit(EXIT_UNFIT) from None
    out.write(pack(Loaded(runtime=piper_here(), context_units=TEXT_LETTERS_MAX)))
    out.flush()
    tasks: queue.SimpleQueue[Task] = queue.SimpleQueue()
    for _ in range(settings["threads"]):
        threading.Thread(target=compute, args=(voice, gain, tasks, inbox), daemon=True).start()
    Worker(inbox, out, tasks.put, settings["threads"]).run()


if __name__ == "__main__":
    main()
