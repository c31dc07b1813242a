"""Epochs are closed once, in order, over what was countersigned for them, in any store and after any stop."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from cxp2p.epochs import Entry, Inclusion, check_follows, check_inclusion, close_epoch, open_root, place_of
from cxp2p.net import Dht
from cxp2p.net.discover import offer_sequence
from cxp2p.net.memory import Hub, open_network
from cxp2p.receipts import HOURS, Calendar
from cxp2p.testing import make_identity
from cxp2p_gateway.closing import Closing, entry_of
from cxp2p_gateway.store import Store
from cxp2p_gateway.store.claims import ClaimBooks
from cxp2p_gateway.store.epoch_rows import EpochPair
from cxp2p_gateway.store.epochs import EpochBooks, NotProven, Proven, Why
from cxp2p_gateway.store.memory import memory_store
from hours import EPOCH, GATEWAY, NODES, RULES_HASH, entry, receipt_of, seal
from test_store import KEY, USER, Clock, clock, generation, store

__all__ = ["clock", "store"]  # fixtures

BEGIN_MS = HOURS.begins_at_ms(EPOCH)
CLOSES_MS = HOURS.closes_at_ms(EPOCH)


async def opened(store: Store) -> EpochBooks:
    """The store of a gateway that counts, whose only account has credit; four receipts are under one kept node."""
    store.entry_of = entry_of(HOURS)
    await store.found(USER, KEY, 10**9)
    return EpochBooks(store, block=4)


async def settle(store: Store, *entries: Entry, at_ms: int = BEGIN_MS) -> None:
    """Each as the job of an order of its own."""
    for each in entries:
        order_id = each.countersign.receipt_hash.hex()
        await store.reserve(order_id, USER.id, each.amount, at_ms + 1)
        signed = {"receipt_envelope": each.receipt_envelope, "countersign_envelope": each.countersign_envelope}
        node = each.receipt.node
        await store.settle(generation(order_id, each.amount, node=node, created_at_ms=at_ms, **signed))


def closing(books: EpochBooks, clock: Clock, dht: Dht | None = None) -> Closing:
    return Closing(GATEWAY, books, dht or Unreached(), HOURS, RULES_HASH, clock)


class Unreached:
    """A DHT in which nobody is."""

    async def provide(self, key: str) -> int:
        return 0

    async def find_providers(self, key: str, limit: int) -> tuple[str, ...]:
        return ()

    async def put_offer(self, envelope: bytes) -> int:
        return 0

    async def get_offer(self, peer: str) -> bytes | None:
        return None

    async def put_root(self, epoch: int, envelope: bytes) -> int:
        await trio.lowlevel.checkpoint()
        return 0

    async def get_roots(self, gateway: str, epoch: int) -> tuple[bytes, ...]:
        return ()


async def test_an_hour_is_closed_when_its_grace_is_over(store: Store, clock: Clock) -> None:
    """Not before; then with the root that anybody makes of its receipts, and only once."""
    books = await opened(store)
    entries = [entry(number % 4, seq) for number, seq in enumerate((2, 0, 1, 0, 5, 3, 3, 4, 1))]
    await settle(store, *entries)
    clock.wall_ms = CLOSES_MS - 1
    assert await closing(books, clock).close_next() is None
    clock.wall_ms = CLOSES_MS
    row = await closing(books, clock).close_next()

    expected, ordered, _ = close_epoch(GATEWAY.peer, EPOCH, entries, None, RULES_HASH)
    assert row is not None
    assert row.envelope is not None
    assert open_root(row.envelope) == expected
    assert await closing(books, clock).close_next() is None
    assert await books.roots(EPOCH) == (row,) == await books.latest(None, 2**62, 10)
    pairs = await books.pairs(GATEWAY.peer, EPOCH)
    assert [each.receipt_envelope for each in pairs] == [each.receipt_envelope for each in ordered]
    assert [each.countersign_envelope for each in pairs] == [each.countersign_envelope for each in ordered]
    assert await store.audit() == ()


@pytest.mark.parametrize("count", [1, 4, 5, 17])
async def test_every_receipt_gets_its_proof(store: Store, clock: Clock, count: int) -> None:
    """From kept nodes of the tree, whatever its size; a receipt of nobody gets none, nor one before the root."""
    books = await opened(store)
    entries = [entry(number % 3, number) for number in range(count)]
    await settle(store, *entries)
    assert await books.proof(entries[0].countersign.receipt_hash) == NotProven(Why.OPEN, EPOCH)
    clock.wall_ms = CLOSES_MS
    await closing(books, clock).close_next()

    for each in entries:
        found = await books.proof(each.countersign.receipt_hash)
        assert isinstance(found, Proven)
        place = place_of(each, found.proof)
        root, proven = check_inclusion(Inclusion(root=found.root_envelope, place=place))
        assert (root.count, proven) == (count, each)
        assert found.pair == EpochPair(
            entry=found.pair.entry,
            account=USER.id,
            receipt_envelope=each.receipt_envelope,
            countersign_envelope=each.countersign_envelope,
        )
    assert await books.proof(b"x" * 32) == NotProven(Why.UNKNOWN)


async def test_what_comes_late_counts_later_or_never(store: Store, clock: Clock) -> None:
    """By the time of the countersign, and never for an epoch that is closed or being closed."""
    books = await opened(store)
    in_time, late, too_late, slow = (entry(0, seq) for seq in range(4))
    await settle(store, in_time)
    await settle(store, late, at_ms=CLOSES_MS)
    await settle(store, too_late, at_ms=HOURS.begins_at_ms(EPOCH + 25))
    clock.wall_ms = CLOSES_MS
    assert await books.begin(GATEWAY.peer, EPOCH + 1) == EPOCH
    await settle(store, slow, at_ms=CLOSES_MS - 1)  # its write waited for a database that was away
    clock.wall_ms = HOURS.closes_at_ms(EPOCH + 40)
    rows = [await closing(books, clock).close_next() for _ in range(3)]

    assert [(row.epoch, row.count) for row in rows if row] == [(EPOCH, 1), (EPOCH + 1, 2)]
    assert await books.proof(too_late.countersign.receipt_hash) == NotProven(Why.UNKNOWN)


async def test_what_was_claimed_counts_like_everything_else(store: Store, clock: Clock) -> None:
    """A receipt that its node claimed later counts for the epoch that is open then."""
    books = await opened(store)
    claimed = entry(0, 5)
    signed = {"receipt_envelope": claimed.receipt_envelope, "countersign_envelope": claimed.countersign_envelope}
    late = generation("o1", 100, account="network", node=claimed.receipt.node, created_at_ms=CLOSES_MS, **signed)
    await ClaimBooks(store).settle_late(late, 10**6)
    clock.wall_ms = HOURS.closes_at_ms(EPOCH + 1)
    row = await closing(books, clock).close_next()

    assert row is not None
    assert (row.epoch, row.count, row.sum) == (EPOCH + 1, 1, 100)


async def test_roots_are_a_chain_over_empty_hours(store: Store, clock: Clock) -> None:
    """An hour without receipts has no root, and the next root follows the one that there is."""
    books = await opened(store)
    await settle(store, entry(0, 0))
    later = [entry(0, 1, epoch=EPOCH + 3), entry(0, 2, epoch=EPOCH + 7)]
    for each in later:
        await settle(store, each, at_ms=HOURS.begins_at_ms(each.receipt.epoch))
    clock.wall_ms = HOURS.closes_at_ms(EPOCH + 7)
    rows = [row for _ in range(4) if (row := await closing(books, clock).close_next()) is not None]

    envelopes = [row.envelope or b"" for row in rows]
    roots = [open_root(each) for each in envelopes]
    assert [root.epoch for root in roots] == [EPOCH, EPOCH + 3, EPOCH + 7]
    assert roots[0].prev_root is None
    for number in (1, 2):
        check_follows(roots[number], roots[number - 1], envelopes[number - 1])


async def test_a_stop_in_the_middle_changes_nothing(store: Store, clock: Clock) -> None:
    """Stopped after any step, the next start makes the same root; one that is kept is never another."""
    books = await opened(store)
    entries = [entry(number % 2, number) for number in range(9)]
    await settle(store, *entries)
    clock.wall_ms = CLOSES_MS
    assert await books.begin(GATEWAY.peer, EPOCH + 1) == EPOCH
    found = await books.block(GATEWAY.peer, EPOCH, 0, ("", b"", -1))
    assert found is not None
    await books.put_block(found[0])
    assert await books.root(GATEWAY.peer, EPOCH) is None
    await settle(store, entry(2, 0), at_ms=CLOSES_MS - 1)

    row = await closing(books, clock).close_next()
    assert row is not None
    assert row.envelope is not None
    assert open_root(row.envelope) == close_epoch(GATEWAY.peer, EPOCH, entries, None, RULES_HASH)[0]
    assert await books.put_root(replace(row, envelope=b"another", count=1)) == row
    assert await books.root(GATEWAY.peer, EPOCH) == row


async def test_receipts_wait_for_their_root(store: Store, clock: Clock) -> None:
    """However many there are: they are dropped once there is one, and then the epoch is no longer whole."""
    books = await opened(store)
    entries = [entry(0, number) for number in range(6)]
    await settle(store, *entries)
    assert await store.forget_generations(10**12, 2, 100) == 0
    clock.wall_ms = CLOSES_MS
    await closing(books, clock).close_next()
    assert await store.forget_generations(10**12, 2, 100) == 4

    row = await books.root(GATEWAY.peer, EPOCH)
    assert row is not None
    assert (row.count, row.is_whole) == (6, False)
    assert await books.proof(entries[5].countersign.receipt_hash) == NotProven(Why.GONE, EPOCH)
    assert len(await books.pairs(GATEWAY.peer, EPOCH)) == 2


async def test_what_is_no_receipt_spoils_no_epoch(store: Store, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """What does not verify is paid as the books say, and stands under no root."""
    books = await opened(store)
    signed = seal(receipt_of(NODES[1]), NODES[1], charge=99)
    await store.reserve("o1", USER.id, 99, BEGIN_MS)
    kept = {"receipt_envelope": signed[0], "countersign_envelope": signed[1]}
    await store.settle(generation("o1", 99, created_at_ms=BEGIN_MS, **kept))
    clock.wall_ms = CLOSES_MS

    assert await closing(books, clock).close_next() is None
    assert "order o1 counts for no epoch: the countersign says accepted, but charge is 99" in caplog.text


async def test_another_gateways_epoch_is_its_own(store: Store, clock: Clock) -> None:
    """Several gateways share a database; each closes what it countersigned, under its own key."""
    books = await opened(store)
    await settle(store, entry(0, 0))
    clock.wall_ms = CLOSES_MS
    other = Closing(make_identity(9), books, Unreached(), HOURS, RULES_HASH, clock)

    assert await other.close_next() is None
    assert await closing(books, clock).close_next() is not None


async def test_epochs_that_jumped_are_told(
    clock: Clock, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Shorter epochs have larger numbers: after them hours count for none, which the log says."""
    store = memory_store(clock)
    books = await opened(store)
    await settle(store, entry(0, 0))
    clock.wall_ms = CLOSES_MS
    await closing(books, clock).close_next()
    longer = Closing(GATEWAY, books, Unreached(), Calendar(86_400_000), RULES_HASH, clock)
    with trio.move_on_after(1):
        await longer.run()
    assert f"the last root is of epoch {EPOCH}, which has not begun" in caplog.text


async def test_roots_are_told_until_somebody_has_them(clock: Clock, autojump_clock: MockClock) -> None:
    """In the DHT, also one that was signed before a restart; a DHT in which nobody is yet is tried again."""
    store = memory_store(clock)
    books = await opened(store)
    await settle(store, entry(0, 0))
    clock.wall_ms = CLOSES_MS
    hub = Hub()

    async with open_network(hub, GATEWAY.peer, offer_sequence) as network, trio.open_nursery() as nursery:
        nursery.start_soon(closing(books, clock, network.dht).run)
        await trio.sleep(1)
        assert hub.roots[GATEWAY.peer, EPOCH]
        hub.roots.clear()
        async with open_network(hub, make_identity(3).peer, offer_sequence) as reader:
            await trio.sleep(40)
            row = await books.root(GATEWAY.peer, EPOCH)
            assert row is not None
            assert await reader.dht.get_roots(GATEWAY.peer, EPOCH) == (row.envelope,)
            hub.roots.clear()
            nursery.start_soon(closing(books, clock, network.dht).run)
            await trio.sleep(1)
            assert await reader.dht.get_roots(GATEWAY.peer, EPOCH) == (row.envelope,)
        nursery.cancel_scope.cancel()
