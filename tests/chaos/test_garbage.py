"""Nodes that answer with anything at all, on every protocol: the asker lives, and its other jobs do not notice."""

from __future__ import annotations

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from cxp2p import protocols
from cxp2p.directory import Via
from cxp2p.errors import CxError
from cxp2p.identity import Kind
from cxp2p.net import Stream
from cxp2p.records import (
    Accepted,
    Cancel,
    CountersignSent,
    Failure,
    FailureCode,
    OfferSent,
    OffersKnown,
    OffersWanted,
    Piece,
    ReceiptSent,
    Refusal,
    RefusalCode,
)
from cxp2p.testing.records import make_identity, sealed_offer
from cxp2p.wire import encode_frame, encode_uvarint
from worlds import EPOCH_MS, ScriptedEngine, ask, settled, world

LIAR = make_identity(77)
ENVELOPES = (
    sealed_offer(LIAR, 5, wall_ms=EPOCH_MS),
    sealed_offer(make_identity(78), 5, wall_ms=EPOCH_MS),
    sealed_offer(LIAR, 6, wall_ms=EPOCH_MS - 10**7),
    LIAR.seal(Kind.OFFER, b"\xa0"),
    LIAR.seal(Kind.RECEIPT, b"junk"),
    b"",
    b"\x0a\x00" * 20,
)
envelopes = st.sampled_from(ENVELOPES) | st.binary(max_size=80)
frames = st.one_of(
    st.builds(OfferSent, envelope=envelopes),
    st.builds(OffersKnown, envelopes=st.lists(envelopes, max_size=4).map(tuple)),
    st.builds(ReceiptSent, envelope=envelopes),
    st.builds(CountersignSent, envelope=envelopes),
    st.builds(Piece, text=st.text(max_size=20), token_ids=st.lists(st.integers(0, 9), max_size=3).map(tuple)),
    st.sampled_from(
        (
            Accepted(queued=3),
            Refusal(code=RefusalCode.BUSY, reason="", retry_after_ms=1),
            Failure(code=FailureCode.INTERNAL, reason="\n", limit=0, actual=0),
            Cancel(),
            OffersWanted(service=None, model=None, limit=1),
        )
    ),
).map(encode_frame)
parts = st.one_of(
    frames,
    frames.flatmap(lambda frame: st.integers(0, len(frame)).map(lambda end: frame[:end])),
    st.binary(max_size=100),
    st.just(encode_uvarint(protocols.FRAME_BYTES_MAX + 1)),
)
answers = st.lists(parts, max_size=5).map(b"".join)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(job=answers, watch=answers, exchange=answers, ending=st.sampled_from(["close", "reset", "stay"]))
def test_whatever_a_node_says_the_others_are_asked(job: bytes, watch: bytes, exchange: bytes, ending: str) -> None:
    """Garbage, frames of the wrong kind, cut frames, strangers' envelopes: each is that node's own misfortune."""

    async def main() -> None:
        async with world() as here:
            network = await here.peer(LIAR)
            beat = encode_frame(
                OfferSent(envelope=sealed_offer(LIAR, 1, wall_ms=EPOCH_MS, addresses=network.addresses))
            )

            def saying(data: bytes) -> object:
                async def say(stream: Stream) -> None:
                    await stream.send(data)
                    if ending == "stay":
                        await trio.sleep(40)
                    if ending == "reset":
                        await stream.reset()

                return say

            network.serve(protocols.JOB, saying(job))  # type: ignore[arg-type]
            network.serve(protocols.OFFER_WATCH, saying(beat + watch))  # type: ignore[arg-type]
            network.serve(protocols.OFFERS, saying(exchange))  # type: ignore[arg-type]
            await here.node(ScriptedEngine(pause_s=0.01))
            net = await here.asker()
            await net.network.connect(network.addresses[0])
            await trio.sleep(1)
            net.discovery.learn(sealed_offer(LIAR, 1, wall_ms=EPOCH_MS, addresses=network.addresses), Via.DHT)
            await settled(net, 1)
            answered = 0
            for _ in range(6):
                try:
                    answered += await ask(net) == "one two three "
                except CxError:  # a piece of garbage had been given out already: that job is told, and fails
                    await trio.sleep(1)
                await trio.sleep(5)
            assert answered >= 3

    trio.run(main, clock=MockClock(autojump_threshold=0))
