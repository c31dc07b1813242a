"""A node checks that what was countersigned counts; what its gateway did wrong is kept in a form that convicts."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest
import trio
from trio.testing import MockClock

from cxp2p import protocols
from cxp2p.epoch_files import Pair
from cxp2p.epoch_frames import AbsentCode
from cxp2p.epochs import Entry, Inclusion, close_epoch, place_of
from cxp2p.evidence import check_evidence
from cxp2p.identity import Kind
from cxp2p.merkle import SumTree
from cxp2p.net.discover import offer_sequence
from cxp2p.net.epochs import Absent, EpochServing, ask_root
from cxp2p.net.memory import Hub, MemoryNetwork, open_network
from cxp2p.receipts import HOURS, digest
from cxp2p.wire import encode
from cxp2p_node import counting
from cxp2p_node.counting import Counting, SeenRoots
from cxp2p_node.papers import ASKED, OMITTED, Answer, Counted, Paper, Papers, State, Sums
from cxp2p_node.papers.memory import MemoryPapers
from hours import EPOCH, GATEWAY, NODES, RULES_HASH, entry
from test_papers import Opener, opener

__all__ = ["opener"]  # a fixture

ENDED_MS = HOURS.begins_at_ms(EPOCH) + 1000
CLOSES_MS = HOURS.closes_at_ms(EPOCH)
NEVER_LATER_MS = HOURS.closes_at_ms(EPOCH + protocols.EPOCHS_LATE_MAX)


@dataclass
class Books:
    """A gateway's archive, which may lie: `left_out` are receipts that its root does not count."""

    entries: list[Entry]
    left_out: list[Entry] = field(default_factory=list)
    closed: bool = True
    rules_hash: bytes = RULES_HASH

    def made(self) -> tuple[bytes, tuple[Entry, ...], SumTree]:
        counted = [each for each in self.entries if each not in self.left_out]
        root, ordered, tree = close_epoch(GATEWAY.peer, EPOCH, counted, None, self.rules_hash)
        return GATEWAY.seal(Kind.EPOCH_ROOT, encode(root)), ordered, tree

    async def root(self, gateway: str, epoch: int | None) -> bytes:
        await trio.lowlevel.checkpoint()
        if epoch != EPOCH:
            raise Absent(AbsentCode.UNKNOWN, "nothing counted")
        return self.made()[0]

    async def pairs(self, gateway: str, epoch: int) -> AsyncGenerator[Pair, None]:
        await trio.lowlevel.checkpoint()
        for each in self.made()[1]:
            yield Pair(receipt=each.receipt_envelope, countersign=each.countersign_envelope)

    async def inclusion(self, receipt_hash: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        if not self.closed:
            raise Absent(AbsentCode.OPEN, "not closed yet", 5)
        envelope, ordered, tree = self.made()
        for index, each in enumerate(ordered):
            if each.countersign.receipt_hash == receipt_hash:
                return encode(Inclusion(root=envelope, place=place_of(each, tree.proof(index))))
        raise Absent(AbsentCode.UNKNOWN, "counts for no epoch")


ENTRIES = [entry(0, seq) for seq in range(5)]


async def keep(papers: Papers, each: Entry) -> Paper:
    """What a node has on paper of a job that was countersigned."""
    receipt = each.receipt
    paper = Paper(
        gateway=receipt.gateway,
        lane=receipt.lane,
        seq=receipt.seq,
        state=State.OPEN,
        service="chat",
        model="echo",
        taken_at_ms=ENDED_MS,
        replayable_until_ms=ENDED_MS,
        order_envelope=b"order",
    )
    await papers.take(paper)
    await papers.finish(paper, receipt, each.receipt_envelope, ENDED_MS)
    kept = replace(paper, receipt_envelope=each.receipt_envelope, receipt_hash=digest(each.receipt_envelope))
    answer = Answer(state=State.SETTLED, agreed=each.amount, note="", envelope=each.countersign_envelope)
    assert await papers.settle(kept, answer)
    return kept


@dataclass
class Here:
    """A node's place in a network of a gateway and one other node."""

    books: Books
    papers: MemoryPapers
    network: MemoryNetwork
    gateway: MemoryNetwork
    other: MemoryNetwork
    wall_ms: int = CLOSES_MS

    def counting(self) -> Counting:
        return Counting(self.network, self.papers, HOURS, lambda: self.wall_ms)

    async def sums(self, released_before: int = 0) -> dict[Counted, int]:
        return {place: each.count for place, each in (await self.papers.counted(released_before)).items()}


@asynccontextmanager
async def here(books: Books) -> AsyncIterator[Here]:
    hub, papers = Hub(), MemoryPapers()
    for each in ENTRIES:
        await keep(papers, each)
    async with (
        open_network(hub, GATEWAY.peer, offer_sequence) as gateway,
        open_network(hub, NODES[1].peer, offer_sequence) as other,
        open_network(hub, NODES[0].peer, offer_sequence) as network,
    ):
        gateway.serve(protocols.EPOCH, EpochServing(books).handle)
        network.serve(protocols.EPOCH, EpochServing(SeenRoots(papers)).handle)
        await network.connect(gateway.addresses[0])
        await network.connect(other.addresses[0])
        yield Here(books, papers, network, gateway, other)


async def test_what_counts_is_proven_and_remembered(autojump_clock: MockClock) -> None:
    """Not before its epoch is closed; its root can be had from this node from then on."""
    async with here(Books(ENTRIES)) as world:
        world.wall_ms = CLOSES_MS - 1
        await world.counting().round()
        assert await world.sums() == {Counted.WAITING: 5}
        world.wall_ms = CLOSES_MS
        world.books.closed = False
        await world.counting().round()
        assert await world.sums() == {Counted.WAITING: 5}
        world.books.closed = True
        await world.counting().round()

        assert await world.sums() == {Counted.HELD: 5}
        assert await world.sums(EPOCH + 1) == {Counted.RELEASED: 5}
        root = world.books.made()[0]
        assert await ask_root(world.other, world.network.peer, GATEWAY.peer, EPOCH) == root
        assert await ask_root(world.other, world.network.peer, GATEWAY.peer) == root
        assert await world.papers.wrongs() == []


async def test_what_is_left_out_is_asked_for_and_then_kept_as_evidence(autojump_clock: MockClock) -> None:
    """A day long it may count for a later root; then the two receipts between which it would stand show it."""
    async with here(Books(ENTRIES, left_out=[ENTRIES[2]])) as world:
        await world.counting().round()
        world.wall_ms = NEVER_LATER_MS - 1
        await world.counting().round()
        assert await world.sums() == {Counted.HELD: 4, Counted.WAITING: 1}
        assert await world.papers.wrongs() == []
        world.wall_ms = NEVER_LATER_MS
        await world.counting().round()

        assert await world.sums() == {Counted.HELD: 4, Counted.OMITTED: 1}
        (wrong,) = await world.papers.wrongs()
        accusation = check_evidence(wrong.data)
        assert (accusation.peer, str(accusation.wrong)) == (GATEWAY.peer, "omitted")
        assert ENTRIES[2].countersign.receipt_hash.hex() in wrong.says == accusation.says
        await world.counting().round()
        assert len(await world.papers.wrongs()) == 1


async def test_an_epoch_that_is_too_large_is_not_read(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway cannot fill a node's memory with what would show its own fault; it is left out all the same."""
    monkeypatch.setattr(counting, "EVIDENCE_BYTES_MAX", 3000)
    async with here(Books(ENTRIES, left_out=[ENTRIES[2]])) as world:
        await world.counting().round()
        world.wall_ms = NEVER_LATER_MS
        await world.counting().round()
        assert await world.sums() == {Counted.HELD: 4, Counted.OMITTED: 1}
        assert await world.papers.wrongs() == []


async def test_what_is_published_counts_though_it_is_not_proven(autojump_clock: MockClock) -> None:
    """A gateway that gives no proof of what its root counts left nothing out."""

    class Silent(Books):
        async def inclusion(self, receipt_hash: bytes) -> bytes:
            raise Absent(AbsentCode.UNKNOWN, "counts for no epoch")

    async with here(Silent(ENTRIES)) as world:
        await world.counting().round()
        world.wall_ms = NEVER_LATER_MS
        await world.counting().round()
        assert await world.sums() == {Counted.HELD: 5}
        assert await world.papers.wrongs() == []


async def test_what_was_countersigned_too_late_convicts_nobody(autojump_clock: MockClock) -> None:
    """A claim that is answered after a day counts for no root: the node knows that it did not ask in time."""
    async with here(Books(ENTRIES, left_out=ENTRIES)) as world:
        world.wall_ms = NEVER_LATER_MS
        await world.counting().round()
        assert await world.sums() == {Counted.OMITTED: 5}
        assert await world.papers.wrongs() == []


async def test_a_countersign_of_the_last_minutes_convicts_nobody(autojump_clock: MockClock) -> None:
    """The last root in which it could have stood is not closed yet, but it came a day too late for that one."""
    async with here(Books(ENTRIES, left_out=ENTRIES)) as world:
        world.wall_ms = HOURS.begins_at_ms(EPOCH + 1) + HOURS.late_ms
        await world.counting().round()
        assert await world.sums() == {Counted.WAITING: 5}
        world.wall_ms = NEVER_LATER_MS
        await world.counting().round()
        assert await world.sums() == {Counted.OMITTED: 5}
        assert await world.papers.wrongs() == []


@pytest.mark.parametrize("answer", ["busy", "another", "garbage", "nothing"])
async def test_whatever_a_gateway_says_instead_of_a_proof_it_was_asked(answer: str, autojump_clock: MockClock) -> None:
    """One that never says no, for a day, is held to its root like any other."""

    class Evasive(Books):
        async def inclusion(self, receipt_hash: bytes) -> bytes:
            if receipt_hash != ENTRIES[2].countersign.receipt_hash or not self.left_out:
                return await super().inclusion(receipt_hash)
            if answer == "busy":
                raise Absent(AbsentCode.BUSY, "come back", 5)
            if answer == "nothing":
                await trio.sleep_forever()
            return b"garbage" if answer == "garbage" else await super().inclusion(ENTRIES[0].countersign.receipt_hash)

    books = Evasive(ENTRIES, left_out=[ENTRIES[2]])
    async with here(books) as world:
        for _ in range(3):
            await world.counting().round()
        world.books = Books(ENTRIES, left_out=[ENTRIES[2]])
        world.gateway.serve(protocols.EPOCH, EpochServing(world.books).handle)
        world.wall_ms = NEVER_LATER_MS
        await world.counting().round()
        assert await world.sums() == {Counted.HELD: 4, Counted.OMITTED: 1}
        (wrong,) = await world.papers.wrongs()
        assert str(check_evidence(wrong.data).wrong) == "omitted"


@pytest.mark.parametrize("who", ["dht", "peer", "itself"])
async def test_two_roots_of_one_epoch_convict_their_gateway(who: str, autojump_clock: MockClock) -> None:
    """Whether the DHT has the other one, another node has, or the gateway itself tells it later."""
    async with here(Books(ENTRIES)) as world:
        other = Books(ENTRIES, rules_hash=b"x" * 32).made()[0]
        if who == "dht":
            await world.gateway.dht.put_root(EPOCH, other)
        if who == "peer":
            seen = MemoryPapers()
            await seen.keep_root(GATEWAY.peer, EPOCH, other)
            world.other.serve(protocols.EPOCH, EpochServing(SeenRoots(seen)).handle)
        if who == "itself":
            world.books.left_out = [ENTRIES[4]]
            await world.counting().round()
            world.books.left_out = []
        await world.counting().round()

        wrongs = await world.papers.wrongs()
        assert {str(check_evidence(each.data).wrong) for each in wrongs} == {"two-roots"}
        assert {check_evidence(each.data).peer for each in wrongs} == {GATEWAY.peer}


async def test_a_proof_of_something_else_is_none(autojump_clock: MockClock) -> None:
    """A gateway that answers with another receipt's proof proves nothing."""

    class Liar(Books):
        async def inclusion(self, receipt_hash: bytes) -> bytes:
            return await super().inclusion(ENTRIES[0].countersign.receipt_hash)

    async with here(Liar(ENTRIES)) as world:
        await world.counting().round()
        assert await world.sums() == {Counted.HELD: 1, Counted.WAITING: 4}


async def test_a_gateway_that_does_not_speak_of_epochs_is_asked_again(autojump_clock: MockClock) -> None:
    """The task goes on by itself, round after round."""
    async with here(Books(ENTRIES)) as world, trio.open_nursery() as nursery:
        handler = world.gateway._handlers.pop(protocols.EPOCH)
        nursery.start_soon(world.counting().run)
        await trio.sleep(100)
        assert await world.sums() == {Counted.WAITING: 5}
        world.gateway.serve(protocols.EPOCH, handler)
        await trio.sleep(1000)
        assert await world.sums() == {Counted.HELD: 5}
        nursery.cancel_scope.cancel()


async def test_so_many_roots_are_kept(opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """In memory and on disk: those that were seen last, however many gateways there are."""
    for module in ("memory_epochs", "sqlite_epochs"):
        monkeypatch.setattr(f"cxp2p_node.papers.{module}.ROOTS_MAX", 3)
    async with opener() as papers:
        for number in range(5):
            for _ in range(2):
                assert await papers.keep_root(f"gateway{number}", EPOCH, bytes([number])) == bytes([number])
        found = [await papers.root(f"gateway{number}", EPOCH) for number in range(5)]
    assert found == [None, None, b"\x02", b"\x03", b"\x04"]


async def test_what_is_known_of_epochs_outlives_the_node(opener: Opener) -> None:
    """In memory and on disk: where each receipt stands, the first root of an epoch, the evidence."""
    async with opener() as papers:
        kept = [await keep(papers, each) for each in ENTRIES]
        assert [each.seq for each in await papers.uncounted(GATEWAY.peer, ENDED_MS + 1, 3, 1)] == [1, 2, 3]
        assert await papers.uncounted(GATEWAY.peer, ENDED_MS, 9) == []
        assert await papers.uncounted("another", ENDED_MS + 1, 9) == []
        await papers.count(kept[0], EPOCH)
        await papers.count(kept[1], EPOCH + 1)
        await papers.count(kept[2], OMITTED)
        await papers.count(kept[3], ASKED)
        assert [each.seq for each in await papers.uncounted(GATEWAY.peer, ENDED_MS + 1, 9)] == [3, 4]
        assert await papers.root(GATEWAY.peer, EPOCH) is None
        assert await papers.keep_root(GATEWAY.peer, EPOCH, b"first") == b"first"
        assert await papers.keep_root(GATEWAY.peer, EPOCH, b"second") == b"first"
        await papers.keep_root(GATEWAY.peer, EPOCH + 1, b"next")
    async with opener() as papers:
        assert await papers.counted(EPOCH + 1) == {
            Counted.RELEASED: Sums(1, 100, 100),
            Counted.HELD: Sums(1, 100, 100),
            Counted.OMITTED: Sums(1, 100, 100),
            Counted.WAITING: Sums(2, 200, 200),
        }
        assert await papers.root(GATEWAY.peer, None) == b"next"
        assert await papers.root(GATEWAY.peer, EPOCH) == b"first"
