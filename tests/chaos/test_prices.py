"""What a node's price does to who gets the job. Virtual time."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

from cxp2p.errors import InsufficientCredit
from cxp2p.records import Order, Prices
from worlds import Ledgerbook, ScriptedEngine, ask, settled, world


class Purse(Ledgerbook):
    """Books of somebody who cannot hold more than `credit` µcredits."""

    credit = 10_000

    async def reserve(self, order: Order, envelope: bytes) -> None:
        if order.max_charge > self.credit:
            raise InsufficientCredit(f"{order.max_charge} is over {self.credit}")
        await super().reserve(order, envelope)


async def test_who_cannot_pay_the_best_node_gets_the_cheapest(autojump_clock: MockClock) -> None:
    """A node that asks a fortune cannot keep those away who have a little, however fast it says it is."""
    async with world() as here:
        dear = [await here.node(ScriptedEngine(prices=Prices(input=10**12, output=10**12))) for _ in range(4)]
        cheap, net, books = await here.node(ScriptedEngine()), await here.asker(), Purse()
        await settled(net, 5)
        for _ in range(10):
            assert await ask(net, books=books) == "one two three "
        assert {settlement.order.node for settlement in books.settled} == {cheap.network.peer}
        books.credit = 1
        with pytest.raises(InsufficientCredit):
            await ask(net, books=books)
        assert not books.held
        assert all(node.serving._till.lanes.exposure(net.peer, here.wall_ms()) == 0 for node in dear)
