"""What the speech worker decides, in this process: a voice that is a table, threads that are a list of tasks."""

from __future__ import annotations

import io
import queue
from dataclasses import dataclass, field

import numpy as np
import pytest

from cxp2p.records import FailureCode, Finish, SpeechJob
from cxp2p.wire import encode
from cxp2p_node.engines.frames import Counted, Credit, Done, Failed, Frames, Made, Message, Start
from cxp2p_node.engines.frames import Stop as StopJob
from cxp2p_node.engines.speech_sound import RATE, Samples
from cxp2p_node.engines.speech_turns import Task
from cxp2p_node.engines.speech_voice import Sentence, Stop, VoiceError
from cxp2p_node.engines.speech_worker import Inbox, Worker, do

HOP = 256
FRAMES_PER_LETTER = 4


@dataclass(frozen=True)
class Level:
    """A sentence that is one level: the code of its first letter."""

    text: str

    @property
    def frames(self) -> int:
        return FRAMES_PER_LETTER * len(self.text)

    def sound(self, begin: int, end: int, stop: Stop) -> Samples:
        return np.full((end - begin) * HOP, ord(self.text[0]) / 1000, np.float32)


class Table:
    """A voice. It cannot say what begins with Z, and has no sound for Q."""

    def shapes(self, text: str, speed: float, stop: Stop) -> list[Sentence]:
        if text.startswith("Z"):
            raise VoiceError("the voice cannot say this: Z")
        return [] if text.startswith("Q") else [Level(text)]


@dataclass
class Bench:
    """A worker whose tasks are done when the test says so, the newest first."""

    threads: int = 1
    out: io.BytesIO = field(default_factory=io.BytesIO)
    inbox: Inbox = field(default_factory=queue.SimpleQueue)
    tasks: list[Task] = field(default_factory=list)
    done: int = 0

    def __post_init__(self) -> None:
        self.worker = Worker(self.inbox, self.out, self.tasks.append, self.threads)

    def hear(self, *messages: Message) -> None:
        for message in messages:
            self.inbox.put(message)
        self.worker.step(0)

    def work(self, tasks_max: int = 10**6) -> None:
        for _ in range(tasks_max):
            if not self.tasks:
                return
            self.inbox.put(do(Table(), 1.0, self.tasks.pop()))
            self.done += 1
            self.worker.step(0)

    def said(self) -> list[Message]:
        return Frames().feed(self.out.getvalue())

    def heard(self, job: int = 1) -> list[int]:
        """The levels of a job's sound, one for each run of them."""
        data = b"".join(each.piece.data for each in self.said() if isinstance(each, Made) and each.job == job)
        levels = np.round(np.frombuffer(data, "<i2") / 32.767).astype(int)
        runs = np.split(levels, np.flatnonzero(np.diff(levels)) + 1)
        return [int(run[0]) for run in runs if len(run) >= HOP]


def start(text: str, job: int = 1, *, max_out: int = 10**6, credit: int = 100) -> Start:
    request = encode(SpeechJob(model="voice", text=text))
    return Start(job=job, request=request, seed=1, max_out=max_out, credit=credit)


def units(messages: list[Message]) -> int:
    return sum(each.piece.units for each in messages if isinstance(each, Made))


@pytest.mark.parametrize("threads", [1, 4])
def test_a_text_is_said_in_order_and_counted(threads: int) -> None:
    """Characters first; then pieces, each with its milliseconds; then the end."""
    bench = Bench(threads)
    text = "Alpha is the first of them. Beta comes after it. Gamma is the third one."
    bench.hear(start(text))
    bench.work()
    counted, *made, done = bench.said()

    assert counted == Counted(job=1, in_units=len(text), cached_units=0)
    assert done == Done(job=1, finish=Finish.STOP)
    assert bench.heard() == [ord("A"), ord("B"), ord("G")]
    size = sum(len(each.piece.data) for each in made if isinstance(each, Made))
    assert abs(units(made) - size * 1000 / (2 * RATE)) < 1
    assert not bench.tasks


def test_several_texts_are_said_at_once() -> None:
    """Each hears its own, and the short one does not wait for the long one."""
    bench = Bench()
    bench.hear(start("A long one. " * 50, 1), start("Brief.", 2))
    bench.work()
    ends = [each.job for each in bench.said() if isinstance(each, Done)]

    assert (bench.heard(1)[:1], bench.heard(2)) == ([ord("A")], [ord("B")])
    assert ends == [2, 1]


def test_no_more_is_made_than_is_taken() -> None:
    """A reader that is slow pauses its own text only."""
    bench = Bench()
    bench.hear(start("A long one. " * 50, credit=3))
    bench.work()
    assert len([each for each in bench.said() if isinstance(each, Made)]) == 3
    bench.hear(start("Brief.", 2))
    bench.work()
    assert bench.heard(2) == [ord("B")]
    bench.hear(Credit(job=1, pieces=1000))
    bench.work()
    assert bench.said()[-1] == Done(job=1, finish=Finish.STOP)


def test_what_is_stopped_is_not_said_any_more() -> None:
    """Also what a thread has in its hands stops, and its result is forgotten."""
    bench = Bench()
    bench.hear(start("A long one. " * 50))
    bench.work(10)
    (held,) = bench.tasks
    told = len(bench.said())
    bench.hear(StopJob(job=1), StopJob(job=1), Credit(job=1, pieces=1))
    bench.work()

    assert held.stop.is_set
    assert len(bench.said()) == told
    assert bench.done == 11
    bench.hear(start("Brief.", 2))
    bench.work()
    assert bench.heard(2) == [ord("B")]


def test_nobody_gets_more_than_was_ordered() -> None:
    """What is too long ends before it, and says so."""
    bench = Bench()
    bench.hear(start("A long one. " * 50, max_out=5_000))
    bench.work()

    assert bench.said()[-1] == Done(job=1, finish=Finish.LENGTH)
    assert 3_000 < units(bench.said()) <= 5_000
    assert not bench.tasks


def test_what_cannot_be_said_fails_its_job_only() -> None:
    bench = Bench()
    bench.hear(start("Alpha. Zulu.", 1), start("Beta.", 2))
    bench.work()
    failed = [each for each in bench.said() if isinstance(each, Failed)]

    assert [(each.job, each.code, each.reason) for each in failed] == [
        (1, FailureCode.INTERNAL, "the voice cannot say this: Z")
    ]
    assert bench.heard(2) == [ord("B")]


def test_a_text_of_which_nothing_is_heard_is_empty() -> None:
    """Whoever asked sees that it has no length."""
    bench = Bench()
    bench.hear(start("Quiet. Quiet."), start("...", 2))
    bench.work()

    assert [each for each in bench.said() if isinstance(each, Made)] == []
    assert [each for each in bench.said() if isinstance(each, Done)] == [
        Done(job=2, finish=Finish.STOP),
        Done(job=1, finish=Finish.STOP),
    ]


def test_a_request_that_is_none_is_refused() -> None:
    bench = Bench()
    bench.hear(Start(job=1, request=b"\x00", seed=1, max_out=1, credit=1))
    (failed,) = bench.said()

    assert isinstance(failed, Failed)
    assert failed.code is FailureCode.REQUEST_UNSUPPORTED
