from __future__ import annotations

from cxp2p.protocols import OFFER_LIFE_MS_MAX, WATCHED_NODES_MAX
from simulations.clocks import Clock
from simulations.demands import End
from towns import FOUND_S, HERE, SmallTown


def test_more_nodes_than_can_be_watched_take_turns() -> None:
    """Never more than 64 at once, and in a quarter of an hour each of 80 had its turn."""
    town = SmallTown(nodes=80)
    watching, seen = town.gateway.watching, dict[str, None]()
    for _ in range(90):
        assert len(watching.watched) == WATCHED_NODES_MAX
        assert sum(town.gateway.peer in node.watchers for node in town.all) == WATCHED_NODES_MAX
        seen |= dict.fromkeys(watching.watched)
        town.world.run(town.world.now + 10.0)

    assert len(seen) == 80


def test_a_watched_node_that_goes_makes_room_for_another() -> None:
    """Its place is taken at once; it may come back when it is there again."""
    town = SmallTown(nodes=65)
    watching = town.gateway.watching
    (waiting,) = [node for node in town.all if node.peer not in watching.watched]
    gone = town.all[0] if town.all[0] is not waiting else town.all[1]

    gone.crash()
    town.world.run(town.world.now + 1.0)

    assert waiting.peer in watching.watched
    assert gone.peer not in watching.watched


def test_an_idle_node_stays_known_and_one_that_left_is_forgotten() -> None:
    """Offers are signed anew every five minutes; without that they end after fifteen."""
    town = SmallTown()
    stays, leaves = town.all
    leaves.crash(silently=True)
    town.world.run(town.world.now + OFFER_LIFE_MS_MAX / 1000 + 20)

    assert town.gateway.directory.get(stays.peer) is not None
    assert town.gateway.directory.get(leaves.peer) is None
    town.ask(4)
    assert [outcome.end for outcome in town.finish()] == [End.DONE] * 4
    assert stays.done == 4


def test_a_gateway_that_comes_later_finds_who_is_there() -> None:
    town = SmallTown()
    late = town.add_gateway(HERE, clock=Clock(town.world))
    assert len(late.directory) == 0

    town.world.run(town.world.now + FOUND_S)

    assert sorted(late.watching.watched) == sorted(node.peer for node in town.all)


def test_what_a_node_says_of_its_load_reaches_who_watches_it() -> None:
    """A moment after a job began the gateway's directory knows of it."""
    town = SmallTown(nodes=1)
    town.ask()
    town.world.run(town.world.now + 0.5)
    entry = town.gateway.directory.get(town.all[0].peer)

    assert entry is not None
    assert entry.offer.capabilities[0].load.running == 1
    town.finish()
    assert entry.offer.capabilities[0].load.running == 0


def test_a_node_that_is_not_heard_is_not_asked_and_comes_back_after_a_pause() -> None:
    """Three seconds after the wall came it is lost; after it went the node is used again."""
    town = SmallTown(nodes=1)
    node, gateway = town.all[0], town.gateway
    entry = gateway.directory.get(node.peer)
    assert entry is not None
    town.links.cut([node.peer], [gateway.peer])
    town.world.run(town.world.now + 2.9)
    assert entry.alive_until > town.world.now
    town.world.run(town.world.now + 0.2)
    assert entry.alive_until == 0.0

    town.links.heal([node.peer], [gateway.peer])
    town.world.run(town.world.now + 3.0)

    assert entry.alive_until > town.world.now
    assert entry.losses == 0


def test_a_short_wall_is_not_noticed() -> None:
    """Two missed beats are chance."""
    town = SmallTown(nodes=1)
    node, gateway = town.all[0], town.gateway
    town.links.split([node.peer], [gateway.peer])
    town.world.run(town.world.now + 2.0)
    town.links.join([node.peer], [gateway.peer])
    town.world.run(town.world.now + 5.0)
    entry = gateway.directory.get(node.peer)

    assert entry is not None
    assert entry.losses == 0
    assert gateway.watching.watched == {node.peer: True}
