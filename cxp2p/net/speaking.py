"""How an asker has a text read aloud: in jobs, several at once on one node or more, and told in order."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import trio

from cxp2p import speech
from cxp2p.embed import digests
from cxp2p.errors import AnswerRefused, CxError, JobFailed, JobRefused, NoNode
from cxp2p.net.ask import DEADLINE_S, Asker, Books, Outcome
from cxp2p.net.discover import Discovery
from cxp2p.records import FailureCode, Finish, Piece, RefusalCode, Service, SpeechJob
from cxp2p.routing import of_digest

log = logging.getLogger("cxp2p.ask")

AT_ONCE_MIN: Final = 2  # on a single node too: the next job begins while the last one is on its way
AT_ONCE_MAX: Final = 8
RUNS_MAX: Final = 3  # of one job that breaks off; each may ask three nodes

Hear: TypeAlias = Callable[[bytes], Awaitable[None]]
"""Takes samples in their order; waits while the listener does not read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoken:
    """How a text was read: its length, and the orders that it took, in the order of the text."""

    audio_ms: int
    outcomes: tuple[Outcome, ...]


@dataclass(slots=True)
class _Part:
    """One job: its text, and what has come of it."""

    text: str
    data: bytearray = field(default_factory=bytearray)
    units: int = 0
    outcome: Outcome | None = None
    error: CxError | None = None
    over: trio.Event = field(default_factory=trio.Event)


class Speaker:
    """Asks the network for speech, over an `Asker`."""

    def __init__(self, asker: Asker, discovery: Discovery, wall_ms: Callable[[], int]) -> None:
        self._asker = asker
        self._discovery = discovery
        self._wall_ms = wall_ms

    async def run(
        self,
        voice: str,
        text: str,
        books: Books,
        hear: Hear,
        *,
        speed: float = 1.0,
        deadline_s: float = DEADLINE_S,
    ) -> Spoken:
        """Reads `text` with `voice`: samples go to `hear` in order, 22,050 a second, two bytes each.

        Samples of a job are told when it is whole, so a node that dies in the middle is not heard: another does its
        job again. All jobs have the same voice file. Raises what `Asker.run` raises, AnswerRefused, and JobRefused for
        a text with nothing to be heard or of more than 10,000 characters; then, and if the call is cancelled, all
        orders end.
        """
        texts = speech.split(text)
        if not texts or len(text) > speech.TEXT_LETTERS_MAX:
            why = "the text is too long" if texts else "there is nothing in the text that can be spoken"
            raise JobRefused(RefusalCode.REQUEST_INVALID, why)
        digest, at_once = self._voice(voice)
        parts = [_Part(each) for each in texts]
        ends_at = trio.current_time() + deadline_s
        told_ms = 0
        refused: CxError | None = None
        places = trio.Semaphore(at_once)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._begin_all, nursery, parts, voice, speed, books, digest, ends_at, places)
            for part in parts:
                await part.over.wait()
                try:
                    if part.error is not None:
                        raise part.error
                    await hear(bytes(part.data))
                except CxError as error:
                    refused = error
                    nursery.cancel_scope.cancel()
                    break
                told_ms += part.units
                part.data.clear()
                places.release()  # only now: what waits to be told takes memory
        if refused is not None:
            raise refused
        return Spoken(audio_ms=told_ms, outcomes=tuple(part.outcome for part in parts if part.outcome is not None))

    def _voice(self, voice: str) -> tuple[bytes, int]:
        """Which of the voice's files is used, and how many jobs the nodes that have it can do at once."""
        candidates = self._discovery.directory.candidates(Service.SPEECH, voice, self._wall_ms(), trio.current_time())
        offered = digests(candidates)
        if not offered:
            self._discovery.want(Service.SPEECH, voice)
            raise NoNode(f"no live node speaks as {voice!r}")
        places = sum(max(1, able.slots) for _, able in of_digest(candidates, offered[0]))
        return offered[0], max(AT_ONCE_MIN, min(places, AT_ONCE_MAX))

    async def _begin_all(
        self,
        nursery: trio.Nursery,
        parts: list[_Part],
        voice: str,
        speed: float,
        books: Books,
        digest: bytes,
        ends_at: float,
        places: trio.Semaphore,
    ) -> None:
        for part in parts:
            await places.acquire()
            job = SpeechJob(model=voice, text=part.text, speed=speed)
            nursery.start_soon(self._do, part, job, books, digest, ends_at)

    async def _do(self, part: _Part, job: SpeechJob, books: Books, digest: bytes, ends_at: float) -> None:
        try:
            part.outcome = await self._ask(part, job, books, digest, ends_at)
        except CxError as error:
            part.error = error
        part.over.set()

    async def _ask(self, part: _Part, job: SpeechJob, books: Books, digest: bytes, ends_at: float) -> Outcome:
        async def take(piece: Piece) -> None:
            part.data += piece.data
            part.units += piece.units
            await trio.lowlevel.checkpoint()

        async def judge(finish: Finish) -> str:
            await trio.lowlevel.checkpoint()
            return fault_of(finish, len(part.data), part.units)

        for run in range(RUNS_MAX):
            part.data.clear()
            part.units = 0
            left_s = max(0.0, ends_at - trio.current_time())
            try:
                return await self._asker.run(job, take, books, deadline_s=left_s, judge=judge, digest=digest)
            except (JobFailed, AnswerRefused) as error:
                if run == RUNS_MAX - 1 or not part.data or _is_final(error):
                    raise
                log.info("a part of a text is read again: %s", error)
        raise AssertionError("the last run returns or raises")


def fault_of(finish: Finish, byte_count: int, units: int) -> str:
    """What is wrong with a whole answer; nothing if it is as long as its node says, or was cancelled."""
    if finish is Finish.LENGTH:
        return "the text was not read to its end"
    if finish is not Finish.STOP:
        return ""
    ms = byte_count * 1000 // (2 * speech.RATE)
    return "" if byte_count % 2 == 0 and abs(ms - units) <= 1 else f"{units} ms are claimed, {ms} came"


def _is_final(error: CxError) -> bool:
    return isinstance(error, JobFailed) and error.code in (FailureCode.TIMEOUT, FailureCode.REQUEST_UNSUPPORTED)
