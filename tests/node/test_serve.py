"""What a node does with asks that are forged, replayed, garbled or cut. In memory, in virtual time."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from cxp2p import protocols
from cxp2p.errors import PeerUnreachable, RemoteProtocolError
from cxp2p.identity import Kind, open_envelope
from cxp2p.net.pump import Conversation, converse
from cxp2p.records import (
    Accepted,
    Ask,
    Countersign,
    CountersignSent,
    Piece,
    Prices,
    ReceiptSent,
    Refusal,
    RefusalCode,
)
from cxp2p.session import Side
from cxp2p.wire import decode, encode, encode_frame, encode_uvarint
from strangers import REQUEST, STRANGER, Gate, gate, lane
from worlds import ScriptedEngine, chat_job


async def test_a_good_ask_is_answered(autojump_clock: MockClock) -> None:
    """Accepted, pieces, receipt: in this order."""
    async with gate() as door:
        events = await door.hear_all(door.ask(door.order(REQUEST, lane()), REQUEST))

        assert isinstance(events[0], Accepted)
        assert isinstance(events[-1], ReceiptSent)
        assert "".join(each.text for each in events if isinstance(each, Piece)) == "one two three "


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"node": STRANGER.peer}, RefusalCode.ORDER_INVALID),
        ({"gateway": STRANGER.peer}, RefusalCode.ORDER_INVALID),
        ({"expires_at_ms": 1}, RefusalCode.ORDER_INVALID),
        ({"request_commit": b"x" * 32}, RefusalCode.ORDER_INVALID),
        ({"epoch": 1}, RefusalCode.ORDER_INVALID),
        ({"seq": 3}, RefusalCode.LANE_UNKNOWN),
        ({"model": "other"}, RefusalCode.MODEL_UNKNOWN),
        ({"model_digest": b"x" * 32}, RefusalCode.MODEL_UNKNOWN),
        ({"max_charge": 0}, RefusalCode.PRICE_TOO_LOW),
        ({"expires_at_ms": 10**15}, RefusalCode.ORDER_INVALID),
        ({"epoch": 10**6}, RefusalCode.ORDER_INVALID),
        ({"prev_receipt": b"r" * 32}, RefusalCode.LANE_UNKNOWN),
        ({"cum_authorised": 0}, RefusalCode.ORDER_INVALID),
        ({"prices": Prices(input=999_999, output=2_000_000)}, RefusalCode.PRICE_TOO_LOW),
        ({"prices": Prices(input=10**12, output=0)}, RefusalCode.PRICE_TOO_LOW),
        ({"max_in": 2**62, "max_out": 2**62}, RefusalCode.PRICE_TOO_LOW),
        ({"max_in": 10**9, "max_charge": 2**62, "cum_authorised": 2**62}, RefusalCode.EXPOSURE),
    ],
)
async def test_a_bad_order_never_reaches_the_engine(
    autojump_clock: MockClock, changes: dict[str, Any], code: RefusalCode
) -> None:
    """Forged, mis-addressed, expired and underpaid orders are refused before any work."""
    engine = ScriptedEngine()
    async with gate(engine) as door:
        (refusal,) = await door.hear_all(door.ask(door.order(REQUEST, lane(), **changes), REQUEST))

        assert isinstance(refusal, Refusal)
        assert refusal.code is code
        assert engine.started == 0


async def test_an_order_signed_by_another_is_refused(autojump_clock: MockClock) -> None:
    """A stolen order is worth nothing to another peer, and a forged one to anybody."""
    async with gate() as door:
        forged = door.ask(door.order(REQUEST, lane()), REQUEST, signer=STRANGER)
        (refusal,) = await door.hear_all(forged)

        assert isinstance(refusal, Refusal)
        assert refusal.code is RefusalCode.ORDER_INVALID


async def test_a_replayed_order_is_refused(autojump_clock: MockClock) -> None:
    """The same bytes a second time do no second work."""
    engine = ScriptedEngine()
    async with gate(engine) as door:
        ask = door.ask(door.order(REQUEST, lane()), REQUEST)
        await door.hear_all(ask)
        (refusal,) = await door.hear_all(ask)

        assert isinstance(refusal, Refusal)
        assert "replay" in refusal.reason
        assert engine.started == 1


@pytest.mark.parametrize("request_bytes", [b"", b"junk", encode(chat_job(model="other")), b"\xa0"])
async def test_a_request_that_is_no_job_is_refused(autojump_clock: MockClock, request_bytes: bytes) -> None:
    """An order over garbage, or over another model's job, is refused as such."""
    async with gate() as door:
        (refusal,) = await door.hear_all(door.ask(door.order(request_bytes, lane()), request_bytes))

        assert isinstance(refusal, Refusal)
        assert refusal.code is RefusalCode.REQUEST_INVALID


async def test_a_gateway_that_never_countersigns_is_shut_out(autojump_clock: MockClock) -> None:
    """Work that is not countersigned counts against the gateway until its limit refuses the next order."""
    async with gate(exposure_max=200) as door:
        asked = []
        for number in range(60):
            events = await door.hear_all(door.ask(door.order(REQUEST, lane(number)), REQUEST), countersign=False)
            asked.append(events[-1])
            if isinstance(events[-1], Refusal):
                break

        assert isinstance(asked[-1], Refusal)
        assert asked[-1].code is RefusalCode.EXPOSURE


async def test_a_false_countersign_settles_nothing(autojump_clock: MockClock) -> None:
    """A countersign of another signer leaves the receipt unpaid."""
    async with gate() as door:
        async with converse(door.network, door.node.network.peer) as talk:
            await talk.say(door.ask(door.order(REQUEST, lane()), REQUEST))
            while not isinstance(event := await talk.hear(), ReceiptSent):
                pass
            agreed = decode(Countersign, open_envelope(Kind.COUNTERSIGN, door.countersign(event).envelope).body)
            await talk.say(CountersignSent(envelope=STRANGER.seal(Kind.COUNTERSIGN, encode(agreed))))
        await door.node.serving.idle()

        assert door.exposure() > 0


async def still_serves(door: Gate) -> bool:
    number = int(trio.current_time() * 1000) + 1
    events = await door.hear_all(door.ask(door.order(REQUEST, lane(number)), REQUEST))
    return isinstance(events[-1], ReceiptSent)


def bad_streams() -> st.SearchStrategy[bytes]:
    whole = encode_frame(Ask(order=b"o" * 40, salt=b"s" * 16, request=b"r" * 40))
    return st.one_of(
        st.binary(max_size=200),
        st.integers(0, len(whole) - 1).map(lambda end: whole[:end]),
        st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)).map(
            lambda at: whole[: at[0]] + bytes([at[1]]) + whole[at[0] + 1 :]
        ),
        st.just(encode_uvarint(protocols.ASK_BYTES_MAX + 1) + bytes(100)),
        st.sampled_from([encode_frame(each) for each in (Accepted(queued=1), Piece(text="x", token_ids=()))]),
    )


@pytest.mark.slow
@pytest.mark.parametrize("protocol", [protocols.JOB, protocols.OFFERS, protocols.OFFER_WATCH])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=bad_streams(), end=st.booleans())
def test_garbage_on_any_protocol_harms_nobody(protocol: str, data: bytes, end: bool) -> None:
    """Whatever a stranger sends, the node lives, and a job on another stream does not notice."""

    async def main() -> None:
        async with gate(ScriptedEngine(pause_s=0.2)) as door:
            async with trio.open_nursery() as nursery:
                served: list[bool] = []

                async def other() -> None:
                    served.append(await still_serves(door))

                nursery.start_soon(other)
                await trio.sleep(0.1)
                stream = await door.network.open(door.node.network.peer, protocol)
                try:
                    await stream.send(data)
                    if end:
                        await stream.close_send()
                    with trio.move_on_after(60):
                        while await stream.receive():
                            pass
                except PeerUnreachable:
                    pass
                finally:
                    await stream.reset()
            assert served == [True]
            assert await still_serves(door)

    trio.run(main, clock=MockClock(autojump_threshold=0))


async def test_a_stream_that_asks_nothing_is_ended(autojump_clock: MockClock) -> None:
    """A stranger that opens streams and stays silent holds each for 30 s at most."""
    async with gate() as door:
        stream = await door.network.open(door.node.network.peer, protocols.JOB)
        started = trio.current_time()
        with pytest.raises(PeerUnreachable):
            await stream.receive()

        assert trio.current_time() - started < protocols.ASK_TIMEOUT_S + 1


async def test_a_second_ask_on_a_stream_is_a_protocol_error(autojump_clock: MockClock) -> None:
    """One stream carries one job: what follows the Ask must be a Cancel or a Countersign."""
    async with gate() as door:
        stream = await door.network.open(door.node.network.peer, protocols.JOB)
        ask = encode_frame(door.ask(door.order(REQUEST, lane()), REQUEST))
        await stream.send(ask + ask)
        talk = Conversation(stream, Side.ASKER)
        talk.session.send(door.ask(door.order(REQUEST, lane()), REQUEST))

        async def hear_out() -> None:
            while await talk.hear() is not None:
                pass

        with pytest.raises((PeerUnreachable, RemoteProtocolError)):
            await hear_out()


async def test_streams_of_one_stranger_are_limited(autojump_clock: MockClock) -> None:
    """Over 128 open streams the next is reset, and others still get in."""
    async with gate() as door:
        streams = [
            await door.network.open(door.node.network.peer, protocols.JOB)
            for _ in range(protocols.STREAMS_PER_PEER_MAX + 1)
        ]
        await trio.sleep(1)
        with pytest.raises(PeerUnreachable):
            await streams[-1].receive()
        for stream in streams:
            await stream.reset()
        await trio.sleep(1)

        assert await still_serves(door)
