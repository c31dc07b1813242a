"""A stranger in front of one node, who says byte by byte what the library's own asker never would."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from cxp2p import receipts
from cxp2p.identity import Identity, Kind, identity_from_seed, open_envelope
from cxp2p.net.memory import MemoryNetwork
from cxp2p.net.pump import converse
from cxp2p.records import Ask, Countersign, CountersignSent, Order, Receipt, ReceiptSent, Verdict
from cxp2p.session import Event
from cxp2p.wire import decode, encode
from cxp2p_node.app import Node
from worlds import ScriptedEngine, World, capability, chat_job, world

STRANGER = identity_from_seed(b"x" * 32)
REQUEST = encode(chat_job())


def lane(number: int = 0) -> receipts.Lane:
    """A lane that the node has not seen yet."""
    return receipts.Lane(lane=number.to_bytes(16, "big"))


@dataclass
class Gate:
    """A hand-made asker in front of one node."""

    here: World
    node: Node
    identity: Identity
    network: MemoryNetwork

    def order(self, request: bytes, lane: receipts.Lane, **changes: Any) -> Order:
        terms = receipts.Terms(
            gateway=self.identity.peer,
            node=self.node.network.peer,
            capability=capability(),
            request_commit=receipts.request_commit(b"s" * 16, request),
            max_in=100,
            max_out=50,
            seed=1,
        )
        return replace(receipts.make_order(terms, lane, b"i" * 16, self.here.wall_ms()), **changes)

    def ask(self, order: Order, request: bytes, signer: Identity | None = None) -> Ask:
        envelope = (signer or self.identity).seal(Kind.ORDER, encode(order))
        return Ask(order=envelope, salt=b"s" * 16, request=request)

    async def hear_all(self, ask: Ask, countersign: bool = True) -> list[Event]:
        events: list[Event] = []
        async with converse(self.network, self.node.network.peer) as talk:
            await talk.say(ask)
            while (event := await talk.hear()) is not None:
                events.append(event)
                if isinstance(event, ReceiptSent) and countersign:
                    await talk.say(self.countersign(event))
        return events

    def opened(self, sent: ReceiptSent) -> Receipt:
        """The receipt in its envelope, whoever signed it."""
        return decode(Receipt, open_envelope(Kind.RECEIPT, sent.envelope).body)

    def countersign(self, sent: ReceiptSent, **changes: Any) -> CountersignSent:
        """Agrees with a receipt; `changes` are what it says otherwise."""
        receipt = self.opened(sent)
        agreed = Countersign(
            receipt_hash=receipts.digest(sent.envelope),
            verdict=Verdict.ACCEPTED,
            reason="",
            in_units=receipt.in_units,
            out_units=receipt.out_units,
            charge=receipt.charge,
        )
        return CountersignSent(envelope=self.identity.seal(Kind.COUNTERSIGN, encode(replace(agreed, **changes))))

    def exposure(self) -> int:
        """What the node says that this stranger owes."""
        return self.node.serving._till.lanes.exposure(self.identity.peer, self.here.wall_ms())


@asynccontextmanager
async def gate(engine: ScriptedEngine | None = None, exposure_max: int = 10**9) -> AsyncIterator[Gate]:
    async with world() as here:
        node = await here.node(engine or ScriptedEngine(), exposure_max=exposure_max)
        identity = here.identity()
        network = await here.peer(identity)
        await network.connect(node.network.addresses[0])
        yield Gate(here, node, identity, network)
