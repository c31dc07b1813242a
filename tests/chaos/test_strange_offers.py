"""Offers that anybody can make: too many, too large, of nodes that are not there, or that only want to be seen."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from cxp2p import protocols
from cxp2p.directory import Directory, Via
from cxp2p.identity import identity_from_seed
from cxp2p.net import Stream
from cxp2p.net.pump import RecordReader, send_record
from cxp2p.records import Offer, OfferSent, OffersKnown, OffersWanted
from cxp2p.testing.records import make_capability, make_offer, sealed_offer
from liars import Told, liar
from worlds import EPOCH_MS, ScriptedEngine, World, ask, settled, world

FAKES = [identity_from_seed(b"fake" + number.to_bytes(28, "big")) for number in range(400)]


def fake_offer(here: World, number: int) -> bytes:
    """As late as is believed, so that it expires last."""
    fake, wall_ms = FAKES[number], here.wall_ms() + 20_000
    return sealed_offer(fake, wall_ms, wall_ms=wall_ms, addresses=(here.hub.address(fake.peer),))


async def test_offers_of_nodes_that_are_not_there_keep_nobody_out(autojump_clock: MockClock) -> None:
    """Two hundred signed offers of nobody, told first and again and again: the one real node is found and used."""
    async with world() as here:
        teller, net = await here.peer(here.identity()), await here.asker()
        told = 0

        async def answer(stream: Stream) -> None:
            nonlocal told
            assert isinstance(await RecordReader(stream, protocols.FRAME_BYTES_MAX).next(), OffersWanted)
            envelopes = tuple(fake_offer(here, (told + step) % 200) for step in range(32))
            told += len(envelopes)
            await send_record(stream, OffersKnown(envelopes=envelopes))

        teller.serve(protocols.OFFERS, answer)
        await net.network.connect(teller.addresses[0])
        await trio.sleep(100)
        assert len(net.offers()) == 200
        await here.node(ScriptedEngine())
        started = trio.current_time()
        await settled(net, 1)

        assert trio.current_time() - started < 30
        assert await ask(net) == "one two three "
        assert len(net.discovery._watched) <= protocols.WATCHED_NODES_MAX


async def test_nodes_that_hang_keep_nobody_out(autojump_clock: MockClock) -> None:
    """The same with two hundred nodes that can be dialled and then say nothing: each costs a place for some seconds."""
    async with world() as here:
        net = await here.asker()
        for fake in FAKES[:200]:
            (await here.peer(fake)).hang()
        await trio.sleep(1)
        for number in range(200):
            net.discovery.learn(fake_offer(here, number), Via.EXCHANGE)
        await trio.sleep(1)
        await here.node(ScriptedEngine())
        with trio.fail_after(60):
            await settled(net, 1)

        assert await ask(net) == "one two three "


async def test_nodes_that_only_beat_take_turns(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """More live nodes than can be watched, none of any use: a useful one gets its turn, and keeps its place."""
    monkeypatch.setattr(protocols, "WATCHED_NODES_MAX", 8)

    async def never(told: Told) -> None:
        raise AssertionError("this model is not asked for")

    async with world() as here:
        for number in range(16):
            await liar(here, never, model=f"other-{number}")
        net = await here.asker()
        await settled(net, 8)
        await here.node(ScriptedEngine())
        with trio.fail_after(300):
            await net.find("echo", 300)
        for _ in range(30):
            assert await ask(net) == "one two three "
            await trio.sleep(20)

        assert len(net.discovery._watched) == 8


async def test_nodes_that_fail_make_way(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Live nodes of the right model that break every job lose their places to those that wait."""
    monkeypatch.setattr(protocols, "WATCHED_NODES_MAX", 4)

    async def break_off(told: Told) -> None:
        await told.accept()
        await told.talk.stream.reset()

    async with world() as here:
        for _ in range(8):
            await liar(here, break_off)
        net = await here.asker()
        await settled(net, 4)
        await here.node(ScriptedEngine())
        answers = []
        for _ in range(100):
            try:
                answers.append(await ask(net))
            except Exception as error:  # noqa: BLE001  # any failure: what counts is how the last ones go
                answers.append(repr(error))
            await trio.sleep(3)

        assert answers[-20:] == ["one two three "] * 20


async def test_a_node_that_talks_all_the_time_is_read_slowly(autojump_clock: MockClock) -> None:
    """A thousand offers a second from one node cost no more than twenty."""
    async with world() as here:
        identity = here.identity()
        network = await here.peer(identity)
        sent = 0

        async def chatter(stream: Stream) -> None:
            nonlocal sent
            while True:
                sent += 1
                wall_ms = here.wall_ms()
                envelope = sealed_offer(
                    identity, wall_ms + sent, wall_ms=wall_ms, addresses=network.addresses, agent="x" * 128
                )
                await send_record(stream, OfferSent(envelope=envelope))
                await trio.sleep(0.001)

        network.serve(protocols.OFFER_WATCH, chatter)
        net = await here.asker()
        await trio.sleep(1)
        wall_ms = here.wall_ms()
        net.discovery.learn(sealed_offer(identity, 1, wall_ms=wall_ms, addresses=network.addresses), Via.DHT)
        await settled(net, 1)
        learned = 0
        learn = net.discovery.directory.learn

        def count(*arguments: object, **named: object) -> bool:
            nonlocal learned
            learned += 1
            return learn(*arguments, **named)  # type: ignore[arg-type]

        net.discovery.directory.learn = count  # type: ignore[method-assign]
        await trio.sleep(10)

        assert 100 < learned <= 210


def offer_of(number: int, size: int, expires_ms: int = 60_000) -> tuple[Offer, bytes]:
    identity = FAKES[number]
    return make_offer(identity, 1, EPOCH_MS, expires_at_ms=EPOCH_MS + expires_ms), bytes(size)


def learn(directory: Directory, number: int, told_by: str = "", size: int = 300) -> bool:
    made, envelope = offer_of(number, size)
    return directory.learn(made, made.peer, envelope, Via.EXCHANGE, EPOCH_MS, 0, told_by)


def test_a_flood_of_offers_drives_out_only_its_own() -> None:
    """Who tells of more peers than the directory holds loses them again; others' stay, and those that beat always."""
    directory = Directory(peers_max=50)
    for number in range(10):
        learn(directory, number, "honest")
    learn(directory, 10, "liar")
    directory.beat(FAKES[10].peer, 1.0)
    for number in range(11, 400):
        learn(directory, number, "liar")

    assert len(directory) == 50
    assert all(directory.get(FAKES[number].peer) for number in range(11))


def test_the_directory_is_bounded_in_bytes() -> None:
    """Offers of full size fill it sooner."""
    directory = Directory(bytes_max=1_000_000)
    for number in range(200):
        learn(directory, number, size=protocols.OFFER_BYTES_MAX)

    assert len(directory) == 1_000_000 // protocols.OFFER_BYTES_MAX
    assert directory._bytes <= 1_000_000


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.sampled_from(["", "a", "b", "self"]), st.integers(1, 60), st.booleans()),
        max_size=60,
    )
)
def test_the_directorys_accounts_agree(steps: list[tuple[int, str, int, bool]]) -> None:
    """However offers come, change, go and expire, what is counted is what is there."""
    directory = Directory(peers_max=5, bytes_max=150)
    for sequence, (number, told_by, size, beats) in enumerate(steps):
        peer = FAKES[number].peer
        made = make_offer(FAKES[number], sequence, EPOCH_MS, expires_at_ms=EPOCH_MS + 1000 + number)
        told = peer if told_by == "self" else told_by
        directory.learn(made, peer, bytes(size), Via.EXCHANGE, EPOCH_MS, 0, told)
        # A node that rests is let go when the next offer needs its room, so this holds after each offer.
        unproven = [entry for entry in directory.entries() if not entry.alive_until]
        assert not unproven or (len(directory) <= 5 and directory._bytes <= 150)
        if beats:
            directory.beat(peer, 1.0)
        if sequence % 7 == 6:
            directory.rest(peer)
            directory.expire(EPOCH_MS + 1003)
        entries = directory.entries()
        assert directory._bytes == sum(len(entry.envelope) for entry in entries)
        assert sorted(peer for peers in directory._told.values() for peer in peers) == sorted(
            entry.offer.peer for entry in entries
        )


async def test_an_offer_that_lists_one_model_sixty_times_is_one_node(autojump_clock: MockClock) -> None:
    """It is asked once for each job, like any other."""

    async def fail(told: Told) -> None:
        await told.accept()

    async with world() as here:
        bad = await liar(here, fail)
        assert bad.advertiser is not None
        bad.advertiser._capabilities = lambda: (make_capability(),) * 60
        bad.advertiser.change()
        await here.node(ScriptedEngine())
        net = await here.asker()
        await settled(net, 2)

        assert await ask(net) == "one two three "
        assert bad.asked <= 1
