"""The model of the DHT, by properties: keys, tables, walks, and what is stored."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulations.kademlia import KEY_BITS, OURS, STOCK, Late, Rules, Table, Walk, key_of
from simulations.kademlia_hosts import Found, Hosts, State
from simulations.world import World

seeds = st.integers(0, 2**32)
sizes = st.integers(2, 60)


def drawn_keys(seed: int, count: int) -> list[int]:
    """Places of so many peers."""
    rng = Random(seed)
    return [rng.getrandbits(KEY_BITS) for _ in range(count)]


def always(peer: int) -> bool:
    """Everybody answers a ping."""
    return True


def never(peer: int) -> bool:
    """Nobody does."""
    return False


@given(seeds, st.integers(2, 200), st.integers(1, 20), st.booleans())
def test_buckets_share_the_space(seed: int, count: int, bucket_size: int, split_any: bool) -> None:
    """Each key has one bucket, none holds more than k, each peer is in its own, and the own peer in none."""
    keys = drawn_keys(seed, count)
    table = Table(keys, 0, replace(OURS, bucket_size=bucket_size, split_any=split_any))
    for peer in range(count):
        table.add(peer, float(peer), always)
    ends = [bucket.low + (1 << bucket.bits) for bucket in table.buckets]
    assert [bucket.low for bucket in table.buckets] == [0, *ends[:-1]]
    assert ends[-1] == 2**KEY_BITS
    for bucket in table.buckets:
        assert len(bucket.seen) <= bucket_size
        assert all(bucket.low <= keys[peer] < bucket.low + (1 << bucket.bits) for peer in bucket.seen)
    assert 0 not in table
    if not split_any:
        assert all(bucket.bits == KEY_BITS or (bucket.low ^ keys[0]) >> bucket.bits < 2 for bucket in table.buckets)


@given(seeds, st.integers(2, 200), st.integers(1, 30), st.booleans())
def test_the_closest_are_the_closest(seed: int, count: int, wanted: int, split_any: bool) -> None:
    """What a table names is what sorting all of its peers by distance would."""
    keys = drawn_keys(seed, count + 1)
    table = Table(keys, 0, replace(OURS, bucket_size=4, split_any=split_any))
    for peer in range(1, count):
        table.add(peer, 0.0, always)
    key = keys[count]
    assert table.closest(key, wanted) == sorted(table.peers(), key=lambda peer: keys[peer] ^ key)[:wanted]


@given(seeds, st.integers(30, 200))
def test_a_full_bucket_keeps_those_that_answer(seed: int, count: int) -> None:
    """Of a full bucket the oldest goes if it is silent, and nobody if it answers; whoever is seen again is youngest."""
    keys = drawn_keys(seed, count)
    kept, moved = (Table(keys, 0, replace(OURS, buckets_max=1)) for _ in range(2))
    for peer in range(1, count):
        kept.add(peer, float(peer), always)
        moved.add(peer, float(peer), never)
    assert list(kept.peers()) == list(range(1, 21))
    assert list(moved.peers()) == list(range(count - 20, count))
    moved.add(count - 20, float(count), never)
    assert list(moved.peers())[-1] == count - 20


@given(seeds, st.integers(2, 60), st.randoms(use_true_random=False))
def test_a_walk_ends_and_never_gets_farther(seed: int, count: int, chance: Random) -> None:
    """Whatever the answers are: nobody is asked twice, rounds are bounded, and the closest only get closer."""
    keys = drawn_keys(seed, count + 1)
    start = chance.sample(range(1, count), min(count - 1, 3))
    walk = Walk(keys, 0, keys[count], sorted(start, key=lambda peer: keys[peer] ^ keys[count]))
    asked: list[int] = []
    while asks := walk.ask(0.0):
        assert len(asks) <= OURS.alpha
        asked += asks
        before = keys[walk.closest[0]] ^ keys[count]
        walk.hear(chance.choices(range(count), k=chance.randrange(30)))
        assert keys[walk.closest[0]] ^ keys[count] <= before
    assert walk.rounds <= OURS.rounds_max
    assert len(asked) == len(dict.fromkeys(asked)) == walk.asked
    assert 0 not in asked
    assert walk.ask(0.0) == []


def test_a_walk_ends_when_its_time_is_over() -> None:
    """After half a minute no round begins."""
    keys = drawn_keys(1, 9)
    assert Walk(keys, 0, keys[8], [1, 2]).ask(30.5) == []


def hosts_of(seed: int, count: int, rules: Rules = OURS) -> tuple[World, Hosts]:
    """A stable network, joined through the first host, in which all is quiet."""
    world = World(seed)
    hosts = Hosts(world, [b"peer %d" % number for number in range(count)], lambda one, other: 0.05, rules)
    for number in range(count):
        world.at(number * 5.0, hosts.start, number, 0 if number else None)
    world.run(count * 5.0 + 30.0)
    return world, hosts


@settings(max_examples=15, deadline=None)
@given(seeds, sizes, st.sampled_from([OURS, STOCK, replace(OURS, bucket_size=4, alpha=3)]))
def test_what_is_stored_is_found(seed: int, count: int, rules: Rules) -> None:
    """In a stable network every provider and every value is found by everybody, and the newest value wins."""
    world, hosts = hosts_of(seed, count, rules)
    chance = Random(seed)
    got: list[Any] = []
    for step in range(5):
        store, reader = chance.sample(range(count), 2)
        name = b"model %d" % step
        hosts.provide(store, name, lambda told, found: got.append(told))
        hosts.put(store, name, step + 1, lambda told, found: got.append(told))
        world.run(world.now + 20.0)
        hosts.find_providers(reader, name, lambda named, found: got.append(named))
        hosts.get(reader, name, lambda held, found: got.append(held))
        world.run(world.now + 20.0)
        told, copies, named, held = got
        assert told > 0
        assert copies > 0
        assert store in named
        assert held == step + 1
        got.clear()


def test_a_full_key_takes_no_more() -> None:
    """Twenty announce themselves, the next is not taken; an announcement ends after its life, and makes room."""
    world, hosts = hosts_of(1, 30, replace(OURS, provider_life_s=500.0))
    told: list[int] = []
    for store in range(1, 26):
        hosts.provide(store, b"chat/m", lambda count, found: told.append(count))
        world.run(world.now + 5.0)
    assert all(told[:20])
    assert max(len(host.providers.get(b"chat/m", ())) for host in hosts.hosts.values()) == 20
    assert told[24] < told[0]
    world.run(world.now + 500.0)
    hosts.provide(25, b"chat/m", lambda count, found: told.append(count))
    world.run(world.now + 5.0)
    assert told[-1] == told[0]


@pytest.mark.parametrize(("late", "found"), [(Late.NOBODY, 0), (Late.TABLE, 20), (Late.MET, 20)])
def test_silent_peers_make_a_look_up_late(late: Late, found: int) -> None:
    """Two rounds with a peer that says nothing take ten seconds: stock, that look-up finds nobody."""
    world, hosts = hosts_of(2, 120, replace(STOCK, bucket_size=8, late=late))
    cut: list[Found] = []
    for number in range(1, 120, 3):
        hosts.stop(number, State.SILENT)
    for number in range(30):
        hosts.find(0, b"key %d" % number, lambda each: cut.append(each) if each.late else None)
        world.run(world.now + 30.0)
    assert cut
    assert all(len(each.closest) == found for each in cut)


def test_a_round_does_not_wait_for_silent_peers() -> None:
    """With our rounds of two seconds no look-up is cut off, and all know the twenty closest that were named."""
    world, hosts = hosts_of(2, 120, replace(OURS, bucket_size=8))
    ends: list[Found] = []
    for number in range(1, 120, 3):
        hosts.stop(number, State.SILENT)
    for number in range(30):
        hosts.find(0, b"key %d" % number, ends.append)
        world.run(world.now + 30.0)
    assert len(ends) == 30
    assert sum(each.late for each in ends) <= 1
    assert all(len(each.closest) == 20 for each in ends)
    assert any(each.failed for each in ends)


def test_a_host_that_is_gone_costs_its_connections() -> None:
    """Who ends has no connections, and is asked for nothing that it had."""
    world, hosts = hosts_of(3, 10)
    got: list[Any] = []
    hosts.put(3, b"offer", 1, lambda told, found: got.append(told))
    world.run(world.now + 10.0)
    for number in range(2, 10):
        hosts.stop(number)
    assert all(number < 2 or not host.connected for number, host in hosts.hosts.items())
    assert not any(other > 1 for host in hosts.hosts.values() for other in host.connected)
    hosts.get(0, b"offer", lambda held, found: got.append(held))
    world.run(world.now + 20.0)
    assert got == [9, 1]


def test_keys_are_those_of_the_library() -> None:
    """SHA-256, the first byte first."""
    assert key_of(b"") >> 248 == 0xE3
