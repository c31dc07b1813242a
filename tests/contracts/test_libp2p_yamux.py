"""Each fault of libp2p's streams, shown in the stock code, and its absence with the fix."""

from __future__ import annotations

import struct
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
import trio
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.io.trio import TrioTCPStream
from libp2p.network.stream.exceptions import StreamError
from libp2p.stream_muxer.exceptions import MuxedStreamEOF, MuxedStreamError, MuxedStreamReset
from libp2p.stream_muxer.yamux import yamux
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from cxp2p.net import libp2p_ends as ends
from cxp2p.net import libp2p_windows as windows
from cxp2p.net import libp2p_yamux as fixes
from hosts import EXCHANGE, applied, cable, connect, echo, host, open_pair, port_of, yamux_pair

Fix = Callable[[], None]


def frame(kind: int, flags: int, stream_id: int, length: int, data: bytes = b"") -> bytes:
    """A Yamux frame as a stranger may make it."""
    header: bytes = struct.pack(yamux.YAMUX_HEADER_FORMAT, 0, kind, flags, stream_id, length)
    return header + data


# Writing.


async def echoes_beside_cancelled_writers(cancels: int) -> bool:
    """Whether a conversation survives that a neighbour on its connection gives up writing, again and again."""
    rng = Random(1)
    async with host() as asker, host() as node:
        node.set_stream_handler(EXCHANGE, echo)
        await connect(asker, node)
        stream = await asker.new_stream(node.get_id(), [EXCHANGE])
        try:
            for _ in range(cancels):
                with trio.fail_after(3):
                    other = await asker.new_stream(node.get_id(), [EXCHANGE])
                    with trio.move_on_after(rng.uniform(0.001, 0.005)):
                        while True:
                            await other.write(bytes(65536))
                    await other.reset()
                    await stream.write(b"x" * 64)
                    received = b""
                    while len(received) < 64:
                        received += await stream.read(64)
        except Exception:  # noqa: BLE001  # a corrupt connection fails in many ways
            return False
        return True


@pytest.mark.parametrize(("fix", "lives"), [((), False), ((fixes.fix_write_cancellation,), True)])
async def test_a_cancelled_write_leaves_the_connection_whole(fix: tuple[Fix, ...], lives: bool) -> None:
    """Stock: the connection dies after a few cancelled writes. Fixed: its other streams do not notice."""
    with applied(*fix), trio.fail_after(20):
        assert await echoes_beside_cancelled_writers(60) is lives


@pytest.mark.parametrize(("fix", "waits"), [((), True), ((fixes.fix_write_cancellation,), False)])
async def test_nothing_waits_behind_a_writer_to_a_peer_that_hangs(fix: tuple[Fix, ...], waits: bool) -> None:
    """Stock: reset waits as long as the blocked writer does. Fixed: it returns at once, as does a cancelled write."""
    with applied(windows.fix_window_stall, *fix), trio.fail_after(20):
        async with host() as asker, host() as node:

            async def read(stream: Any) -> None:
                while True:
                    await stream.read(65536)

            node.set_stream_handler(EXCHANGE, read)
            async with cable(port_of(node)) as wire:
                connection = await connect(asker, node, wire.port)
                streams = [await asker.new_stream(node.get_id(), [EXCHANGE]) for _ in range(24)]
                wire.freeze()
                async with trio.open_nursery() as nursery:
                    for stream in streams[1:]:
                        nursery.start_soon(write_for_ever, stream)
                    await trio.sleep(0.3)
                    with trio.move_on_after(0.3) as patience:
                        await streams[0].muxed_stream.reset()
                    assert patience.cancelled_caught is waits
                    started = trio.current_time()
                    nursery.cancel_scope.cancel()
                assert trio.current_time() - started < 0.5
                await connection.muxed_conn._cleanup_on_error()


async def write_for_ever(stream: Any) -> None:
    try:
        while True:
            await stream.write(bytes(65536))
    except StreamError:
        return


async def test_a_peer_that_asks_and_does_not_read_is_dropped() -> None:
    """Control frames never wait, so what they fill is bounded: the connection ends."""
    with applied(fixes.fix_write_cancellation), trio.fail_after(20):
        async with host() as asker, host() as node, cable(port_of(node)) as wire:
            connection = (await connect(asker, node, wire.port)).muxed_conn
            wire.freeze()

            async def answer_pings() -> None:
                while True:
                    await connection._write_frame(frame(yamux.TYPE_PING, yamux.FLAG_ACK, 0, 1) * 100)
                    await trio.lowlevel.checkpoint()

            with pytest.raises(ConnectionClosedError, match="does not read"):
                await answer_pings()
            assert connection.is_closed


async def test_a_connection_that_takes_nothing_ends(autojump_clock: MockClock) -> None:
    """A peer that reads nothing for 30 s loses its connection, and who waits to write to it is told."""
    with applied(windows.fix_window_stall, fixes.fix_write_cancellation):
        async with yamux_pair() as (one, other):
            mine, _ = await open_pair(one, other)

            async def never(_: bytes) -> None:
                await trio.sleep_forever()

            one.secured_conn.write = never
            with pytest.raises((ConnectionClosedError, MuxedStreamError)), trio.fail_after(2 * fixes.WRITE_STALL_S):
                await mine.write(bytes(1 << 20))
            await one.event_closed.wait()


@pytest.mark.parametrize(("fix", "slots"), [((), 255), ((fixes.fix_open_cancellation,), 256)])
async def test_a_cancelled_open_gives_its_slot_back(fix: tuple[Fix, ...], slots: int) -> None:
    """Stock: one of 256 streams is lost for ever. Fixed: none is."""
    with applied(*fix), trio.fail_after(5):
        async with yamux_pair() as (one, _), trio.open_nursery() as nursery:

            async def let_go() -> None:
                await trio.sleep(0.05)
                one.streams_lock.release()

            async def lock(*, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
                await one.streams_lock.acquire()
                task_status.started()
                await let_go()

            await nursery.start(lock)
            stream = None
            with trio.move_on_after(0.02):
                stream = await one.open_stream()
            if stream is not None:
                await stream.reset()
            assert one.stream_backlog_semaphore.value == slots


@pytest.mark.parametrize(("fix", "open_"), [((), True), ((fixes.fix_silent_peers,), False)])
async def test_a_peer_that_does_not_answer_pings_is_dropped(
    fix: tuple[Fix, ...], open_: bool, autojump_clock: MockClock
) -> None:
    """Stock: it counts as connected for as long as TCP believes in it. Fixed: its connection ends in 20 s."""
    with applied(fixes.fix_write_cancellation, *fix):
        async with yamux_pair() as (one, other):
            await trio.sleep(100)
            assert not one.is_closed
            mine, _ = await open_pair(one, other)

            async def never(_: int) -> bytes:
                await trio.sleep_forever()
                return b""

            other.secured_conn.read = never  # after what it reads now
            await mine.write(b"x")
            await trio.sleep(fixes.PING_S + fixes.PONG_S + 1)
            assert one.is_closed is not open_


# Windows.


@pytest.mark.parametrize(("fix", "arrives"), [((), False), ((windows.fix_window_stall,), True)])
async def test_a_reader_may_pause(fix: tuple[Fix, ...], arrives: bool, autojump_clock: MockClock) -> None:
    """Stock: after 5 s without window write fails and the reader is not told. Fixed: everything arrives."""
    data = Random(3).randbytes(1 << 20)
    with applied(*fix):
        async with yamux_pair() as (one, other):
            mine, theirs = await open_pair(one, other)
            result: list[object] = []

            async def write() -> None:
                try:
                    await mine.write(data)
                    await mine.close()
                except MuxedStreamError as error:
                    result.append(error)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(write)
                await trio.sleep(20)
                received = bytearray()
                with trio.move_on_after(60) as patience:
                    try:
                        while True:
                            received += await theirs.read(65536)
                    except MuxedStreamEOF:
                        pass
            assert (received == data) is arrives
            assert patience.cancelled_caught is not arrives
            assert bool(result) is not arrives


async def test_a_reader_that_never_returns_is_told(autojump_clock: MockClock) -> None:
    """After two minutes without window the writer fails, and the stream is reset at both ends."""
    with applied(windows.fix_window_stall, ends.fix_false_ends):
        async with yamux_pair() as (one, other):
            mine, theirs = await open_pair(one, other)
            with pytest.raises(MuxedStreamError, match="took nothing"), trio.fail_after(200):
                await mine.write(bytes(1 << 20))
            await trio.sleep(1)
            with pytest.raises(MuxedStreamReset):
                await theirs.read(1)


@pytest.mark.parametrize(("fix", "quiet"), [((), False), ((windows.fix_window_growth,), True)])
async def test_a_few_bytes_open_no_large_window(fix: tuple[Fix, ...], quiet: bool) -> None:
    """Stock: 34 bytes read one by one cost frames and open megabytes. Fixed: nothing is sent, the window stays."""
    with applied(*fix), trio.fail_after(5):
        async with yamux_pair() as (one, other):
            mine, theirs = await open_pair(one, other)
            await mine.write(bytes(34))
            await wait_all_tasks_blocked()
            writes = other.secured_conn.writes
            for _ in range(34):
                await theirs.read(1)
            assert (other.secured_conn.writes == writes) is quiet
            assert (theirs.target_recv_window == yamux.DEFAULT_WINDOW_SIZE) is quiet
            assert quiet or theirs.target_recv_window >= 1 << 22


async def test_a_window_grows_to_a_mebibyte_and_no_further() -> None:
    """A fast reader gets a larger window; what one stream can make us hold stays bounded."""
    total = 8 << 20
    with applied(windows.fix_window_stall, windows.fix_window_growth), trio.fail_after(10):
        async with yamux_pair() as (one, other), trio.open_nursery() as nursery:
            mine, theirs = await open_pair(one, other)
            nursery.start_soon(mine.write, bytes(total))
            received = 0
            while received < total:
                received += len(await theirs.read(65536))
                held = len(other.stream_buffers[theirs.stream_id])
                assert held + theirs.recv_window <= windows.WINDOW_BYTES_MAX
            assert theirs.target_recv_window == windows.WINDOW_BYTES_MAX


@pytest.mark.parametrize(("fix", "held"), [((), True), ((windows.fix_window_overrun,), False)])
@pytest.mark.parametrize("flags", [0, yamux.FLAG_SYN, yamux.FLAG_ACK])
async def test_a_peer_that_ignores_its_window_is_dropped(fix: tuple[Fix, ...], held: bool, flags: int) -> None:
    """Stock: what it sends is held, however much. Fixed: its connection ends."""
    with applied(*fix), trio.fail_after(5):
        async with yamux_pair() as (one, other):
            mine, _ = await open_pair(one, other)
            stream_id = mine.stream_id + 2 if flags == yamux.FLAG_SYN else mine.stream_id
            size = 512 * 1024
            await one._write_frame(frame(yamux.TYPE_DATA, flags, stream_id, size, bytes(size)))
            await wait_all_tasks_blocked()
            assert (len(other.stream_buffers.get(stream_id, b"")) == size) is held
            assert other.is_closed is not held


@pytest.mark.parametrize(("fix", "whole"), [((), False), ((windows.fix_window_growth,), True)])
async def test_a_cancelled_read_loses_nothing(fix: tuple[Fix, ...], whole: bool) -> None:
    """Stock: a read that is cancelled in its window update has taken bytes that nobody gets. Fixed: it returns them."""
    with applied(*fix), trio.fail_after(5):
        async with yamux_pair() as (one, other), trio.open_nursery() as nursery:
            mine, theirs = await open_pair(one, other)
            await mine.write(b"onetwo")
            await wait_all_tasks_blocked()

            async def busy(*, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
                async with theirs.window_lock:
                    task_status.started()
                    await trio.sleep(0.05)

            await nursery.start(busy)
            received = b""
            with trio.move_on_after(0.02):
                received += await theirs.read(3)
            await trio.sleep(0.1)
            received += await theirs.read(3)
            assert (received == b"onetwo") is whole


# Floods and costs.


@pytest.mark.parametrize(("fix", "accepted"), [((), 600), ((fixes.fix_stream_flood,), 512)])
async def test_one_connection_has_so_many_streams(fix: tuple[Fix, ...], accepted: int) -> None:
    """Stock: a peer may open any number of streams. Fixed: 512 on one connection, and the next are reset."""
    with applied(*fix), trio.fail_after(10):
        async with host() as asker, host() as node:
            node.set_stream_handler(EXCHANGE, echo)
            muxed = (await connect(asker, node)).muxed_conn
            stream = await asker.new_stream(node.get_id(), [EXCHANGE])
            for index in range(600):
                await muxed._write_frame(frame(yamux.TYPE_WINDOW_UPDATE, yamux.FLAG_SYN, 1001 + 2 * index, 0))
            await stream.write(b"x")  # answered after the others arrived
            await stream.read(1)
            (connection,) = node.get_network().get_connections(asker.get_id())
            assert abs(len(connection.streams) - accepted) <= 2  # identify has one for a moment


@pytest.mark.parametrize(("fix", "calls"), [((), 300), ((fixes.fix_small_reads,), 60)])
async def test_small_messages_share_system_calls(fix: tuple[Fix, ...], calls: int) -> None:
    """Stock: four reads for a small message. Fixed: what has come is read at once, and nothing is out of order."""
    with applied(*fix), trio.fail_after(5):
        left, other = memory_stream_pair()
        right: Any = other
        made = 0
        receive_some = right.receive_some

        async def counted(n: int | None = None) -> bytes:
            nonlocal made
            made += 1
            return bytes(await receive_some(n))

        right.receive_some = counted
        stream: Any = TrioTCPStream(right)
        data = Random(5).randbytes(100 * 22)
        for start in range(0, len(data), 22):
            await left.send_all(data[start : start + 22])
        received = b""
        for _ in range(100):
            received += await stream.read(2) + await stream.read(16) + await stream.read(4)
        assert received == data
        assert made >= calls if not fix else made <= calls
