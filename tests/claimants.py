"""A gateway whose books are in memory and outlive it, and a node that does as it is told and claims, for tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from copy import deepcopy
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from cxp2p import protocols
from cxp2p.client import join
from cxp2p.errors import CxError, PeerUnreachable
from cxp2p.identity import Identity, Kind, open_envelope
from cxp2p.ledger import NETWORK
from cxp2p.net import Network
from cxp2p.net.discover import offer_sequence
from cxp2p.net.memory import open_network
from cxp2p.net.pump import RecordReader, send_record
from cxp2p.net.tasks import background
from cxp2p.records import (
    ClaimRefused,
    ClaimSent,
    Countersign,
    CountersignSent,
    Piece,
)
from cxp2p.wire import decode, encode
from cxp2p_gateway.asking import Caller
from cxp2p_gateway.books import JobBooks, RatesSeen
from cxp2p_gateway.claims import GatewayPapers
from cxp2p_gateway.keys import Key
from cxp2p_gateway.metrics import Metrics
from cxp2p_gateway.store import node_account
from cxp2p_gateway.store.memory import MemoryTables, memory_store
from cxp2p_gateway.store.rows import KeptEvidence, User
from liars import Behaviour, Liar, Told, liar
from worlds import World, chat_job, settled, world

CREDIT = 10**9
LATE_MAX = 10**6
USER = User(id="user_1", created_at_ms=0)
KEY = Key(id="abcd2345", account="user_1", digest=b"", created_at_ms=0)


@dataclass
class Gate:
    """A gateway's asker and its books in memory, which outlive it: `start` it again after a `crash`."""

    here: World
    nursery: trio.Nursery
    identity: Identity
    tables: MemoryTables = field(default_factory=MemoryTables)
    metrics: Metrics = field(default_factory=Metrics)
    late_max: int = LATE_MAX
    lives: int = 0
    ending: trio.Event = field(default_factory=trio.Event)
    ended: trio.Event = field(default_factory=trio.Event)

    async def start(self) -> Gate:
        self.ending, self.ended = trio.Event(), trio.Event()
        self.store = memory_store(self.here.wall_ms, self.tables)
        await self.store.void_all()  # as the one on disk does
        await self.store.found(USER, KEY, CREDIT)
        self.net = await self.nursery.start(self._live)
        return self

    async def _live(self, task_status: Any) -> None:
        papers = GatewayPapers(self.store, self.here.wall_ms, self.metrics.claims, self.late_max)
        async with open_network(self.here.hub, self.identity.peer, offer_sequence) as network:
            await network.connect(self.here.bootstrap.addresses[0])
            self.lives += 1
            async with join(self.identity, network, Random(self.lives), self.here.wall_ms, papers=papers) as net:
                task_status.started(net)
                await self.ending.wait()
        self.ended.set()

    async def crash(self) -> None:
        """All that is in memory is gone: what its jobs still do to end well, nobody sees."""
        self.tables = deepcopy(self.tables)
        self.ending.set()
        await self.ended.wait()

    def books(self) -> JobBooks:
        caller = Caller(account="user_1", key=KEY.id)
        return JobBooks(self.store, caller, "r1", self.here.wall_ms, 600.0, self.metrics.money, RatesSeen())

    async def ask(self, max_tokens: int = 20, text: str = "one two three") -> str:
        """The text of an answer; what had come of one that broke off."""
        texts: list[str] = []

        async def take(piece: Piece) -> None:
            texts.append(piece.text)
            await trio.lowlevel.checkpoint()

        try:
            await self.net.run(chat_job(text, max_tokens=max_tokens), take, self.books())
        except CxError:
            texts.append("…")
        return "".join(texts)

    async def paid(self, node: str) -> tuple[int, int, int]:
        """What the user, the operator's account and the node have more or less than at the start."""
        user, operator = await self.store.balance("user_1"), await self.store.balance(NETWORK)
        assert await self.store.audit() == ()
        assert user.held == 0
        return user.balance - CREDIT, operator.balance + CREDIT, (await self.store.balance(node_account(node))).balance

    async def evidence(self) -> tuple[KeptEvidence, ...]:
        return await self.store.read(lambda tables: tables.evidence(100, 0))


@dataclass
class Claimant:
    """A node's papers of one job, and its way to claim."""

    node: Liar
    told: Told

    def receipt(self, **changes: Any) -> bytes:
        return self.node.identity.seal(Kind.RECEIPT, encode(self.told.receipt(**changes)))

    async def claim(
        self, receipt: bytes, *, order: bytes | None = None, voucher: bytes | None = None
    ) -> Countersign | ClaimRefused:
        answer = (await claim_all(self.node.network, self.told.order.gateway, self.sent(receipt, order, voucher)))[0]
        if isinstance(answer, ClaimRefused):
            return answer
        return decode(Countersign, open_envelope(Kind.COUNTERSIGN, answer.envelope).body)

    def sent(self, receipt: bytes, order: bytes | None = None, voucher: bytes | None = None) -> ClaimSent:
        return ClaimSent(order=order or self.told.order_envelope, receipt=receipt, voucher=voucher)


async def claim_all(network: Network, gateway: str, *claims: ClaimSent) -> list[CountersignSent | ClaimRefused]:
    """The answers to claims on one stream."""
    stream = await network.open(gateway, protocols.CLAIM)
    reader = RecordReader(stream, protocols.FRAME_BYTES_MAX)
    answers: list[CountersignSent | ClaimRefused] = []
    try:
        for claim in claims:
            await send_record(stream, claim)
            answer = await reader.next()
            if answer is None:
                raise PeerUnreachable("no answer")
            assert isinstance(answer, CountersignSent | ClaimRefused)
            answers.append(answer)
    finally:
        await stream.close()
    return answers


class Scene:
    """One gateway and one node that does as it is told."""

    here: World
    gate: Gate
    node: Liar

    def __init__(self, nursery: trio.Nursery) -> None:
        self.heard: list[Told] = []
        self._nursery = nursery

    async def open(self, behave: Behaviour, late_max: int = LATE_MAX) -> Scene:
        await self._nursery.start(self._play, behave, late_max)
        await settled(self.gate.net, 1)
        return self

    async def _play(self, behave: Behaviour, late_max: int, task_status: Any) -> None:
        async def act(told: Told) -> None:
            self.heard.append(told)
            await behave(told)

        async with world() as self.here:
            lives = await self.here.stack.enter_async_context(background())
            self.gate = await Gate(self.here, lives, self.here.identity(), late_max=late_max).start()
            self.node = await liar(self.here, act)
            task_status.started()
            await trio.sleep_forever()

    async def restart(self) -> None:
        """The gateway dies and comes back, and meets the node again."""
        await self.gate.crash()
        await self.gate.start()
        await settled(self.gate.net, 1)

    @property
    def claimant(self) -> Claimant:
        return Claimant(self.node, self.heard[-1])

    async def paid(self) -> tuple[int, int, int]:
        return await self.gate.paid(self.node.identity.peer)

    def count(self, name: str, **labels: str) -> float:
        return self.gate.metrics.registry.get_sample_value(name, labels) or 0.0


def says(*words: str) -> Behaviour:
    """Says words and goes away without a receipt."""

    async def behave(told: Told) -> None:
        await told.accept()
        for number, word in enumerate(words):
            await told.say(word, number)
        await trio.sleep(1)
        await told.talk.stream.reset()

    return behave


@pytest.fixture
async def scene(autojump_clock: MockClock) -> AsyncIterator[Scene]:
    async with background() as nursery:
        yield Scene(nursery)
