"""Nodes that lie: real peers with real signatures, whose side of a job is written by the test."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import trio

from cxp2p import protocols, receipts
from cxp2p.errors import CxError
from cxp2p.identity import Identity, Kind, open_envelope
from cxp2p.net import Stream
from cxp2p.net.memory import MemoryNetwork
from cxp2p.net.pump import Conversation, hear_ask
from cxp2p.net.tasks import background
from cxp2p.records import (
    Accepted,
    Capability,
    Countersign,
    CountersignSent,
    Finish,
    Order,
    Piece,
    Receipt,
    ReceiptSent,
    Refusal,
    RefusalCode,
)
from cxp2p.session import Side
from cxp2p.units import output_commit
from cxp2p.wire import decode, encode
from cxp2p_node.advertise import Advertiser
from worlds import World, capability


@dataclass
class Told:
    """One job as the liar hears it."""

    talk: Conversation
    identity: Identity
    order: Order
    order_envelope: bytes
    said: list[int] = field(default_factory=list)

    async def accept(self) -> None:
        await self.talk.say(Accepted(queued=0))

    async def refuse(self, code: RefusalCode, retry_after_ms: int = 0) -> None:
        await self.talk.say(Refusal(code=code, reason="no", retry_after_ms=retry_after_ms))

    async def say(self, text: str, *token_ids: int) -> None:
        await self.talk.say(Piece(text=text, token_ids=token_ids))
        self.said.extend(token_ids)

    def receipt(self, **changes: Any) -> Receipt:
        """What an honest node would sign for what was said, but for `changes`."""
        order = self.order
        charge = receipts.charge_of(order.prices, 3, len(self.said))
        honest = Receipt(
            order_hash=receipts.digest(self.order_envelope),
            gateway=order.gateway,
            node=order.node,
            owner="",
            lane=order.lane,
            seq=order.seq,
            epoch=order.epoch,
            service=order.service,
            model_digest=order.model_digest,
            runtime="liar",
            in_units=3,
            cached_units=0,
            out_units=len(self.said),
            t_accept_ms=1,
            t_first_ms=2,
            t_end_ms=3,
            finish=Finish.STOP,
            request_commit=order.request_commit,
            output_commit=output_commit(self.said),
            seed=order.seed,
            resume_of=None,
            offset=None,
            charge=charge,
            cum_charge=order.cum_authorised - order.max_charge + charge,
            prev_receipt=order.prev_receipt,
        )
        return replace(honest, **changes)

    async def sign(self, receipt: Receipt, signer: Identity | None = None) -> Countersign | None:
        """Sends a receipt and hears what the asker says to it."""
        envelope = (signer or self.identity).seal(Kind.RECEIPT, encode(receipt))
        await self.talk.say(ReceiptSent(envelope=envelope))
        answer = await self.talk.hear()
        if not isinstance(answer, CountersignSent):
            return None
        return decode(Countersign, open_envelope(Kind.COUNTERSIGN, answer.envelope).body)


Behaviour: TypeAlias = Callable[[Told], Awaitable[None]]


@dataclass
class Liar:
    """A node of `world`; `asked` counts its jobs, `offered` is what its offer says, `behave` does the rest."""

    identity: Identity
    network: MemoryNetwork
    behave: Behaviour
    offered: Capability
    asked: int = 0
    advertiser: Advertiser | None = None

    async def handle(self, stream: Stream) -> None:
        self.asked += 1
        talk = Conversation(stream, Side.NODE)
        ask = await hear_ask(talk)
        order = decode(Order, open_envelope(Kind.ORDER, ask.order).body)
        await self.behave(Told(talk, self.identity, order, ask.order))

    def offer(self, offered: Capability) -> None:
        self.offered = offered
        assert self.advertiser is not None
        self.advertiser.change()


async def liar(here: World, behave: Behaviour, **changes: Any) -> Liar:
    """A lying node in the world, until the world ends; `changes` are of what it offers."""
    identity = here.identity()
    network = await here.peer(identity)
    made = Liar(identity, network, behave, capability(**changes))
    made.advertiser = Advertiser(identity, network, lambda: (made.offered,), lambda: False, here.wall_ms, agent="liar")
    network.serve(protocols.JOB, made.handle)
    nursery = await here.stack.enter_async_context(background())
    nursery.start_soon(made.advertiser.run)
    return made


async def hold_on(told: Told) -> None:
    """Hears whatever the asker still says, until it leaves."""
    try:
        while await told.talk.hear() is not None:
            pass
    except CxError:
        await trio.lowlevel.checkpoint()
