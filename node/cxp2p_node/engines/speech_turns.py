"""Several texts that are read at once: whose turn it is, what is done next, and what can be told in order. Pure.

Two kinds of work: a part of a text is shaped into frames, then the frames are said, some of them at a time. Jobs take
turns at it. The first sound of a job is of few frames, so that it comes early; later ones are long, because the frames
around each range are computed too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, TypeAlias

from cxp2p_node.engines.speech_voice import Sentence, Stop

FIRST_FRAMES: Final = 24  # a quarter of a second, which takes 20 ms
FRAMES_MAX: Final = 224  # 2.6 seconds, which take 0.13 s: what others wait for
FRAMES_MIN: Final = 64  # what is still worth a thread of its own


@dataclass(frozen=True, slots=True)
class Shape:
    """To do: turn a part of a text into sentences."""

    job: int
    text: str
    speed: float
    stop: Stop


@dataclass(frozen=True, slots=True)
class Say:
    """To do: the samples of some frames of a sentence. `place`: of this piece among all of the job."""

    job: int
    place: int
    sentence: Sentence
    begin: int
    end: int
    stop: Stop


Task: TypeAlias = Shape | Say


@dataclass(slots=True, kw_only=True)
class Reading:
    """One text on its way. `credit`: how many pieces may be made that the reader has not taken yet."""

    job: int
    parts: deque[str]
    speed: float
    credit: int
    stop: Stop
    shaping: bool = False
    sentences: deque[Sentence] = field(default_factory=deque)
    ranges: deque[tuple[int, int]] = field(default_factory=deque)  # of the first sentence's frames, still to be said
    handed: int = 0  # pieces that are made or being made
    told: int = 0
    made: dict[int, bytes] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        """Whether all was told."""
        return not (self.parts or self.shaping or self.sentences or self.handed > self.told)

    def next_task(self, threads: int) -> Task | None:
        """What can be done now; calling it means that it is."""
        if self.sentences:
            return self._say(threads) if self.credit > self.handed - self.told else None
        if self.parts and not self.shaping:
            self.shaping = True
            return Shape(self.job, self.parts.popleft(), self.speed, self.stop)
        return None

    def _say(self, threads: int) -> Say:
        sentence = self.sentences[0]
        if not self.ranges:
            self.ranges.extend(ranges_of(sentence.frames, threads, first=not self.handed))
        begin, end = self.ranges.popleft()
        if not self.ranges:
            self.sentences.popleft()
        self.handed += 1
        return Say(self.job, self.handed - 1, sentence, begin, end, self.stop)

    def shaped(self, sentences: Iterable[Sentence]) -> None:
        """A part has become sentences."""
        self.shaping = False
        self.sentences.extend(each for each in sentences if each.frames)

    def said(self, place: int, data: bytes) -> list[bytes]:
        """A piece is made. Returns those that can be told now, in order."""
        self.made[place] = data
        ready = []
        while self.told in self.made:
            ready.append(self.made.pop(self.told))
            self.told += 1
            self.credit -= 1
        return ready


def ranges_of(frames: int, threads: int, *, first: bool) -> list[tuple[int, int]]:
    """Which of a sentence's frames are said together: as few ranges as keep all threads at work to the end.

    `first`: with them the job's sound begins. Whoever says its beginning has less to say later.
    """
    begin = FIRST_FRAMES if first and frames > FIRST_FRAMES + FRAMES_MIN // 2 else 0
    left = frames - begin
    rounds = -(-frames // (FRAMES_MAX * threads))
    count = max(1, min(rounds * threads, left // FRAMES_MIN))
    shared = left + (begin if threads > 1 and count % threads == 0 else 0)
    edges = [*(begin + shared * number // count for number in range(count)), frames]
    return [*([(0, begin)] if begin else []), *pairwise(edges)]


class Turns:
    """All texts that are read now. A new one is the next; after that they take turns."""

    def __init__(self) -> None:
        self._readings: dict[int, Reading] = {}
        self._order: deque[int] = deque()

    def __len__(self) -> int:
        return len(self._readings)

    def get(self, job: int) -> Reading | None:
        return self._readings.get(job)

    def add(self, reading: Reading) -> None:
        self._readings[reading.job] = reading
        self._order.appendleft(reading.job)

    def remove(self, job: int) -> None:
        del self._readings[job]
        self._order.remove(job)

    def next_task(self, threads: int) -> Task | None:
        """What is to be done next, if anything can be."""
        for _ in range(len(self._order)):
            job = self._order[0]
            self._order.rotate(-1)
            task = self._readings[job].next_task(threads)
            if task is not None:
                return task
        return None
