"""Epochs over /cxp2p/epoch/1: roots, whole epochs, proofs of single receipts. One question a stream.

What is sent is checked by who gets it, from the bytes: see `cxp2p.epochs` and `cxp2p.epoch_files`.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Final, Protocol, TypeVar

import trio

from cxp2p import protocols
from cxp2p.epoch_files import PAIR_BYTES_MAX, Head, Pair
from cxp2p.epoch_frames import (
    AbsentCode,
    EpochAbsent,
    FileWanted,
    InclusionSent,
    PairSent,
    ProofWanted,
    RootSent,
    RootWanted,
)
from cxp2p.epochs import Inclusion, check_root, open_root
from cxp2p.errors import CxError, EpochInvalid, PeerUnreachable, RemoteProtocolError
from cxp2p.net import Network, Stream
from cxp2p.net.pump import RecordReader, send_record
from cxp2p.wire import decode, encode_bare_frame

log = logging.getLogger("cxp2p.epochs")

T = TypeVar("T")

FILES_AT_ONCE_MAX: Final = 4  # of all peers; each is read from the database as fast as it is taken
PROOFS_AT_ONCE_MAX: Final = 4  # each reads a thousand leaves
PROOF_PAUSE_S: Final = 0.01  # before each: 400 a second in all
QUESTION_S_MAX: Final = 30.0
SEND_S_MAX: Final = 30.0  # for what was sent to be taken
BUSY_RETRY_MS: Final = 5_000
RETRY_MS_MAX: Final = 86_400_000  # whoever asks for an epoch in a million years need not wait for it
ANSWER_BYTES_MAX: Final = PAIR_BYTES_MAX + 64


class Absent(CxError):
    """There is no such root, epoch or proof. `retry_after_ms`: when there may be; 0: never."""

    def __init__(self, code: AbsentCode, reason: str, retry_after_ms: int = 0) -> None:
        super().__init__(reason)
        self.code = code
        self.retry_after_ms = retry_after_ms


class Archive(Protocol):
    """Where published epochs are kept. Each call raises Absent for what is not there."""

    async def root(self, gateway: str, epoch: int | None) -> bytes:
        """The envelope of a root: of an epoch, or the newest."""

    def pairs(self, gateway: str, epoch: int) -> AsyncGenerator[Pair, None]:
        """The receipts of a published epoch, in order."""

    async def inclusion(self, receipt_hash: bytes) -> bytes:
        """An encoded Inclusion."""


class EpochServing:
    """Answers questions from an archive."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._files = trio.CapacityLimiter(FILES_AT_ONCE_MAX)
        self._proofs = trio.CapacityLimiter(PROOFS_AT_ONCE_MAX)
        self._readers: set[str] = set()

    async def handle(self, stream: Stream) -> None:
        """One question, and its answer."""
        with trio.fail_after(QUESTION_S_MAX):
            question = await RecordReader(stream, protocols.FRAME_BYTES_MAX).next()
        try:
            match question:
                case RootWanted():
                    envelope = await self._archive.root(question.gateway, question.epoch)
                    await _send(stream, RootSent(envelope=envelope))
                case ProofWanted():
                    async with self._proofs:
                        await trio.sleep(PROOF_PAUSE_S)
                        inclusion = await self._archive.inclusion(question.receipt)
                    await _send(stream, InclusionSent(inclusion=inclusion))
                case FileWanted():
                    await self._send_file(stream, question)
                case _:
                    raise RemoteProtocolError(f"expected a question about epochs, not {type(question).__name__}")
        except Absent as error:
            retry_after_ms = min(error.retry_after_ms, RETRY_MS_MAX)
            await _send(stream, EpochAbsent(code=error.code, reason=str(error)[:512], retry_after_ms=retry_after_ms))

    async def _send_file(self, stream: Stream, question: FileWanted) -> None:
        if stream.peer in self._readers or not self._files.available_tokens:
            raise Absent(AbsentCode.BUSY, "too many epochs are being read here", BUSY_RETRY_MS)
        self._readers.add(stream.peer)
        try:
            async with self._files, aclosing(self._archive.pairs(question.gateway, question.epoch)) as pairs:
                await _send(stream, RootSent(envelope=await self._archive.root(question.gateway, question.epoch)))
                async for pair in pairs:
                    await _send(stream, PairSent(receipt=pair.receipt, countersign=pair.countersign))
        finally:
            self._readers.discard(stream.peer)


async def _send(stream: Stream, record: object) -> None:
    with trio.fail_after(SEND_S_MAX):
        await send_record(stream, record)


# The asker's side.


async def ask_root(network: Network, peer: str, gateway: str, epoch: int | None = None) -> bytes:
    """The envelope of a gateway's root, as `peer` has it: of an epoch, or the newest. It holds.

    Raises Absent, EpochInvalid, PeerUnreachable, RemoteProtocolError.
    """
    async with _asked(network, peer, RootWanted(gateway=gateway, epoch=epoch)) as reader:
        sent = await _answer(reader, RootSent)
    check_root(gateway, open_root(sent.envelope).epoch if epoch is None else epoch, sent.envelope)
    return sent.envelope


async def ask_inclusion(network: Network, peer: str, receipt_hash: bytes) -> Inclusion:
    """Where `peer` says that a receipt stands; not checked. Raises Absent, PeerUnreachable, RemoteProtocolError."""
    async with _asked(network, peer, ProofWanted(receipt=receipt_hash)) as reader:
        sent = await _answer(reader, InclusionSent)
    return decode(Inclusion, sent.inclusion)


async def ask_epoch(network: Network, peer: str, gateway: str, epoch: int) -> AsyncGenerator[bytes, None]:
    """A published epoch as `peer` has it, in the bytes of its file; not checked but for the root.

    Raises Absent, EpochInvalid, PeerUnreachable, RemoteProtocolError.
    """
    async with _asked(network, peer, FileWanted(gateway=gateway, epoch=epoch)) as reader:
        sent = await _answer(reader, RootSent)
        check_root(gateway, epoch, sent.envelope)
        yield encode_bare_frame(Head(root=sent.envelope))
        for _ in range(open_root(sent.envelope).count):
            pair = await _answer(reader, PairSent)
            yield encode_bare_frame(Pair(receipt=pair.receipt, countersign=pair.countersign))


@asynccontextmanager
async def _asked(network: Network, peer: str, question: object) -> AsyncIterator[RecordReader]:
    stream = await network.open(peer, protocols.EPOCH)
    try:
        with trio.fail_after(QUESTION_S_MAX):
            await send_record(stream, question)
        yield RecordReader(stream, ANSWER_BYTES_MAX)
    except trio.TooSlowError:
        raise PeerUnreachable(f"{peer} did not answer in {QUESTION_S_MAX:g} s") from None
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
            await stream.close()


async def _answer(reader: RecordReader, kind: type[T]) -> T:
    with trio.fail_after(QUESTION_S_MAX):
        answer = await reader.next()
    if isinstance(answer, EpochAbsent):
        raise Absent(answer.code, answer.reason, answer.retry_after_ms)
    if answer is None:
        raise EpochInvalid("the answer ended before all was sent")
    if not isinstance(answer, kind):
        raise RemoteProtocolError(f"expected {kind.__name__}, not {type(answer).__name__}")
    return answer
