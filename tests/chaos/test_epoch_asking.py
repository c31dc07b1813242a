"""Epochs over the network: roots, files and proofs as a gateway has them, and what a liar sends instead."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from itertools import cycle

import cbor2
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from cxp2p import protocols
from cxp2p.epoch_files import Pair, published, read_epoch
from cxp2p.epoch_frames import AbsentCode, EpochAbsent, FileWanted, InclusionSent, PairSent, RootSent, RootWanted
from cxp2p.epochs import Inclusion, check_inclusion, place_of
from cxp2p.errors import CxError, EpochInvalid, PeerUnreachable, RemoteProtocolError
from cxp2p.net import Handler, Stream
from cxp2p.net.discover import offer_sequence
from cxp2p.net.epochs import (
    FILES_AT_ONCE_MAX,
    RETRY_MS_MAX,
    SEND_S_MAX,
    Absent,
    EpochServing,
    ask_epoch,
    ask_inclusion,
    ask_root,
)
from cxp2p.net.memory import Hub, MemoryNetwork, open_network
from cxp2p.net.pump import RecordReader, send_record
from cxp2p.receipts import HOURS
from cxp2p.testing import make_identity, sealed_root
from cxp2p.wire import decode, encode, encode_frame, encode_uvarint
from hours import EPOCH, GATEWAY, OTHER_GATEWAY, entry, hour

ENTRIES = [entry(number % 3, number) for number in range(40)]
ROOT, _, ORDERED, TREE = hour(*ENTRIES)


def far(epoch: int | None) -> bool:
    """Whether an epoch is of another million years."""
    return epoch is not None and epoch > 10**12


class Shelf:
    """One epoch, from memory. `gate`: until when no receipt is read; `endless`: they begin again."""

    def __init__(self, *, endless: bool = False) -> None:
        self.gate = trio.Event()
        self.gate.set()
        self.endless = endless

    async def root(self, gateway: str, epoch: int | None) -> bytes:
        await trio.lowlevel.checkpoint()
        if gateway != GATEWAY.peer or epoch not in (None, EPOCH):
            raise Absent(AbsentCode.OPEN, "not closed yet", HOURS.closes_at_ms(epoch or 0) if far(epoch) else 5)
        return ROOT

    async def pairs(self, gateway: str, epoch: int) -> AsyncGenerator[Pair, None]:
        await self.root(gateway, epoch)
        await self.gate.wait()
        for each in cycle(ORDERED) if self.endless else ORDERED:
            await trio.lowlevel.checkpoint()
            yield Pair(receipt=each.receipt_envelope, countersign=each.countersign_envelope)

    async def inclusion(self, receipt_hash: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        for index, each in enumerate(ORDERED):
            if each.countersign.receipt_hash == receipt_hash:
                return encode(Inclusion(root=ROOT, place=place_of(each, TREE.proof(index))))
        raise Absent(AbsentCode.UNKNOWN, "counts for no epoch")


@asynccontextmanager
async def asked(handler: Handler) -> AsyncIterator[MemoryNetwork]:
    """A peer that is connected to a gateway which answers so."""
    hub = Hub(latency_s=0.01)
    async with (
        open_network(hub, GATEWAY.peer, offer_sequence) as gateway,
        open_network(hub, make_identity(5).peer, offer_sequence) as network,
    ):
        gateway.serve(protocols.EPOCH, handler)
        await network.connect(gateway.addresses[0])
        yield network


async def file_of(network: MemoryNetwork) -> bytes:
    chunks = []
    async with aclosing(ask_epoch(network, GATEWAY.peer, GATEWAY.peer, EPOCH)) as file:
        async for chunk in file:
            chunks.append(chunk)
    return b"".join(chunks)


async def test_whoever_asks_gets_what_was_published(autojump_clock: MockClock) -> None:
    """The root, by number or the newest; the whole file to the byte; each receipt's proof."""
    async with asked(EpochServing(Shelf()).handle) as network:
        assert await ask_root(network, GATEWAY.peer, GATEWAY.peer) == ROOT
        assert await ask_root(network, GATEWAY.peer, GATEWAY.peer, EPOCH) == ROOT
        file = await file_of(network)
        assert file == b"".join(published(ROOT, ORDERED))
        assert list(read_epoch([file]).entries) == list(ORDERED)
        for each in ORDERED[::7]:
            inclusion = await ask_inclusion(network, GATEWAY.peer, each.countersign.receipt_hash)
            assert check_inclusion(inclusion)[1] == each


async def test_what_is_not_there_is_said(autojump_clock: MockClock) -> None:
    """With a code, and when to ask again."""
    async with asked(EpochServing(Shelf()).handle) as network:
        for ask in (
            ask_root(network, GATEWAY.peer, GATEWAY.peer, EPOCH + 1),
            anext(ask_epoch(network, GATEWAY.peer, OTHER_GATEWAY.peer, EPOCH)),
        ):
            with pytest.raises(Absent, match="not closed yet") as caught:
                await ask
            assert (caught.value.code, caught.value.retry_after_ms) == (AbsentCode.OPEN, 5)
        with pytest.raises(Absent, match="counts for no epoch"):
            await ask_inclusion(network, GATEWAY.peer, b"x" * 32)


async def test_an_epoch_in_a_million_years_is_answered_too(autojump_clock: MockClock) -> None:
    """Whatever number a stranger says, the answer is a frame, and tells no longer wait than a day."""
    async with asked(EpochServing(Shelf()).handle) as network:
        with pytest.raises(Absent, match="not closed yet") as caught:
            await ask_root(network, GATEWAY.peer, GATEWAY.peer, 2**63 - 1)
        assert caught.value.retry_after_ms == RETRY_MS_MAX


def test_a_code_is_text() -> None:
    """As every word of a record."""
    said = {"code": "busy", "reason": "", "retry_after_ms": 0}
    assert decode(EpochAbsent, cbor2.dumps(said)).code is AbsentCode.BUSY
    with pytest.raises(RemoteProtocolError, match="code"):
        decode(EpochAbsent, cbor2.dumps(said | {"code": b"busy"}))


@asynccontextmanager
async def crowd(shelf: Shelf, count: int) -> AsyncIterator[list[MemoryNetwork]]:
    """So many peers that are connected to a gateway with this shelf."""
    hub = Hub(latency_s=0.01)
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(open_network(hub, GATEWAY.peer, offer_sequence))
        gateway.serve(protocols.EPOCH, EpochServing(shelf).handle)
        peers = []
        for number in range(count):
            peer = make_identity(100 + number).peer
            network = await stack.enter_async_context(open_network(hub, peer, offer_sequence))
            await network.connect(gateway.addresses[0])
            peers.append(network)
        yield peers


async def test_few_files_are_read_at_once(autojump_clock: MockClock) -> None:
    """A peer reads one, all peers a few; who comes then is told when to come back."""
    shelf = Shelf()
    shelf.gate = trio.Event()
    async with crowd(shelf, FILES_AT_ONCE_MAX + 1) as peers, trio.open_nursery() as nursery:
        nursery.start_soon(file_of, peers[0])
        await trio.sleep(1)
        with pytest.raises(Absent, match="too many") as caught:
            await file_of(peers[0])
        assert caught.value.retry_after_ms > 0
        for peer in peers[1:-1]:
            nursery.start_soon(file_of, peer)
        await trio.sleep(1)
        with pytest.raises(Absent, match="too many"):
            await file_of(peers[-1])
        shelf.gate.set()
        await trio.sleep(1)
        assert await file_of(peers[-1]) == b"".join(published(ROOT, ORDERED))


async def test_who_does_not_read_is_left(autojump_clock: MockClock) -> None:
    """He holds one of few places, and no longer than it takes to see that he does not read."""
    async with crowd(Shelf(endless=True), 1) as (network,):
        stream = await network.open(GATEWAY.peer, protocols.EPOCH)
        await send_record(stream, FileWanted(gateway=GATEWAY.peer, epoch=EPOCH))
        await trio.sleep(SEND_S_MAX + 5)
        with pytest.raises(PeerUnreachable):
            await _drained(stream)


async def _drained(stream: Stream) -> None:
    while await stream.receive():
        pass


def saying(data: bytes) -> Handler:
    """A gateway that answers every question with these bytes."""

    async def handle(stream: Stream) -> None:
        await RecordReader(stream, protocols.FRAME_BYTES_MAX).next()
        await stream.send(data)
        await stream.close_send()

    return handle


async def checked(network: MemoryNetwork, question: str) -> None:
    """Asks, and checks all of the answer. Raises CxError for what does not hold."""
    if question == "root":
        await ask_root(network, GATEWAY.peer, GATEWAY.peer, EPOCH)
    elif question == "proof":
        inclusion = await ask_inclusion(network, GATEWAY.peer, ORDERED[3].countersign.receipt_hash)
        root, entry_found = check_inclusion(inclusion)
        if (root.gateway, root.epoch, entry_found) != (GATEWAY.peer, EPOCH, ORDERED[3]):
            raise EpochInvalid("it is about something else")
    else:
        for _ in read_epoch([await file_of(network)]).entries:
            pass


FILE = encode_frame(RootSent(envelope=ROOT)) + b"".join(
    encode_frame(PairSent(receipt=each.receipt_envelope, countersign=each.countersign_envelope)) for each in ORDERED
)
PROOF = encode_frame(InclusionSent(inclusion=encode(Inclusion(root=ROOT, place=place_of(ORDERED[3], TREE.proof(3))))))
ANSWERS = {"root": encode_frame(RootSent(envelope=ROOT)), "proof": PROOF, "file": FILE}


@pytest.mark.parametrize("question", ANSWERS)
async def test_the_answers_hold_as_they_are(question: str, autojump_clock: MockClock) -> None:
    """What the next test breaks is whole before."""
    async with asked(saying(ANSWERS[question])) as network:
        await checked(network, question)


@pytest.mark.parametrize("question", ANSWERS)
@given(st.data())
def test_no_byte_of_an_answer_can_be_another(question: str, data: st.DataObject) -> None:
    """Changed, left out or cut off: it is refused, with a reason, whatever the byte."""
    answer = bytearray(ANSWERS[question])
    at = data.draw(st.integers(0, len(answer) - 1))
    how = data.draw(st.sampled_from(["change", "drop", "cut"]))
    if how == "change":
        answer[at] ^= data.draw(st.integers(1, 255))
    elif how == "drop":
        del answer[at]
    else:
        del answer[at:]

    async def run() -> None:
        async with asked(saying(bytes(answer))) as network:
            with pytest.raises(CxError, match=r"\w"):
                await checked(network, question)

    trio.run(run, clock=MockClock(autojump_threshold=0))


@pytest.mark.parametrize(
    "answer",
    [
        encode_frame(RootSent(envelope=sealed_root(GATEWAY, EPOCH + 1))),
        encode_frame(RootSent(envelope=sealed_root(OTHER_GATEWAY, EPOCH))),
        encode_frame(RootWanted(gateway=GATEWAY.peer, epoch=EPOCH)),
        encode_frame(RootSent(envelope=bytes(protocols.ENVELOPE_BYTES_MAX + 1))),
        encode_uvarint(protocols.FRAME_BYTES_MAX) + bytes(10),
        b"",
    ],
)
async def test_a_liar_is_not_believed(answer: bytes, autojump_clock: MockClock) -> None:
    """Another epoch's root, another gateway's, no root at all."""
    async with asked(saying(answer)) as network:
        with pytest.raises(RemoteProtocolError):
            await ask_root(network, GATEWAY.peer, GATEWAY.peer, EPOCH)
