"""How an asker gets the vectors of many inputs: in parts, on several nodes at once, all of the same weights."""

from __future__ import annotations

import logging
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import trio

from cxp2p import embed
from cxp2p.embed import Gathering, Input
from cxp2p.errors import AnswerRefused, CxError, JobFailed, NoNode, RemoteProtocolError
from cxp2p.net.ask import DEADLINE_S, Asker, Books, Outcome
from cxp2p.net.discover import Discovery
from cxp2p.records import EmbedJob, Finish, Piece, Service
from cxp2p.routing import of_digest

log = logging.getLogger("cxp2p.ask")

DIGESTS_MAX: Final = 2  # as many weights are tried for one request; each begins it anew
RUNS_MAX: Final = 3  # of one part whose answers break off or are no vectors; each may ask three nodes
NUMBERS_AT_ONCE: Final = 16_384  # are checked before others get their turn: a millisecond

Took = Callable[[int], None]
"""Is told the size of each piece before it is kept, and may raise to end the request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Embeddings:
    """A vector of length 1 for each input, in their order, as float32 numbers. `in_units`: tokens, as all signed.

    `outcomes`: of the orders that it took, each with its receipt.
    """

    vectors: tuple[array[float], ...]
    in_units: int
    outcomes: tuple[Outcome, ...]


@dataclass(slots=True)
class _Request:
    """One request with one set of weights: the parts that wait, what came so far, and what went wrong."""

    model: str
    inputs: Sequence[Input]
    truncate: bool
    books: Books
    digest: bytes
    ends_at: float
    took: Took | None
    waiting: deque[range]
    vectors: list[array[float] | None]
    dimensions: int = 0
    running: int = 0
    outcomes: list[Outcome] = field(default_factory=list)
    error: CxError | None = None

    def missing(self, part: range) -> range:
        """What is left of a part: vectors of it come in order."""
        first = next((index for index in part if self.vectors[index] is None), part.stop)
        return range(first, part.stop)


class Embedder:
    """Asks the network for vectors, over an `Asker`."""

    def __init__(self, asker: Asker, discovery: Discovery, wall_ms: Callable[[], int]) -> None:
        self._asker = asker
        self._discovery = discovery
        self._wall_ms = wall_ms

    async def run(
        self,
        model: str,
        inputs: Sequence[Input],
        books: Books,
        *,
        truncate: bool = True,
        deadline_s: float = DEADLINE_S,
        at_once: int = embed.AT_ONCE_MAX,
        took: Took | None = None,
    ) -> Embeddings:
        """Vectors of all inputs, or an error. Parts of a large request run at once, at most `at_once` orders.

        All vectors come of the weights that most nodes offer; if those nodes cannot do it, once more of the next ones.
        A part that breaks off is asked for again elsewhere, without what had come of it. Raises what `Asker.run`
        raises, and what `took` raises; then, and if the call is cancelled, all orders end.
        """
        ends_at = trio.current_time() + deadline_s
        tried: list[bytes] = []
        first: CxError | None = None
        while len(tried) < DIGESTS_MAX:
            now = trio.current_time()
            candidates = self._discovery.directory.candidates(Service.EMBED, model, self._wall_ms(), now)
            untried = [digest for digest in embed.digests(candidates) if digest not in tried]
            if not untried:
                break
            tried.append(untried[0])
            places = min(embed.places(of_digest(candidates, untried[0])), at_once)
            request = _Request(
                model=model,
                inputs=inputs,
                truncate=truncate,
                books=books,
                digest=untried[0],
                ends_at=ends_at,
                took=took,
                waiting=deque(embed.split(inputs, places)),
                vectors=[None] * len(inputs),
            )
            try:
                return await self._all(request, places)
            except CxError as error:
                if not embed.nodes_fault(error):
                    raise
                log.info("%s with weights %s: %s", model, untried[0].hex()[:12], error)
                first = first or error
        if first is not None:
            raise first
        self._discovery.want(Service.EMBED, model)
        raise NoNode(f"no live node offers {model!r} for embeddings")

    async def _all(self, request: _Request, places: int) -> Embeddings:
        async with trio.open_nursery() as nursery:
            for _ in range(min(places, len(request.waiting))):
                nursery.start_soon(self._do_parts, request, nursery.cancel_scope)
        if request.error is not None:
            raise request.error
        return Embeddings(
            vectors=tuple(vector for vector in request.vectors if vector is not None),
            in_units=sum(outcome.settlement.countersign.in_units for outcome in request.outcomes),
            outcomes=tuple(request.outcomes),
        )

    async def _do_parts(self, request: _Request, scope: trio.CancelScope) -> None:
        """Does one part after another; the first error ends all. A part without room waits for those that run."""
        while request.waiting:
            part = request.waiting.popleft()
            request.running += 1
            try:
                await self._do_part(request, part)
            except CxError as error:
                if embed.no_room(error) and request.running > 1:
                    request.waiting.appendleft(request.missing(part))
                    return
                request.error = request.error or error
                scope.cancel()
            finally:
                request.running -= 1

    async def _do_part(self, request: _Request, part: range) -> None:
        runs, failed = 0, None
        while part := request.missing(part):
            gathering = Gathering(len(part))
            runs += 1
            try:
                request.outcomes.append(await self._ask(request, part, gathering))
                await _keep(request, part, gathering)
            except NoNode as error:
                raise failed or error from None
            except (JobFailed, AnswerRefused, RemoteProtocolError) as error:
                before_its_first_piece = isinstance(error, JobFailed) and not gathering.size  # three nodes were asked
                if runs == RUNS_MAX or before_its_first_piece or not embed.nodes_fault(error):
                    raise
                log.info("%d of %d inputs are asked for again: %s", len(part), len(request.inputs), error)
                failed = error
                if isinstance(error, JobFailed) and not isinstance(error.__cause__, RemoteProtocolError):
                    await _keep_whole(request, part, gathering)

    async def _ask(self, request: _Request, part: range, gathering: Gathering) -> Outcome:
        """One order for the inputs of `part`; its vectors gather."""
        inputs = tuple(request.inputs[part.start : part.stop])
        job = EmbedJob(model=request.model, inputs=inputs, truncate=request.truncate)

        async def take(piece: Piece) -> None:
            if request.took is not None:
                request.took(len(piece.data))
            gathering.take(piece)
            await trio.lowlevel.checkpoint()

        async def judge(finish: Finish) -> str:
            if finish not in (Finish.STOP, Finish.LENGTH):
                return ""
            fault = gathering.end(request.dimensions)
            if not fault:
                await _cut(gathering)
                request.dimensions = request.dimensions or gathering.dimensions
            return fault

        left_s = max(0.0, request.ends_at - trio.current_time())
        return await self._asker.run(job, take, request.books, deadline_s=left_s, judge=judge, digest=request.digest)


async def _cut(gathering: Gathering) -> None:
    """Makes vectors of all that has come. Raises RemoteProtocolError if one of them is none."""
    while gathering.cut(max(1, NUMBERS_AT_ONCE // gathering.dimensions)):
        await trio.lowlevel.checkpoint()


async def _keep(request: _Request, part: range, gathering: Gathering) -> None:
    """Keeps the vectors of a whole answer, or of one that broke off. Raises RemoteProtocolError if they are none."""
    if not gathering.dimensions:
        raise RemoteProtocolError(f"{gathering.size} bytes that nobody looked at")
    await _cut(gathering)
    if request.dimensions not in (0, gathering.dimensions):
        raise RemoteProtocolError(f"vectors of {gathering.dimensions} and of {request.dimensions} numbers")
    request.dimensions = gathering.dimensions
    request.vectors[part.start : part.start + len(gathering.vectors)] = gathering.vectors


async def _keep_whole(request: _Request, part: range, gathering: Gathering) -> None:
    """Keeps what is whole of an answer that broke off; but a part always ends with an answer that was signed for."""
    gathering.break_off(request.dimensions, len(part) - 1)
    if not gathering.dimensions:
        return
    try:
        await _keep(request, part, gathering)
    except RemoteProtocolError as error:  # also if the bytes that came did not end with a vector
        log.info("nothing is kept of the answer that broke off: %s", error)
