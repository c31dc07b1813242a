"""The model of the DHT and thirty real hosts of py-libp2p, with our fixes, on the same look-ups.

Both have the same peer ids and come in the same order. Compared are, for each kind of look-up, how many questions it
took on the average, and how many found what was stored; with all hosts there, and with a third of them gone.

What was stored has to be found by both, always. Questions may differ by 15 percent in all look-ups of a phase, and by
40 in the six of a kind: each takes 30 or 40, one round or two, and which of them depends on chance. py-libp2p draws the
keys of a refresh from the system, and whether the first question of a newcomer makes it known depends on which of two
streams is read first. Two runs of the real hosts differ as much.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import libp2p.kad_dht.common as common
import libp2p.kad_dht.kad_dht as kad_dht
import libp2p.kad_dht.peer_routing as peer_routing
import libp2p.kad_dht.provider_store as provider_store
import libp2p.kad_dht.routing_table as routing_table
import pytest
import trio
import trio.testing
from libp2p.peer.id import ID

from cxp2p import protocols
from cxp2p.net import libp2p_dht, libp2p_fixes
from cxp2p.net.discover import offer_sequence
from cxp2p.net.libp2p import Libp2pNetwork, open_network
from cxp2p.testing import make_identity, sealed_offer
from simulations.kademlia import FIND_KEY_BYTES_MAX, OURS, Rules
from simulations.kademlia_hosts import Found, Hosts, State
from simulations.world import World

HOSTS = 30
LOOK_UPS = 6  # of each kind, in each phase
TOLERANCE = 0.15  # of all questions of a phase
TOLERANCE_OF_KIND = 0.4
TRIP_S = 0.002
KINDS = ("provide", "find", "put", "get")


@dataclass
class Seen:
    """What look-ups of each kind took, and how many had what they wanted."""

    questions: Counter[str] = field(default_factory=Counter)
    right: Counter[str] = field(default_factory=Counter)


def plan(alive: Sequence[int]) -> list[tuple[str, int, int]]:
    """(kind, who stores, who looks for it), in order."""
    stores = alive[:: max(1, len(alive) // LOOK_UPS)][:LOOK_UPS]
    return [(kind, store, alive[(alive.index(store) + 7) % len(alive)]) for kind in KINDS for store in stores]


# The model.


def modelled(rules: Rules) -> tuple[Seen, Seen]:
    """The look-ups of both phases in the model."""
    world = World(3)
    ids = [ID.from_base58(make_identity(number + 1).peer).to_bytes() for number in range(HOSTS)]
    hosts = Hosts(world, ids, lambda one, other: TRIP_S, rules)
    for number in range(HOSTS):
        joined: list[Found] = []
        hosts.start(number, 0 if number else None, joined.append)
        while number and not joined:
            world.run(world.now + TRIP_S)
    before = model_phase(world, hosts, 1, everybody())
    for number in gone():
        hosts.stop(number, State.REFUSING)
    return before, model_phase(world, hosts, 2, left())


def model_phase(world: World, hosts: Hosts, phase: int, alive: Sequence[int]) -> Seen:
    """One phase."""
    seen = Seen()
    for kind, store, reader in plan(alive):
        answers: list[Any] = []

        def done(answer: object, found: Found, answers: list[Any] = answers) -> None:
            answers.append(answer)

        key, name = f"m{phase}/{store}".encode(), b"/cxp2p/" + make_identity(store + 1).peer.encode()
        began = hosts.questions
        match kind:
            case "provide":
                hosts.provide(store, key, done)
            case "find":
                hosts.find_providers(reader, key, done)
            case "put":
                hosts.put(store, name, phase, done)
            case _:
                hosts.get(reader, name, done)
        while not answers:
            world.run(world.now + TRIP_S)
        seen.questions[kind] += hosts.questions - began
        (got,) = answers
        seen.right[kind] += got == phase if kind == "get" else store in got if kind == "find" else got > 0
    return seen


# The real hosts.


class Real:
    """Hosts of py-libp2p, and how many questions each asked."""

    def __init__(self) -> None:
        self.networks: list[Libp2pNetwork] = []
        self.ends: list[trio.Event] = []
        self.questions: Counter[int] = Counter()

    async def hold(self, number: int, task_status: Any) -> None:
        """One host, until its end."""
        self.ends.append(trio.Event())
        bootstrap = self.networks[0].addresses if self.networks else ()
        identity = make_identity(number + 1)
        async with open_network(identity, bootstrap=bootstrap, offer_validator=offer_sequence) as network:
            network._host.new_stream = self._counted(number, network._host.new_stream)
            self.networks.append(network)
            if bootstrap:
                await network.joined.wait()
            task_status.started()
            await self.ends[number].wait()

    def _counted(self, number: int, inner: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def new_stream(peer: Any, spoken: Any) -> Any:
            self.questions[number] += protocols.KAD in map(str, spoken)
            return await inner(peer, spoken)

        return new_stream

    async def phase(self, phase: int, alive: Sequence[int]) -> Seen:
        """One phase."""
        seen = Seen()
        for kind, store, reader in plan(alive):
            asker = store if kind in ("provide", "put") else reader
            began = self.questions[asker]
            right = await self._look_up(kind, phase, store, self.networks[reader])
            seen.questions[kind] += self.questions[asker] - began
            seen.right[kind] += right
        return seen

    async def _look_up(self, kind: str, phase: int, store: int, reader: Libp2pNetwork) -> bool:
        node, identity, key = self.networks[store], make_identity(store + 1), f"m{phase}/{store}"
        match kind:
            case "provide":
                return await node.dht.provide(key) > 0
            case "find":
                return node.peer in await reader.dht.find_providers(key, 20)
            case "put":
                return await node.dht.put_offer(sealed_offer(identity, phase)) > 0
            case _:
                return await reader.dht.get_offer(node.peer) == sealed_offer(identity, phase)


@asynccontextmanager
async def real_hosts() -> AsyncIterator[Real]:
    """Thirty of them, each a peer of the DHT that joined through the first."""
    real = Real()
    async with trio.open_nursery() as nursery:
        for number in range(HOSTS):
            await nursery.start(real.hold, number)
        yield real
        nursery.cancel_scope.cancel()


def everybody() -> list[int]:
    """All hosts."""
    return list(range(HOSTS))


def gone() -> list[int]:
    """Those that end between the phases: a third, but never the first."""
    return [number for number in range(1, HOSTS) if number % 3 == 0]


def left() -> list[int]:
    """Those that do not."""
    return [number for number in range(HOSTS) if number not in gone()]


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("small", [False, True], ids=["as it is", "tables of four in a bucket"])
async def test_model_and_real_hosts_agree(small: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On what is found, and with how many questions; small buckets make thirty hosts a network of many hops."""
    rules = replace(OURS, bucket_size=4, alpha=3) if small else OURS
    for module in (routing_table, kad_dht, peer_routing):
        monkeypatch.setattr(module, "BUCKET_SIZE", rules.bucket_size)
    for walks in (peer_routing, libp2p_dht):
        monkeypatch.setattr(walks, "ALPHA", rules.alpha)
    async with real_hosts() as real:
        before = await real.phase(1, everybody())
        for number in gone():
            real.ends[number].set()
        await trio.testing.wait_all_tasks_blocked(0.3)
        after = await real.phase(2, left())
    for measured, said in zip((before, after), modelled(rules), strict=True):
        for kind in KINDS:
            assert measured.right[kind] == said.right[kind] == LOOK_UPS, (kind, measured, said)
            expected = pytest.approx(measured.questions[kind], rel=TOLERANCE_OF_KIND)
            assert said.questions[kind] == expected, (kind, measured, said)
        assert said.questions.total() == pytest.approx(measured.questions.total(), rel=TOLERANCE), (measured, said)


def test_the_model_has_the_numbers_of_the_library() -> None:
    """Whoever changes a number there, or a new version of py-libp2p, has to change the model."""
    assert OURS.bucket_size == common.BUCKET_SIZE == protocols.PROVIDERS_PER_KEY_MAX == OURS.providers_per_key
    assert OURS.buckets_max == common.MAXIMUM_BUCKETS
    assert OURS.alpha == common.ALPHA
    assert OURS.count == libp2p_dht.CLOSEST
    assert OURS.rounds_max == peer_routing.MAX_PEER_LOOKUP_ROUNDS
    assert protocols.STREAM_OPEN_TIMEOUT_S == OURS.stream_s < common.QUERY_TIMEOUT
    assert OURS.suspect_s == libp2p_fixes.SUSPECT_S
    assert (OURS.look_up_s, OURS.ask_s) == (libp2p_dht.LOOK_UP_S, libp2p_dht.ASK_S)
    assert OURS.refresh_s == kad_dht.ROUTING_TABLE_REFRESH_INTERVAL
    assert OURS.stale_s == common.STALE_PEER_THRESHOLD
    assert OURS.provider_life_s == provider_store.PROVIDER_RECORD_EXPIRATION_INTERVAL
    assert OURS.value_life_s == common.DEFAULT_TTL
    assert len(b"/cxp2p/" + make_identity(1).peer.encode()) > FIND_KEY_BYTES_MAX
