"""What a worker does when its model does not: no room, no copy, stopped in the middle. On a model that is told to."""

from __future__ import annotations

import io
import itertools
import queue
from collections.abc import Callable, Collection, Sequence
from typing import Any, cast

import pytest

from cxp2p.records import ChatJob, FailureCode, Finish, Message, Role
from cxp2p.wire import encode
from cxp2p_node.engines.frames import Counted, Done, Failed, Frames, Made, Start, Stop
from cxp2p_node.engines.frames import Message as Frame
from cxp2p_node.engines.llama_loop import Inbox, Loop
from cxp2p_node.engines.llama_model import Decoded
from cxp2p_node.engines.marks import ToolFormat
from cxp2p_node.engines.pace import Pace
from cxp2p_node.engines.prepare import Prepared
from cxp2p_node.engines.slots import Copy, Part

SHARED = tuple(range(100, 200))


class Silent:
    """A sampler, or a brake, of which nothing is wanted."""

    def close(self) -> None: ...

    def watch(self, jobs: Collection[int]) -> None: ...


class Pretended:
    """A model whose next token is always the length of the sequence, and that fails as it is told."""

    context_units = 1024
    cuts = True

    def __init__(self) -> None:
        self.held: dict[int, list[int]] = {slot: [] for slot in range(4)}
        self.decodes: list[list[Part]] = []
        self.ending: Callable[[Sequence[Part]], Decoded] = lambda parts: Decoded.DONE
        self.copies = True
        self.forgets = True
        self.brake = Silent()
        self._drawn: list[int] = []

    def decode(self, parts: Sequence[Part]) -> Decoded:
        self.decodes.append(list(parts))
        ending = self.ending(parts)
        if ending is Decoded.DONE:
            self._drawn = []
            for part in parts:
                assert len(self.held[part.slot]) == part.start
                self.held[part.slot] += part.tokens
                if part.output:
                    self._drawn.append(len(self.held[part.slot]))
        return ending

    def sample(self, sampler: object, output: int) -> int:
        return self._drawn[output]

    def forget(self, slot: int, after: int) -> bool:
        kept = after if self.forgets else 0
        del self.held[slot][kept:]
        return self.forgets or after == 0

    def copy(self, copies: Sequence[Copy]) -> list[Copy]:
        for each in copies:
            self.held[each.target] = self.held[each.source][: each.tokens] if self.copies else []
        return list(copies) if self.copies else []

    def sampler(self, sampling: object, seed: int) -> Silent:
        return Silent()

    def piece(self, token: int) -> bytes:
        return f"{token} ".encode()

    def ends(self, token: int) -> bool:
        return False


class Worker:
    """A loop, what it is told, and what it says."""

    def __init__(self) -> None:
        self.model = Pretended()
        self.inbox: Inbox = queue.SimpleQueue()
        self._out = io.BytesIO()
        self._frames = Frames()
        self._read = 0
        self.loop = Loop(
            cast(Any, self.model), Pace(512), ToolFormat("<tool_call>", "</tool_call>"), 4, self.inbox, self._out
        )
        self.said: dict[int, list[Frame]] = {}

    def start(self, number: int, prompt: Sequence[int], max_out: int = 3, salt: bytes = b"") -> None:
        chat = ChatJob(model="m", messages=(Message(role=Role.USER, content="x"),), cache_salt=salt)
        start = Start(job=number, request=encode(chat), seed=1, max_out=max_out, credit=32)
        self.inbox.put(Prepared(start, chat, tuple(prompt)))

    def turn(self, count: int = 1) -> None:
        for _ in range(count):
            self.loop.turn()
            for frame in self._frames.feed(self._out.getvalue()[self._read :]):
                assert isinstance(frame, Counted | Made | Done | Failed)
                self.said.setdefault(frame.job, []).append(frame)
            self._read = len(self._out.getvalue())

    def until_done(self, *numbers: int) -> None:
        for _ in range(1000):
            if all(isinstance(self.said.get(each, [None])[-1], Done | Failed) for each in numbers):
                return
            self.turn()
        raise AssertionError(f"jobs {numbers} do not end: {self.said}")

    def text(self, number: int) -> str:
        return "".join(frame.piece.text for frame in self.said[number] if isinstance(frame, Made))

    def cached(self, number: int) -> int:
        return next(frame.cached_units for frame in self.said[number] if isinstance(frame, Counted))

    def end(self, number: int) -> Frame:
        return self.said[number][-1]


@pytest.fixture
def worker() -> Worker:
    return Worker()


def test_a_job_from_its_prompt_to_its_end(worker: Worker) -> None:
    worker.start(1, [5, 6, 7])
    worker.until_done(1)
    assert worker.text(1) == "3 4 5 "
    assert worker.end(1) == Done(job=1, finish=Finish.LENGTH)
    assert isinstance(worker.said[1][0], Counted)  # before its first piece


def test_a_copy_that_fails_is_computed_and_not_counted_as_reused(worker: Worker) -> None:
    worker.model.copies = False
    for number in (1, 2):
        worker.start(number, [*SHARED, number])
    worker.until_done(1, 2)
    assert [worker.cached(number) for number in (1, 2)] == [0, 0]
    assert worker.text(1) == worker.text(2) == "101 102 103 "


def test_a_copy_is_counted_as_reused(worker: Worker) -> None:
    for number in (1, 2):
        worker.start(number, [*SHARED, number])
    worker.until_done(1, 2)
    assert [worker.cached(number) for number in (1, 2)] == [0, len(SHARED)]
    assert worker.text(1) == worker.text(2) == "101 102 103 "


def test_a_sequence_that_cannot_be_cut_is_computed_anew(worker: Worker) -> None:
    """As llama.cpp says of some models only when it is asked."""
    worker.start(1, [*SHARED, 1])
    worker.until_done(1)
    worker.model.forgets = False
    worker.start(2, [*SHARED, 2])
    worker.until_done(2)
    assert worker.cached(2) == 0
    assert worker.text(2) == "101 102 103 "


def test_a_decode_that_was_stopped_is_done_again_without_who_is_gone(worker: Worker) -> None:
    worker.start(1, SHARED, salt=b"a")
    worker.start(2, [1, 2, 3], salt=b"b")
    endings = iter([Decoded.STOPPED])
    worker.model.ending = lambda parts: next(endings, Decoded.DONE)
    worker.turn()
    worker.inbox.put(Stop(job=1))
    worker.until_done(2)
    assert worker.text(2) == "3 4 5 "
    assert not any(isinstance(frame, Made | Done) for frame in worker.said.get(1, []))


def test_who_has_no_room_ends_and_the_others_go_on(worker: Worker) -> None:
    """A prompt that llama.cpp has no room for fails; an answer that it has none for ends."""
    for number in range(1, 4):
        worker.start(number, [number] * 10, max_out=20, salt=bytes([number]))
    full: set[int] = set()

    def ending(parts: Sequence[Part]) -> Decoded:
        return Decoded.NO_ROOM if any(part.slot in full for part in parts) else Decoded.DONE

    worker.model.ending = ending
    worker.turn(12)
    full.add(0)
    worker.start(4, [4] * 10, max_out=2, salt=b"4")
    worker.until_done(1)
    assert worker.end(1) == Done(job=1, finish=Finish.LENGTH)
    assert 0 < len(worker.text(1).split()) < 20
    full.add(3)
    worker.start(5, [5] * 10, max_out=2, salt=b"5")
    worker.until_done(2, 3, 4, 5)
    assert [len(worker.text(number).split()) for number in (2, 3)] == [20, 20]
    failed = [worker.end(number) for number in (4, 5) if isinstance(worker.end(number), Failed)]
    assert [frame.code for frame in failed if isinstance(frame, Failed)] == [FailureCode.INTERNAL] * len(failed)
    assert failed


def test_an_error_of_llama_cpp_ends_the_worker(worker: Worker) -> None:
    """Nothing is known of its state then; the node starts another one, and its jobs are moved."""

    def ending(parts: Sequence[Part]) -> Decoded:
        raise RuntimeError("llama_decode returned -3")

    worker.model.ending = ending
    worker.start(1, [1, 2])
    with pytest.raises(RuntimeError, match="-3"):
        worker.turn(2)


def test_what_was_drawn_does_not_wait_for_the_prompts_of_others(worker: Worker) -> None:
    """In each turn those who generate get their token, and only then a batch of prompts is computed."""
    worker.start(1, [1, 2, 3], max_out=50, salt=b"a")
    worker.turn(2)
    worker.start(2, [9] * 400, salt=b"b")
    worker.model.decodes.clear()
    worker.turn(6)
    reads = [any(len(part.tokens) > 1 or not part.output for part in parts) for parts in worker.model.decodes]
    assert not reads[0]
    assert sum(reads) >= 3
    assert not any(before and after for before, after in itertools.pairwise(reads))
