"""What a long life leaves behind: connections and jobs by the hundred, and then nothing of them."""

from __future__ import annotations

import gc
from dataclasses import dataclass

import psutil
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from cxp2p.client import NoBooks
from cxp2p.net.discover import offer_sequence
from cxp2p.net.libp2p import Libp2pNetwork, open_network
from cxp2p.testing import make_identity
from cxp2p.testing.tools import ECHO, assert_echoes, echo
from real_worlds import RealWorld, real_world
from worlds import ScriptedEngine, chat_job

pytestmark = pytest.mark.slow

CONNECTIONS = 300
JOBS = 1000

# Tolerances. Tasks, streams and descriptors are counted exactly: one too many is a leak. Objects: libp2p's peerstore
# keeps 15 for each peer that it met, of 1,000 peers at most, and trio two for each of up to 1,000 timeouts that are
# over; a stream left of each job is ten times that. Memory: the allocator keeps arenas that a burst filled, some
# MiB however long it goes on; a stream that is left of each job (10 KiB of objects) is over it.
OBJECTS_MAX = 2400
OBJECTS_PER_PEER_MAX = 20
MEMORY_BYTES_MAX = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a process holds at one moment, after the garbage was collected."""

    tasks: int
    streams: int
    descriptors: int
    objects: int
    memory_bytes: int

    def __str__(self) -> str:
        return (
            f"{self.tasks} tasks, {self.streams} streams, {self.descriptors} descriptors, {self.objects} objects, "
            f"{self.memory_bytes / 2**20:.1f} MiB"
        )


async def footprint(*networks: Libp2pNetwork) -> Footprint:
    """Counts, when everything that was going on has come to rest."""
    await wait_all_tasks_blocked(0.5)
    for _ in range(3):
        gc.collect()
    process = psutil.Process()
    connections = [each for network in networks for each in network._network.get_connections()]
    return Footprint(
        trio.lowlevel.current_statistics().tasks_living,
        sum(len(each.muxed_conn.streams) for each in connections),
        process.num_fds(),
        len(gc.get_objects()),
        process.memory_info().rss,
    )


def assert_same(before: Footprint, after: Footprint, what: str, *, new_peers: int = 0) -> None:
    """Nothing more than tolerated is left of `what`."""
    print(f"\n{what}\n  before: {before}\n  after:  {after}")  # noqa: T201  # the measurement is the result
    assert after.tasks <= before.tasks
    assert after.streams <= before.streams
    assert after.descriptors <= before.descriptors
    assert after.objects - before.objects <= OBJECTS_MAX + OBJECTS_PER_PEER_MAX * new_peers
    assert after.memory_bytes - before.memory_bytes <= MEMORY_BYTES_MAX


async def come_and_go(number: int, address: str) -> None:
    """A new peer connects, has a conversation, and leaves."""
    async with open_network(make_identity(number), offer_validator=offer_sequence, dht_server=False) as network:
        peer = await network.connect(address)
        await assert_echoes(network, peer)


async def connect_and_kill(asker: Libp2pNetwork, address: str) -> None:
    """The same peer connects, has a conversation, and drops the connection."""
    peer = await asker.connect(address)
    await assert_echoes(asker, peer)
    await asker.kill(peer)


@pytest.mark.timeout(300)
async def test_connections_leave_nothing_behind() -> None:
    """300 connections, half of them of new peers: as many are accepted, and no task, stream or descriptor stays."""
    async with (
        open_network(make_identity(1), offer_validator=offer_sequence) as node,
        open_network(make_identity(2), offer_validator=offer_sequence) as asker,
    ):
        node.serve(ECHO, echo)

        async def many(start: int, count: int) -> None:
            for index in range(0, count, 2):
                await come_and_go(1000 + start + index, node.addresses[0])
                await connect_and_kill(asker, node.addresses[0])

        await many(0, 40)
        before = await footprint(node, asker)
        await many(40, CONNECTIONS)
        after = await footprint(node, asker)
    assert_same(before, after, f"{CONNECTIONS} connections, one after another", new_peers=CONNECTIONS // 2)


async def ask_often(world: RealWorld, count: int) -> None:
    job = chat_job("one two three")

    async def take(_: object) -> None:
        await trio.lowlevel.checkpoint()

    for _ in range(count):
        await world.net.run(job, take, NoBooks())


@pytest.mark.timeout(300)
async def test_jobs_leave_nothing_behind() -> None:
    """1,000 jobs one after another over one asker: no task, stream, descriptor or memory stays."""
    async with real_world(ScriptedEngine(pause_s=0)) as world:
        asker = world.net.network
        assert isinstance(asker, Libp2pNetwork)
        await ask_often(world, 200)
        before = await footprint(world.node_network, asker)
        started = trio.current_time()
        await ask_often(world, JOBS)
        job_ms = (trio.current_time() - started) * 1000 / JOBS
        await world.node.serving.idle()
        after = await footprint(world.node_network, asker)
        for connection in asker._network.get_connections():
            assert connection.muxed_conn.stream_backlog_semaphore.value >= 255  # the watch has one
    assert_same(before, after, f"{JOBS} jobs, one after another, {job_ms:.1f} ms each")
