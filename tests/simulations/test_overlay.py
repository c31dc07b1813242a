"""The tables of many peers, as arrays: against the exact model of hosts, and by properties."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from simulations import sessions
from simulations.kademlia import OURS, Late, Rules, key_of
from simulations.kademlia_hosts import Found, Hosts, State
from simulations.overlay import DEPTH, FAR, NOBODY, K, Overlay
from simulations.overlay_records import Records
from simulations.overlay_walks import Finds, Walks
from simulations.sessions import Floats, Ints, Sessions
from simulations.world import World

TRIP_S = 0.05
HOSTS = 150
WAITING = replace(OURS, round_s=float("inf"), late=Late.NOBODY)


def same_trip(one: Ints, other: Ints) -> Floats:
    """Everybody is as far from everybody."""
    return np.full(len(one), TRIP_S)


def made(peers: int, hours: float = 3.0, seed: int = 1, always: int = 1) -> Overlay:
    """An overlay at its beginning."""
    rng = np.random.Generator(np.random.PCG64(seed))
    there = Sessions(peers, hours * 3600.0, always, rng)
    keys = np.array([key_of(b"peer %d" % number) >> 192 for number in range(there.count)], np.uint64)
    overlay = Overlay(keys, there, rng)
    overlay.meet(0.0)
    overlay.join(there.online(0.0), 0.0)
    return overlay


def grown(overlay: Overlay, minutes: int, look_ups_s: float) -> None:
    """Lets minutes pass."""
    for minute in range(minutes):
        now = minute * 60.0
        moves = overlay.sessions.step(now, now + 60.0)
        overlay.meet(now)
        overlay.join(moves.came, now)
        if minute % 10 == 9:
            overlay.keep_up(now, 600.0, look_ups_s, 600.0)
    overlay.meet(minutes * 60.0 - 60.0)


def test_peers_stay_as_long_as_those_of_ipfs() -> None:
    """Of those that come half stay for two hours, four fifths for eight; as many come as go."""
    rng = np.random.Generator(np.random.PCG64(1))
    there = Sessions(2000, 48 * 3600.0, 0, rng)
    stays: list[float] = []
    for minute in range(24 * 60):
        moves = there.step(minute * 60.0, minute * 60.0 + 60.0)
        stays += (there.leaves_at[moves.came] - there.came_at[moves.came]).tolist()
    assert len(stays) > 5000
    assert np.percentile(stays, 50) == pytest.approx(sessions.MEDIAN_S, rel=0.05)
    assert np.percentile(stays, 80) == pytest.approx(sessions.FOUR_FIFTHS_S, rel=0.05)
    assert there.online(24 * 3600.0 - 60.0).size == pytest.approx(2000, rel=0.1)


def test_who_is_there_came_and_has_not_left() -> None:
    """The first peers stay for ever, nobody is there twice, and a peer that left is away."""
    there = Sessions(300, 7200.0, 3, np.random.Generator(np.random.PCG64(2)))
    for minute in range(120):
        before = there.leaves_at.copy()
        moves = there.step(minute * 60.0, minute * 60.0 + 60.0)
        assert (before[moves.left] <= minute * 60.0).all()
        assert (there.came_at[moves.came] >= minute * 60.0).all()
        assert not there.there(moves.left, minute * 60.0).any()
    assert there.there(np.arange(3), 7200.0).all()


@pytest.mark.parametrize("peers", [5, 60, 700])
def test_the_closest_in_a_table_are_found(peers: int) -> None:
    """As sorting the whole table would, also where a table is small."""
    overlay = made(peers)
    rng = np.random.Generator(np.random.PCG64(3))
    askers = rng.choice(overlay.sessions.online(0.0), 100)
    targets = rng.integers(0, 2**64, 100, dtype=np.uint64)
    known = overlay.table[askers].reshape(100, DEPTH * K)
    apart = overlay.keys[known] ^ targets[:, None]
    apart[known == NOBODY] = FAR
    order = np.argsort(apart, axis=1, kind="stable")[:, :20]
    assert (overlay.closest(askers, targets) == np.take_along_axis(known, order, 1)).all()


def test_tables_hold_whom_they_should() -> None:
    """Each peer in its bucket, once, never itself; few of them are gone, the fewer the more is looked up."""
    busy, idle = made(400), made(400)
    grown(busy, 120, 22 / 600)
    grown(idle, 120, 2 / 600)
    assert busy.table_faults(400) == idle.table_faults(400) == []
    assert 0.0 < busy.dead_part() < idle.dead_part() < 0.2


def test_a_planted_fault_in_a_table_is_seen() -> None:
    """A peer in its own table, or in a wrong bucket."""
    overlay = made(50)
    peer = int(overlay.sessions.online(0.0)[0])
    overlay.table[peer, 0, 0] = peer
    assert overlay.table_faults(50)


def hosts_and_arrays(rules: Rules, gone: Sequence[int]) -> tuple[list[Found], Finds]:
    """The same 50 look-ups in a network of hosts that was stable until `gone` fell silent, and in arrays."""
    world = World(1)
    hosts = Hosts(world, [b"peer %d" % number for number in range(HOSTS)], lambda one, other: TRIP_S, rules)
    for number in range(HOSTS):
        world.at(number * 1.0, hosts.start, number, 0 if number else None)
    world.run(OURS.refresh_s + 190.0)
    for number in gone:
        hosts.stop(number, State.SILENT)
    exact: list[Found] = []
    for number in range(0, HOSTS, 3):
        hosts.find(number, b"key %d" % number, exact.append)
        world.run(world.now + 10.0)
    overlay = made(HOSTS, always=HOSTS)
    overlay.keep_up(0.0, 600.0, 6 / 600, 600.0)
    overlay.sessions.leaves_at[list(gone)] = -1.0
    askers = np.arange(0, HOSTS, 3)
    targets = np.array([key_of(b"key %d" % number) >> 192 for number in askers], np.uint64)
    walks = Walks(overlay, same_trip, np.ones(len(overlay.keys), bool), rules)
    return exact, walks.find(askers, targets, np.zeros(len(askers)))


def test_look_ups_are_those_of_the_hosts() -> None:
    """In a stable network the arrays and the exact model ask as many, in as many rounds, and find the same."""
    exact, finds = hosts_and_arrays(OURS, ())
    assert finds.rounds.mean() == pytest.approx(np.mean([found.rounds for found in exact]), rel=0.15)
    assert finds.asked.mean() == pytest.approx(np.mean([found.asked for found in exact]), rel=0.15)
    assert not finds.failed.any()
    same = [len({*found.closest} & {*map(int, row)}) for found, row in zip(exact, finds.closest, strict=True)]
    assert np.mean(same) > 19.0


@pytest.mark.slow
@pytest.mark.parametrize("rules", [OURS, WAITING], ids=["ours", "kad-dht's"])
def test_a_look_up_among_the_dead_is_as_the_hosts_make_it(rules: Rules) -> None:
    """With a ninth of all silent a look-up takes about as long, and as many are late; if none is, as many fail."""
    exact, finds = hosts_and_arrays(rules, range(1, HOSTS, 9))
    assert finds.late.any() == (rules is WAITING)
    if not finds.late.any():
        assert finds.failed.mean() == pytest.approx(np.mean([found.failed for found in exact]), rel=0.25)
    assert finds.took_s.mean() == pytest.approx(np.mean([found.took_s for found in exact]), rel=0.25)
    assert finds.late.mean() == pytest.approx(np.mean([found.late for found in exact]), abs=0.2)


def test_records_end_with_their_holder_and_their_life() -> None:
    """A key holds twenty; an announcement counts for its life; what a holder held is lost when it leaves."""
    overlay = made(100, always=100)
    walks = Walks(overlay, same_trip, np.zeros(len(overlay.keys), bool), OURS)
    finds = walks.find(np.array([0]), np.array([key_of(b"chat/m") >> 192], np.uint64), np.zeros(1))
    heard, _ = walks.tell(finds, np.zeros(1))
    records = Records(overlay.sessions, 600.0, 20)
    for provider in range(25):
        records.announce("chat/m", provider, finds, heard, 0, float(provider))
    assert list(records.providers_of("chat/m", finds, heard, 0, 30.0)) == list(range(20))
    assert records.faults() == []
    records.announce("chat/m", 30, finds, heard, 0, 605.0)
    assert 30 in records.providers_of("chat/m", finds, heard, 0, 606.0)
    records.put(7, "offer", finds, heard, 0, 0.0)
    assert records.get(7, finds, heard, 0) == "offer"
    holders = finds.closest[0][heard[0]]
    overlay.sessions.came_at[holders] = 1.0
    assert records.get(7, finds, heard, 0) is None
    assert not records.providers_of("chat/m", finds, heard, 0, 606.0)
