"""What a stranger gains who orders less than he takes, leaves before he pays, or agrees to less than he got."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import pytest
import trio
from trio.testing import MockClock

from cxp2p import protocols
from cxp2p.errors import PeerUnreachable
from cxp2p.net import Stream
from cxp2p.net.pump import Conversation, converse
from cxp2p.records import (
    Accepted,
    Cancel,
    Failure,
    FailureCode,
    Finish,
    Piece,
    ReceiptSent,
    Refusal,
    RefusalCode,
    Service,
    Verdict,
)
from cxp2p.session import Side
from cxp2p.wire import encode
from strangers import REQUEST, Gate, gate, lane
from worlds import ScriptedEngine, chat_job

LONG = encode(chat_job(" ".join(["word"] * 40)))


def idle(door: Gate) -> bool:
    """Whether the node holds nothing for anybody: no place, no slot, no running charge."""
    desk = door.node.benches[Service.CHAT, "echo"].desk
    places = door.node.benches[Service.CHAT, "echo"].places
    account = door.node.serving._till.lanes.exposures._accounts.get(door.identity.peer)
    running = account.reserved if account else 0
    return (desk.running, desk.queued, places.borrowed_tokens, running) == (0, 0, 0, 0)


async def hear_out(talk: Conversation) -> None:
    while await talk.hear() is not None:
        pass


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"service": Service.SCRAPE}, RefusalCode.MODEL_UNKNOWN),
        ({"max_out": 0}, RefusalCode.ORDER_INVALID),
        ({"resume_of": b"r" * 16}, RefusalCode.ORDER_INVALID),
        ({"offset": 3}, RefusalCode.ORDER_INVALID),
    ],
)
async def test_an_order_for_what_is_not_sold_is_refused(
    autojump_clock: MockClock, changes: dict[str, Any], code: RefusalCode
) -> None:
    """The receipt repeats the order: what this node does not do must never stand in it."""
    engine = ScriptedEngine()
    async with gate(engine) as door:
        (refusal,) = await door.hear_all(door.ask(door.order(REQUEST, lane(), **changes), REQUEST))

        assert isinstance(refusal, Refusal)
        assert refusal.code is code
        assert engine.started == 0


async def test_a_prompt_over_the_order_is_not_worked(autojump_clock: MockClock) -> None:
    """An order for one unit of input does not buy forty: the job fails before anything is made."""
    engine = ScriptedEngine()
    async with gate(engine) as door:
        events = await door.hear_all(door.ask(door.order(LONG, lane(), max_in=1), LONG))
        await door.node.serving.idle()

        assert isinstance(events[-1], Failure)
        assert (events[-1].code, events[-1].limit, events[-1].actual) == (FailureCode.REQUEST_UNSUPPORTED, 1, 40)
        assert engine.made == 0
        assert idle(door)


async def test_who_leaves_before_the_receipt_still_owes(autojump_clock: MockClock) -> None:
    """All pieces taken, stream reset, no receipt heard: the work counts against the gateway for good."""
    async with gate(ScriptedEngine(), exposure_max=400) as door:
        for number in range(60):
            async with converse(door.network, door.node.network.peer) as talk:
                await talk.say(door.ask(door.order(LONG, lane(number), max_in=100, max_out=40), LONG))
                refused = await talk.hear()
                if isinstance(refused, Refusal):
                    break
                for _ in range(5):
                    assert isinstance(await talk.hear(), Piece)
            await door.node.serving.idle()

        assert isinstance(refused, Refusal)
        assert refused.code is RefusalCode.EXPOSURE
        assert door.exposure() > 0
        before = door.exposure()
        await trio.sleep(3600)
        assert door.exposure() == before


async def test_who_leaves_in_the_queue_owes_nothing(autojump_clock: MockClock) -> None:
    """A place in the queue is not work."""
    async with gate(ScriptedEngine(slots=1)) as door, converse(door.network, door.node.network.peer) as first:
        await first.say(door.ask(door.order(LONG, lane(1)), LONG))
        assert isinstance(await first.hear(), Accepted)
        before = door.exposure()
        async with converse(door.network, door.node.network.peer) as second:
            await second.say(door.ask(door.order(LONG, lane(2)), LONG))
            assert isinstance(await second.hear(), Accepted)
        await trio.sleep(0.1)

        assert door.exposure() == before


@pytest.mark.parametrize(
    "changes",
    [{"charge": 0}, {"in_units": 0}, {"out_units": 1}, {"verdict": Verdict.DISPUTED}, {"receipt_hash": b"x" * 32}],
)
async def test_agreeing_to_less_settles_nothing(autojump_clock: MockClock, changes: dict[str, Any]) -> None:
    """Only a countersign over the receipt's own numbers ends what the gateway owes."""
    async with gate() as door:
        async with converse(door.network, door.node.network.peer) as talk:
            await talk.say(door.ask(door.order(REQUEST, lane()), REQUEST))
            while not isinstance(event := await talk.hear(), ReceiptSent):
                pass
            await talk.say(door.countersign(event, **changes))
            await trio.sleep(1)
        await door.node.serving.idle()

        assert door.exposure() == 9


async def test_an_order_of_a_lane_that_was_pushed_out_is_no_new_one(autojump_clock: MockClock) -> None:
    """However many lanes came after it, an order that may still be valid buys no second work and no second receipt."""
    engine = ScriptedEngine(pause_s=0.0)
    async with gate(engine) as door:
        ask = door.ask(door.order(REQUEST, lane()), REQUEST)
        await door.hear_all(ask)
        for number in range(1, protocols.LANES_PER_GATEWAY_MAX + 2):
            await door.hear_all(door.ask(door.order(REQUEST, lane(number)), REQUEST))
        worked = engine.started
        (refusal,) = await door.hear_all(ask)

        assert isinstance(refusal, Refusal)
        assert engine.started == worked


@pytest.mark.parametrize("engine", [ScriptedEngine(fail_at=1), ScriptedEngine(hang_at=1)])
async def test_an_order_whose_job_broke_off_is_no_new_one(autojump_clock: MockClock, engine: ScriptedEngine) -> None:
    """A lane that ended without a receipt is closed for good: the same order is not worked again."""
    async with gate(engine) as door:
        ask = door.ask(door.order(REQUEST, lane()), REQUEST)
        async with converse(door.network, door.node.network.peer) as talk:
            await talk.say(ask)
            while not isinstance(await talk.hear(), Piece):
                pass
            await trio.sleep(1)
        await door.node.serving.idle()
        (refusal,) = await door.hear_all(ask)

        assert isinstance(refusal, Refusal)
        assert refusal.code in (RefusalCode.LANE_UNKNOWN, RefusalCode.ORDER_INVALID)
        assert engine.started == 1


Reading: TypeAlias = Callable[[Stream], Awaitable[None]]


async def not_at_all(stream: Stream) -> None:
    await trio.sleep_forever()


async def a_sip_a_minute(stream: Stream) -> None:
    """Always in time for the next write, never fast enough for the engine."""
    for _ in range(1000):
        await stream.receive()
        await trio.sleep(50)


@pytest.mark.parametrize("reading", [not_at_all, a_sip_a_minute])
async def test_who_does_not_read_holds_no_slot(autojump_clock: MockClock, reading: Reading) -> None:
    """Two minutes after an asker stopped reading, its engine slot and its place are free, and it owes what was made."""
    request = encode(chat_job(" ".join(["x" * 2000] * 1024)))
    async with gate(ScriptedEngine(pause_s=0.0, slots=1)) as door:
        stream = await door.network.open(door.node.network.peer, protocols.JOB)
        order = door.order(request, lane(), max_in=4096, max_out=1024, max_charge=10**6, cum_authorised=10**6)
        await stream.send(Conversation(stream, Side.ASKER).session.send(door.ask(order, request)))
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                with pytest.raises(PeerUnreachable):
                    await reading(stream)

            nursery.start_soon(read)
            await trio.sleep(120)
            slot_is_free = idle(door) or door.node.benches[Service.CHAT, "echo"].desk.running == 0
            await trio.sleep(200)
            all_is_free = idle(door)
            nursery.cancel_scope.cancel()

        assert slot_is_free
        assert all_is_free
        assert door.exposure() > 1024
        with trio.fail_after(1):
            await door.node.serving.idle()


async def test_a_cancel_after_the_end_and_a_second_cancel_harm_nothing(autojump_clock: MockClock) -> None:
    """A cancel that crosses the receipt is heard and changes nothing; a second one breaks the protocol."""
    async with gate() as door:
        async with converse(door.network, door.node.network.peer) as talk:
            await talk.say(door.ask(door.order(REQUEST, lane()), REQUEST))
            while not isinstance(event := await talk.hear(), ReceiptSent):
                pass
            await talk.say(Cancel())
            await talk.say(door.countersign(event))
        await door.node.serving.idle()
        assert door.exposure() == 0

        async with converse(door.network, door.node.network.peer) as talk:
            ask = door.ask(door.order(REQUEST, lane(1)), REQUEST)
            await talk.say(ask)
            frames = talk.session.send(Cancel())
            await talk.stream.send(frames * 5000)
            with pytest.raises(PeerUnreachable):
                await hear_out(talk)
        await door.node.serving.idle()
        assert idle(door)


async def test_a_receipt_of_a_cancel_is_over_what_was_sent(autojump_clock: MockClock) -> None:
    """Cancelled between two pieces: the units of the receipt are those that arrived."""
    async with gate(ScriptedEngine()) as door:
        async with converse(door.network, door.node.network.peer) as talk:
            await talk.say(door.ask(door.order(LONG, lane(), max_in=100, max_out=40), LONG))
            arrived = 0
            while not isinstance(event := await talk.hear(), ReceiptSent):
                arrived += len(event.token_ids) if isinstance(event, Piece) else 0
                if arrived == 3:
                    await talk.say(Cancel())
            receipt = door.opened(event)
            await talk.say(door.countersign(event))
        await door.node.serving.idle()

        assert receipt.finish is Finish.CANCELLED
        assert receipt.out_units == arrived
        assert door.exposure() == 0
