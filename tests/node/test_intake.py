"""How much strangers can make a node hold before it knows that they pay."""

from __future__ import annotations

from contextlib import suppress

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from cxp2p import protocols
from cxp2p.errors import PeerUnreachable
from cxp2p.wire import encode, encode_uvarint
from cxp2p_node.intake import Intake
from strangers import gate, lane
from worlds import ScriptedEngine, chat_job

peers = st.sampled_from(["a", "b", "c"])


@given(st.lists(st.tuples(peers, st.integers(0, 60), st.booleans()), max_size=60))
def test_what_is_held_is_bounded_and_comes_back(steps: list[tuple[str, int, bool]]) -> None:
    """Each peer stays under its limit, all together under twice the total, and all of it is given back."""
    intake = Intake(bytes_max=100, bytes_per_peer_max=50)
    shares = {peer: intake.open(peer) for peer in "abc"}
    for peer, size, ends in steps:
        with suppress(PeerUnreachable):
            shares[peer].take(size)
        if ends:
            shares[peer].close()
        assert intake.held <= 200
    for share in shares.values():
        share.close()
        share.close()

    assert intake.held == 0
    assert not intake._of_peer


def test_one_peer_cannot_keep_the_others_out() -> None:
    """When all is taken, who holds more than an even share gets no more, and a newcomer gets in."""
    intake = Intake(bytes_max=100, bytes_per_peer_max=100)
    hog, other = intake.open("hog"), intake.open("other")
    hog.take(100)
    other.take(10)

    with pytest.raises(PeerUnreachable):
        hog.take(1)
    other.take(10)


async def test_asks_that_never_end_fill_a_fixed_share(autojump_clock: MockClock) -> None:
    """A hundred streams of one stranger, each with most of a huge ask: only so much is held, for 30 s at most."""
    async with gate() as door:
        intake = door.node.serving._intake
        intake.bytes_per_peer_max = 1_001_000
        streams = [await door.network.open(door.node.network.peer, protocols.JOB) for _ in range(100)]
        part = encode_uvarint(protocols.ASK_BYTES_MAX) + bytes(50_000)
        refused = 0
        for stream in streams:
            await stream.send(part)
        await trio.sleep(1)
        assert 0 < intake.held <= 1_001_000
        for stream in streams:
            with trio.move_on_after(0.1):
                with pytest.raises(PeerUnreachable):
                    await stream.receive()
                refused += 1
        assert refused == 80
        await trio.sleep(protocols.ASK_TIMEOUT_S + 1)

        assert intake.held == 0


async def test_the_prompts_of_waiting_jobs_are_counted(autojump_clock: MockClock) -> None:
    """A taken job holds its prompt until its end."""
    request = encode(chat_job("x" * 100_000))
    async with gate(ScriptedEngine(hang_at=0)) as door:
        order = door.order(request, lane(), max_in=4096, max_charge=10**6, cum_authorised=10**6)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(door.hear_all, door.ask(order, request))
            await trio.sleep(1)
            held = door.node.serving._intake.held
            nursery.cancel_scope.cancel()
        await door.node.serving.idle()
        await trio.sleep(1)

        assert held > 100_000
        assert door.node.serving._intake.held == 0
