"""Moves a session's bytes over a stream: the asker's end and the node's end of one job's conversation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from cxp2p import protocols
from cxp2p.errors import PeerUnreachable, RemoteProtocolError
from cxp2p.net import Network, Stream
from cxp2p.records import Ask, Piece
from cxp2p.session import Event, Session, Side
from cxp2p.wire import FrameReader, encode_frame

PIECE_TEXT_BYTES_MAX = 16 * 1024  # with 4,096 token ids of 5 bytes, well under one frame
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
async def converse(network: Network, peer: str) -> AsyncIterator[Conversation]:
    """Opens the asker's end. The stream is closed after a whole conversation and reset after anything else."""
    stream = await network.open(peer, protocols.JOB)
    conversation = Conversation(stream, Side.ASKER)
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
    """Pieces whose frames are within the limit. Text is cut at characters; all ids go with the last part."""
    if len(piece.text.encode()) <= PIECE_TEXT_BYTES_MAX:
        return [piece]
    step = PIECE_TEXT_BYTES_MAX // 4
    texts = [piece.text[start : start + step] for start in range(0, len(piece.text), step)]
    return [Piece(text=text, token_ids=()) for text in texts[:-1]] + [Piece(text=texts[-1], token_ids=piece.token_ids)]


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
