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
from cxp2p.sound import JOINT_BYTES, SAMPLE_BYTES, fault_of, fault_so_far, joined

log = logging.getLogger("cxp2p.ask")

AT_ONCE_EACH: Final = 2  # on each node: the next job begins while the last one is on its way
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
    """One job: its text, and what has come of it. `told`: so many bytes of it were heard, of whichever run."""

    text: str
    data: bytearray = field(default_factory=bytearray)
    units: int = 0
    told: int = 0
    ending: bytes = b""  # the last of what was told
    over: bool = False
    outcome: Outcome | None = None
    error: CxError | None = None
    news: trio.Event = field(default_factory=trio.Event)

    def begin(self) -> None:
        """A run of the job begins, the first one or another."""
        self.data.clear()
        self.units = 0

    def take(self, piece: Piece) -> None:
        self.data += piece.data
        self.units += piece.units
        self.tell_news()

    def tell_news(self) -> None:
        self.news.set()
        self.news = trio.Event()

    def fresh(self) -> bytes:
        """What can be told and was not yet; nothing of a node that claims more than it says."""
        even = len(self.data) - len(self.data) % SAMPLE_BYTES
        if even <= self.told or fault_so_far(len(self.data), self.units):
            return b""
        before = bytes(self.data[self.told - len(self.ending) : self.told])
        fresh = joined(self.ending, before, bytes(self.data[self.told : even]))
        self.told = even
        self.ending = fresh[-JOINT_BYTES:]
        return fresh


@dataclass(slots=True, kw_only=True)
class _Errand:
    """One text on its way."""

    voice: str
    speed: float
    books: Books
    digest: bytes
    ends_at: float
    parts: list[_Part]
    places: trio.Semaphore


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
        """Reads `text` with `voice`: samples go to `hear` in order, as they come, 22,050 a second, two bytes each.

        All jobs have the same voice file, which says a text always alike: where a node breaks off, another one does its
        job again, and is heard from there on. Raises what `Asker.run` raises, AnswerRefused, and JobRefused for a text
        with nothing to be heard or of more than 10,000 characters; JobFailed for one that this voice cannot read. Then,
        and if the call is cancelled, all orders end.
        """
        texts = speech.split(text)
        if not texts or len(text) > speech.TEXT_LETTERS_MAX:
            why = "the text is too long" if texts else "there is nothing in the text that can be spoken"
            raise JobRefused(RefusalCode.REQUEST_INVALID, why)
        digest, at_once = self._voice(voice)
        errand = _Errand(
            voice=voice,
            speed=speed,
            books=books,
            digest=digest,
            ends_at=trio.current_time() + deadline_s,
            parts=[_Part(each) for each in texts],
            places=trio.Semaphore(at_once),
        )
        refused: CxError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._begin_all, nursery, errand)
            try:
                for part in errand.parts:
                    await self._tell(part, hear)
                    errand.places.release()  # only now: what waits to be told takes memory
            except CxError as error:
                refused = error
                nursery.cancel_scope.cancel()
        if refused is not None:
            raise refused
        audio_ms = sum(part.units for part in errand.parts)
        if not audio_ms:
            raise JobFailed(FailureCode.REQUEST_UNSUPPORTED, f"{voice!r} has no sounds for this text")
        outcomes = (part.outcome for part in errand.parts if part.outcome is not None)
        return Spoken(audio_ms=audio_ms, outcomes=tuple(outcomes))

    def _voice(self, voice: str) -> tuple[bytes, int]:
        """Which of the voice's files is used, and how many jobs are done at once by the nodes that have it."""
        candidates = self._discovery.directory.candidates(Service.SPEECH, voice, self._wall_ms(), trio.current_time())
        offered = digests(candidates)
        if not offered:
            self._discovery.want(Service.SPEECH, voice)
            raise NoNode(f"no live node speaks as {voice!r}")
        return offered[0], min(AT_ONCE_EACH * len(of_digest(candidates, offered[0])), AT_ONCE_MAX)

    async def _tell(self, part: _Part, hear: Hear) -> None:
        """Tells a part as it comes, to its end. Raises what became of it, and what `hear` raises."""
        while True:
            news = part.news
            fresh = part.fresh()
            if fresh:
                await hear(fresh)
            elif part.error is not None:
                raise part.error
            elif part.over:
                break
            else:
                await news.wait()
        part.data.clear()

    async def _begin_all(self, nursery: trio.Nursery, errand: _Errand) -> None:
        first = errand.parts[0]
        for part in errand.parts:
            await errand.places.acquire()
            nursery.start_soon(self._do, part, errand)
            while part is first and not (part.data or part.over):
                await part.news.wait()  # nothing else may hold up the first sound

    async def _do(self, part: _Part, errand: _Errand) -> None:
        try:
            part.outcome = await self._ask(part, errand)
        except CxError as error:
            part.error = error
        part.over = True
        part.tell_news()

    async def _ask(self, part: _Part, errand: _Errand) -> Outcome:
        async def take(piece: Piece) -> None:
            part.take(piece)
            await trio.lowlevel.checkpoint()

        async def judge(finish: Finish) -> str:
            await trio.lowlevel.checkpoint()
            return fault_of(finish, len(part.data), part.units)

        job = SpeechJob(model=errand.voice, text=part.text, speed=errand.speed)
        for run in range(RUNS_MAX):
            part.begin()
            left_s = max(0.0, errand.ends_at - trio.current_time())
            try:
                return await self._asker.run(
                    job, take, errand.books, deadline_s=left_s, judge=judge, digest=errand.digest
                )
            except (JobFailed, AnswerRefused) as error:
                if run == RUNS_MAX - 1 or not part.data or _is_final(error):
                    raise
                log.info("a part of a text is read again: %s", error)
        raise AssertionError("the last run returns or raises")


def _is_final(error: CxError) -> bool:
    return isinstance(error, JobFailed) and error.code in (FailureCode.TIMEOUT, FailureCode.REQUEST_UNSUPPORTED)
