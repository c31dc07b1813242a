"""Moves a session's bytes over a stream: the asker's end and the node's end of one job's conversation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import trio

from cxp2p import protocols
from cxp2p.errors import PeerUnreachable, RemoteProtocolError
from cxp2p.net import Network, Stream
from cxp2p.records import Ask, CallPart, Piece
from cxp2p.session import Event, Session, Side
from cxp2p.wire import FrameReader, encode_frame

TOKEN_IDS_PER_FRAME = 1024  # so that what is joined after the cut is still within a Piece's 4,096
PIECE_BYTES_MAX = 32 * 1024  # half a frame, as weights are estimates
LOGPROBS_PER_FRAME = 16  # with 20 alternatives each: about 18 KiB of ordinary tokens
LINGER_S = 2.0


class Conversation:
    """One end of a job's conversation on a stream. Not for concurrent `say`s; `hear` and `say` may run side by side."""

    def __init__(self, stream: Stream, side: Side, took: Callable[[int], None] | None = None) -> None:
        """`took` is told the size of each read before it is kept, and may raise to end the conversation."""
        self.stream = stream
        self._took = took
        self.session = Session(side)
        self._heard: list[Event] = []

    @property
    def peer(self) -> str:
        return self.stream.peer

    async def say(self, event: Event) -> None:
        """Sends one event, waiting while the peer does not read. Raises PeerUnreachable, LocalProtocolError."""
        await self.stream.send(self.session.send(event))

    async def hear(self) -> Event | None:
        """The next event, or None after the other side's last one. Raises PeerUnreachable, RemoteProtocolError."""
        while not self._heard:
            if self.session.settled:
                return None
            data = await self.stream.receive()
            if not data and not self.session.settled:
                raise PeerUnreachable(f"{self.peer} went away in the middle of a job")
            if self._took is not None:
                self._took(len(data))
            self._heard = self.session.receive(data)
        return self._heard.pop(0)


@asynccontextmanager
async def converse(
    network: Network, peer: str, took: Callable[[int], None] | None = None
) -> AsyncIterator[Conversation]:
    """Opens the asker's end. The stream is closed after a whole conversation and reset after anything else."""
    stream = await network.open(peer, protocols.JOB)
    conversation = Conversation(stream, Side.ASKER, took)
    try:
        yield conversation
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + LINGER_S):
            await (stream.close() if conversation.session.settled else stream.reset())


async def hear_ask(conversation: Conversation) -> Ask:
    """The first event of an asker. Raises PeerUnreachable, also when it does not come in ASK_TIMEOUT_S."""
    try:
        with trio.fail_after(protocols.ASK_TIMEOUT_S):
            event = await conversation.hear()
    except trio.TooSlowError:
        raise PeerUnreachable(f"{conversation.peer} opened a stream and asked nothing") from None
    if not isinstance(event, Ask):
        raise RemoteProtocolError("the first event of a job must be an Ask")
    return event


def split_piece(piece: Piece) -> list[Piece]:
    """Pieces whose frames are within the limit. Text is cut at characters; ids and units come with the last part."""
    if weigh(piece) <= PIECE_BYTES_MAX and len(piece.token_ids) <= TOKEN_IDS_PER_FRAME:
        return [piece]
    parts = [Piece(reasoning=text) for text in _cut(piece.reasoning)]
    parts += [Piece(text=text) for text in _cut(piece.text)]
    for call in piece.calls:
        first, *more = _cut(call.arguments) or [""]
        named = CallPart(number=call.number, name=call.name, arguments=first)
        rest = [CallPart(number=call.number, arguments=text) for text in more]
        parts += [Piece(calls=(part,)) for part in (named, *rest)]
    for start in range(0, len(piece.logprobs), LOGPROBS_PER_FRAME):
        group = piece.logprobs[start : start + LOGPROBS_PER_FRAME]
        parts.append(Piece(logprobs=group))
    groups = [
        piece.token_ids[at : at + TOKEN_IDS_PER_FRAME] for at in range(0, len(piece.token_ids), TOKEN_IDS_PER_FRAME)
    ]
    for start in range(0, len(piece.data), PIECE_BYTES_MAX):
        parts.append(Piece(data=piece.data[start : start + PIECE_BYTES_MAX]))
    last = parts.pop() if parts else Piece()
    only_ids = (Piece(token_ids=group) for group in groups[1:])
    return [*parts, replace(last, token_ids=groups[0] if groups else (), units=piece.units), *only_ids]


def join_pieces(pieces: Sequence[Piece]) -> Piece:
    """One piece that says the same as these one after another."""
    if len(pieces) == 1:
        return pieces[0]
    calls: list[CallPart] = []
    for part in (part for piece in pieces for part in piece.calls):
        last = calls[-1] if calls else None
        if last is not None and part.name is None and last.number == part.number:
            calls[-1] = replace(last, arguments=last.arguments + part.arguments)
        else:
            calls.append(part)
    return Piece(
        text="".join(piece.text for piece in pieces),
        token_ids=tuple(token for piece in pieces for token in piece.token_ids),
        reasoning="".join(piece.reasoning for piece in pieces),
        calls=tuple(calls),
        logprobs=tuple(logprob for piece in pieces for logprob in piece.logprobs),
        data=b"".join(piece.data for piece in pieces),
        units=sum(piece.units for piece in pieces),
    )


def weigh(piece: Piece) -> int:
    """At most so many bytes of frame, roughly: to know whether more fits."""
    letters = len(piece.text) + len(piece.reasoning) + sum(len(part.arguments) + 160 for part in piece.calls)
    logprobs = sum(64 + len(each.data) + sum(48 + len(other.data) for other in each.top) for each in piece.logprobs)
    return 4 * letters + 5 * len(piece.token_ids) + logprobs + len(piece.data)


def _cut(text: str) -> list[str]:
    step = PIECE_BYTES_MAX // 8  # a character is up to 4 bytes
    return [text[start : start + step] for start in range(0, len(text), step)]


async def send_record(stream: Stream, value: object) -> None:
    """Sends one record as a frame, outside of a job's session."""
    await stream.send(encode_frame(value))


class RecordReader:
    """Reads frames from a stream, outside of a job's session."""

    def __init__(self, stream: Stream, bytes_max: int) -> None:
        self._stream = stream
        self._reader = FrameReader(bytes_max)

    async def next(self) -> object | None:
        """The next record, or None at a clean end. Raises PeerUnreachable, RemoteProtocolError."""
        while (value := self._reader.next()) is None:
            data = await self._stream.receive()
            if not data:
                if not self._reader.empty:
                    raise RemoteProtocolError("the stream ended inside a frame")
                return None
            self._reader.feed(data)
        return value
