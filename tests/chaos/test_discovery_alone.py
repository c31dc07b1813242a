"""A node and an asker, and nobody else. Virtual time."""

from __future__ import annotations

from random import Random

import trio
from trio.testing import MockClock

from cxp2p.client import join
from cxp2p.net.discover import offer_sequence
from cxp2p.net.memory import open_network
from worlds import ScriptedEngine, ask, settled, world


async def test_two_peers_alone_find_each_other_in_seconds(autojump_clock: MockClock) -> None:
    """The asker knows the node's address only: there is no third peer that could keep records."""
    async with world() as here:
        node = await here.node(ScriptedEngine())
        identity = here.identity()
        async with (
            open_network(here.hub, identity.peer, offer_sequence) as network,
            join(identity, network, Random(1), here.wall_ms) as net,
        ):
            await trio.sleep(0.1)  # the first exchange finds nobody to ask
            await network.connect(node.network.addresses[0])
            began = trio.current_time()
            await settled(net, 1)
            assert trio.current_time() - began < 3.0
            assert await ask(net) == "one two three "
