"""Each fault of libp2p when a stream ends, shown in the stock code, and its absence with the fix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
from libp2p.stream_muxer.exceptions import MuxedStreamEOF, MuxedStreamError, MuxedStreamReset
from trio.testing import MockClock, wait_all_tasks_blocked

from cxp2p.net import libp2p_ends as fixes
from hosts import EXCHANGE, applied, connect, echo, host, open_pair, yamux_pair

Fix = Callable[[], None]


@pytest.mark.parametrize(("fix", "seen"), [((), MuxedStreamEOF), ((fixes.fix_false_ends,), MuxedStreamReset)])
@pytest.mark.parametrize("lost", [False, True])
async def test_a_reset_is_no_end(fix: tuple[Fix, ...], seen: type[Exception], lost: bool) -> None:
    """Stock: whoever reads when the peer resets, or when the connection is lost, reads a clean end. Fixed: an error."""
    with applied(*fix), trio.fail_after(5):
        async with yamux_pair() as (one, other), trio.open_nursery() as nursery:
            mine, theirs = await open_pair(one, other)

            async def read() -> None:
                with pytest.raises((MuxedStreamEOF, MuxedStreamReset)) as caught:
                    await theirs.read(1)
                assert type(caught.value) is seen

            nursery.start_soon(read)
            await wait_all_tasks_blocked()
            await (one.secured_conn.close() if lost else mine.reset())


@pytest.mark.parametrize(("fix", "kept"), [((), False), ((fixes.fix_lost_data,), True)])
@pytest.mark.parametrize("ended", [False, True])
async def test_the_last_words_of_a_peer_are_heard(fix: tuple[Fix, ...], kept: bool, ended: bool) -> None:
    """Stock: what arrived before the connection ended is dropped. Fixed: it is read, and then how it ended."""
    with applied(fixes.fix_false_ends, *fix), trio.fail_after(5):
        async with yamux_pair() as (one, other):
            mine, theirs = await open_pair(one, other)
            await mine.write(b"last words")
            if ended:
                await mine.close()
            await wait_all_tasks_blocked()
            await one.close()
            await other.event_closed.wait()
            if kept:
                assert await theirs.read(4) == b"last"
                assert await theirs.read(100) == b" words"
            with pytest.raises(MuxedStreamEOF if kept and ended else MuxedStreamReset):
                await theirs.read(100)


@pytest.mark.parametrize(("fix", "left"), [((), True), ((fixes.fix_half_closed_leak,), False)])
async def test_a_closed_stream_is_forgotten(fix: tuple[Fix, ...], left: bool, autojump_clock: MockClock) -> None:
    """Stock: a stream that the peer never ends stays, with what he sends. Fixed: it is gone after 10 s."""
    with applied(fixes.fix_false_ends, fixes.fix_reset_leak, *fix):
        async with yamux_pair() as (one, other):
            mine, theirs = await open_pair(one, other)
            await theirs.close()
            await mine.write(bytes(100_000))
            await trio.sleep(fixes.LINGER_S + 200)
            assert bool(other.streams) is left
            assert (sum(map(len, other.stream_buffers.values())) == 100_000) is left
            if not left:
                with pytest.raises(MuxedStreamError):
                    await mine.write(b"x")


async def test_few_closed_streams_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many streams a peer leaves half open, only so many are kept for a while; the rest are reset at once."""
    monkeypatch.setattr(fixes, "LINGERING_MAX", 5)
    with applied(fixes.fix_false_ends, fixes.fix_reset_leak, fixes.fix_half_closed_leak), trio.fail_after(5):
        async with yamux_pair() as (one, other):
            for _ in range(20):
                _, theirs = await open_pair(one, other)
                await theirs.close()
            assert len(other.streams) == 5


@pytest.mark.parametrize(("fix", "left"), [((), 1), ((fixes.fix_reset_leak,), 0)])
@pytest.mark.parametrize("by_peer", [False, True])
async def test_a_reset_stream_is_forgotten(fix: tuple[Fix, ...], left: int, by_peer: bool) -> None:
    """Stock: a stream that was reset with unread data is kept for a minute. Fixed: it is gone."""
    with applied(*fix), trio.fail_after(5):
        async with yamux_pair() as (one, other):
            mine, theirs = await open_pair(one, other)
            await mine.write(bytes(100_000))
            if by_peer:
                await mine.reset()
            await wait_all_tasks_blocked()
            await theirs.reset()
            assert len(other.streams) == left


@pytest.mark.parametrize(("fix", "left"), [((), 1), ((fixes.fix_close_cancellation,), 0)])
@pytest.mark.parametrize("ending", ["close", "reset"])
async def test_a_cancelled_close_closes(fix: tuple[Fix, ...], left: int, ending: str) -> None:
    """Stock: a stream that is ended after a timeout stays, at both ends. Fixed: it ends."""
    with applied(*fix), trio.fail_after(5):
        async with host() as asker, host() as node:
            node.set_stream_handler(EXCHANGE, echo)
            connection = await connect(asker, node)
            stream: Any = await asker.new_stream(node.get_id(), [EXCHANGE])
            await stream.write(b"x")
            await stream.read(1)
            with trio.CancelScope() as scope:
                scope.cancel()
                await getattr(stream, ending)()
            await wait_all_tasks_blocked(0.1)
            assert sum(each is stream for each in connection.streams) == left
            assert sum(each is stream.muxed_stream for each in connection.muxed_conn.streams.values()) == left
