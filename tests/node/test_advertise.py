"""What watching a node costs the node, whoever watches and however badly. Virtual time."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from cxp2p import protocols
from cxp2p.errors import PeerUnreachable, SettingsError
from cxp2p.net.pump import RecordReader
from cxp2p.records import OfferSent
from cxp2p.testing.tools import read_all
from cxp2p_node.admission import Desk, measure
from cxp2p_node.advertise import WATCHER_WAIT_S
from strangers import gate
from worlds import ScriptedEngine, settled, world


async def test_a_peer_has_one_watch_and_the_newest_counts(autojump_clock: MockClock) -> None:
    """A hundred watch streams of one stranger cost no more than one; a peer that comes back is served at once."""
    async with gate() as door:
        streams = [await door.network.open(door.node.network.peer, protocols.OFFER_WATCH) for _ in range(100)]
        await trio.sleep(2)
        for stream in streams[:-1]:
            with pytest.raises(PeerUnreachable):
                await read_all(stream)
        reader = RecordReader(streams[-1], protocols.OFFER_BYTES_MAX + 1024)
        for _ in range(5):
            assert isinstance(await reader.next(), OfferSent)
        assert len(door.node.advertiser._watchers) == 1
        await streams[-1].reset()
        await trio.sleep(3)

        assert not door.node.advertiser._watchers


async def test_a_watcher_that_does_not_read_is_left(autojump_clock: MockClock) -> None:
    """What it does not take is not kept for it: after some seconds its stream ends, and others are watched on."""
    async with gate() as door:
        net = await door.here.asker()
        await settled(net, 1)
        stream = await door.network.open(door.node.network.peer, protocols.OFFER_WATCH)
        changes = 256 * 1024 // len(door.node.advertiser.envelope) + 100
        for _ in range(changes):  # until its window is full
            door.node.advertiser.change()
            await trio.sleep(0.06)
        await trio.sleep(WATCHER_WAIT_S + 1)

        assert list(door.node.advertiser._watchers) == [net.peer]
        with pytest.raises(PeerUnreachable):
            await read_all(stream)


async def test_an_offer_that_nobody_could_take_is_told_at_the_start(autojump_clock: MockClock) -> None:
    """Too many long names make an offer that every peer refuses: better no start than a node that nobody finds."""
    engines = [ScriptedEngine(name=f"{number:03}" + "x" * 120) for number in range(60)]
    async with world() as here:
        with pytest.raises(SettingsError, match="models"):
            await here.node(*engines)


def test_a_job_that_took_no_time_can_be_told() -> None:
    """Whatever was measured, the load fits its record: an offer that cannot be made would end the node."""
    desk = Desk(slots=1, queue_max=1)
    measure(desk, job_ms=1.0 + 1e-12, first_piece_ms=1.0, out_units=2**31 - 1)
    measure(desk, job_ms=1e15, first_piece_ms=1e14, out_units=2)
    load = desk.load()

    assert load.units_per_s == 2**31 - 1
    assert load.first_piece_ms <= 2**31 - 1
