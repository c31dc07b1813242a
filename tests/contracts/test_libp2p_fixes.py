"""Each fault of libp2p's hosts and DHT, shown in the stock code, and its absence with the fix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import libp2p.io.utils as io_utils
import pytest
import trio
from libp2p import new_host
from libp2p.io.abc import Reader
from libp2p.io.exceptions import IncompleteReadError
from libp2p.network.exceptions import SwarmException
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.protocol_muxer import multiselect_communicator
from libp2p.protocol_muxer.exceptions import MultiselectCommunicatorError
from multiaddr import Multiaddr

from cxp2p.errors import LocalProtocolError
from cxp2p.net import libp2p_fixes as fixes
from cxp2p.net import libp2p_windows as windows
from cxp2p.net import libp2p_yamux
from cxp2p.testing import make_identity
from hosts import ANY_PORT, EXCHANGE, applied, cable, connect, echo, host, port_of

Fix = Callable[[], None]


async def answers(asker: Any, node: Any, within_s: float = 3.0) -> bool:
    """Whether the node still echoes."""
    try:
        with trio.fail_after(within_s):
            stream = await asker.new_stream(node.get_id(), [EXCHANGE])
            await stream.write(b"x")
            heard: bool = await stream.read(1) == b"x"
            await stream.reset()
    except Exception:  # noqa: BLE001  # libp2p has many ways to say no
        return False
    return heard


# Accepting and dialling.


@pytest.mark.parametrize(("fix", "served"), [((), 4), ((fixes.fix_inbound_limiter,), 7)])
async def test_places_of_connections_that_ended_are_free(fix: tuple[Fix, ...], served: int) -> None:
    """Stock: a host accepts as many connections in its life as it may have at once. Fixed: at once."""
    with applied(*fix), trio.fail_after(20):
        async with host(connections_max=4) as node:
            node.set_stream_handler(EXCHANGE, echo)
            gone, notify = trio.Event(), node.get_network().notify_disconnected

            async def disconnected(connection: Any) -> None:
                gone.set()
                await notify(connection)

            node.get_network().notify_disconnected = disconnected
            count = 0
            for _ in range(7):
                gone = trio.Event()
                async with host() as asker:
                    try:
                        with trio.fail_after(0.5):
                            await connect(asker, node)
                        count += await answers(asker, node)
                    except (SwarmException, trio.TooSlowError):
                        continue
                await gone.wait()
            assert count == served


@pytest.mark.parametrize(("fix", "let_in"), [((), False), ((fixes.fix_inbound_limiter,), True)])
async def test_silent_connections_keep_nobody_out(
    fix: tuple[Fix, ...], let_in: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stock: as many TCP connections as it has places, that say nothing, and a host is closed. Fixed: they give way."""
    monkeypatch.setattr(fixes, "HANDSHAKES_MAX", 6)
    with applied(*fix), trio.fail_after(10):
        async with host(connections_max=6) as node, host() as asker:
            node.set_stream_handler(EXCHANGE, echo)
            silent = [await trio.open_tcp_stream("127.0.0.1", port_of(node)) for _ in range(9)]
            try:
                with trio.fail_after(2):
                    await connect(asker, node)
                heard = await answers(asker, node)
            except (SwarmException, trio.TooSlowError):
                heard = False
            assert heard is let_in
            for stream in silent:
                await stream.aclose()


def test_who_floods_displaces_himself() -> None:
    """Among connections that are not yet upgraded, the oldest of the busiest address goes, not the newcomer's."""

    class Raw:
        def __init__(self, host: str) -> None:
            self.host = host

        def get_remote_address(self) -> tuple[str, int]:
            return self.host, 1

    handshakes = fixes.Handshakes()
    neighbour, flood = Raw("192.0.2.1"), [Raw("192.0.2.2") for _ in range(fixes.HANDSHAKES_MAX)]
    assert handshakes.add(neighbour) is None
    gone = [handshakes.add(raw) for raw in flood]
    assert [raw for raw in gone if raw] == [flood[0]]
    assert handshakes.add(Raw("192.0.2.3")) is flood[1]
    handshakes.remove(flood[5])
    assert handshakes.add(Raw("192.0.2.3")) is None


@pytest.mark.parametrize(("fix", "slow"), [((), True), ((fixes.fix_dial_delay,), False)])
async def test_one_address_is_dialled_at_once(fix: tuple[Fix, ...], slow: bool) -> None:
    """Stock: every dial takes a quarter second at least. Fixed: it takes what it takes."""
    with applied(*fix), trio.fail_after(5):
        async with host() as asker, host() as node:
            started = trio.current_time()
            await asker.connect(PeerInfo(node.get_id(), node.get_transport_addrs()))
            assert (trio.current_time() - started >= 0.24) is slow


@pytest.mark.parametrize("fixed", [False, True])
async def test_a_cancelled_dial_leaves_no_connection_behind(fixed: bool) -> None:
    """Stock: each dial that is given up counts as a connection for ever. Fixed: nobody counts, the swarm limits."""
    silent = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = silent[0].socket.getsockname()[1]
    with applied(), trio.fail_after(5):
        async with host() as asker:
            network = asker.get_network()
            manager = network._resource_manager
            if fixed:
                fixes.drop_resource_manager(asker)
            for _ in range(3):
                with trio.move_on_after(0.1):
                    await network._dial_addr_single_attempt(
                        Multiaddr(f"/ip4/127.0.0.1/tcp/{port}"), ID.from_base58(make_identity(1).peer)
                    )
            assert manager._current_connections == (0 if fixed else 3)
    await silent[0].aclose()


@pytest.mark.parametrize("fixed", [False, True])
async def test_nobody_is_dialled_unasked(fixed: bool) -> None:
    """Stock: a host that loses a connection dials whomever it knows an address of. Fixed: it dials nobody."""
    with applied(fixes.fix_dial_delay), trio.fail_after(10):
        async with host() as asker, host() as node, host() as third:
            if fixed:
                fixes.stop_auto_connect(asker)
            asker.get_peerstore().add_addrs(third.get_id(), third.get_transport_addrs(), 60)
            await connect(asker, node)
            dialled, notify = trio.Event(), third.get_network().notify_connected

            async def connected(connection: Any) -> None:
                dialled.set()
                await notify(connection)

            third.get_network().notify_connected = connected
            await asker.disconnect(node.get_id())
            with trio.move_on_after(0.3):
                await dialled.wait()
            assert dialled.is_set() is not fixed
            assert bool(asker.get_network().auto_connector._recent_disconnects) is not fixed


@pytest.mark.parametrize("fixed", [False, True])
async def test_a_peer_that_does_not_answer_is_given_up(fixed: bool) -> None:
    """Stock: a stream to a peer that takes the connection and is silent waits for minutes. Fixed: so long and no more.

    The next attempt fails at once, which is what the DHT needs to leave such a peer out.
    """
    silent = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = silent[0].socket.getsockname()[1]
    peer = ID.from_base58(make_identity(1).peer)
    with applied(), trio.fail_after(5):
        async with host() as asker:
            asker.get_peerstore().add_addrs(peer, [Multiaddr(f"/ip4/127.0.0.1/tcp/{port}")], 60)
            suspects = fixes.bound_new_stream(asker, 0.2) if fixed else fixes.Suspects()
            with trio.move_on_after(0.5) as patience:
                with pytest.raises(SwarmException, match="did not answer"):
                    await asker.new_stream(peer, [EXCHANGE])
            assert patience.cancelled_caught is not fixed
            if fixed:
                started = trio.current_time()
                with pytest.raises(SwarmException, match="a moment ago"):
                    await asker.new_stream(peer, [EXCHANGE])
                assert trio.current_time() - started < 0.1
                suspects.clear(peer)
                assert peer not in suspects
    await silent[0].aclose()


async def test_suspects_are_bounded() -> None:
    """However many peers do not answer, only so many are remembered."""
    suspects = fixes.Suspects()
    for number in range(fixes.SUSPECTS_MAX + 10):
        suspects.add(number)
    assert len(suspects._until) <= fixes.SUSPECTS_MAX
    assert fixes.SUSPECTS_MAX + 9 in suspects


# Living and leaving.


@pytest.mark.parametrize("fixed", [False, True])
async def test_a_handler_that_raises_ends_its_stream_only(fixed: bool) -> None:
    """Stock: the host stops, for all its peers. Fixed: nobody else notices."""
    raised = trio.Event()

    async def fail(stream: Any) -> None:
        raised.set()
        raise ZeroDivisionError("a bug in a handler")

    async def run() -> None:
        async with host() as node, host() as asker:
            if fixed:
                fixes.guard_handlers(node)
            node.set_stream_handler(EXCHANGE, echo)
            node.set_stream_handler("/test/fail/1", fail)
            connection = await connect(asker, node)
            try:
                await asker.new_stream(node.get_id(), ["/test/fail/1"])
                await raised.wait()
                assert await answers(asker, node)
            finally:  # a host that stops leaves it open
                with trio.CancelScope(shield=True):
                    await connection.muxed_conn._cleanup_on_error()

    with applied(), trio.fail_after(10):
        if fixed:
            await run()
        else:
            with pytest.raises(BaseExceptionGroup) as caught:
                await run()
            assert caught.group_contains(ZeroDivisionError)


@pytest.mark.parametrize("kill", [False, True])
async def test_a_hung_peer_can_be_killed(kill: bool) -> None:
    """Stock: `disconnect` waits behind a blocked writer. Fixed: a kill returns at once, and the writer is told."""
    fix = (libp2p_yamux.fix_write_cancellation,) if kill else ()
    with applied(windows.fix_window_stall, *fix), trio.fail_after(15):
        async with host() as asker, host() as node:
            node.set_stream_handler(EXCHANGE, echo)
            async with cable(port_of(node)) as wire, trio.open_nursery() as nursery:
                connection = await connect(asker, node, wire.port)
                streams = [await asker.new_stream(node.get_id(), [EXCHANGE]) for _ in range(24)]
                wire.freeze()

                async def write(stream: Any) -> None:
                    try:
                        while True:
                            await stream.write(bytes(65536))
                    except Exception:  # noqa: BLE001  # told, in whichever of libp2p's ways
                        return

                for stream in streams:
                    nursery.start_soon(write, stream)
                await trio.sleep(0.3)
                with trio.move_on_after(0.4) as patience:
                    await (fixes.kill_connection(connection) if kill else asker.disconnect(node.get_id()))
                assert patience.cancelled_caught is not kill
                await connection.muxed_conn._cleanup_on_error()


@pytest.mark.parametrize("fixed", [False, True])
async def test_a_host_that_left_does_not_listen(fixed: bool) -> None:
    """Stock: after `run` the port still accepts. Fixed: it refuses, also when there were many connections to close."""
    with applied(), trio.fail_after(20):
        node = new_host(listen_addrs=[ANY_PORT])
        async with host() as asker:
            async with node.run([ANY_PORT]):
                port, listeners = port_of(node), tuple(node.get_network().listeners.values())
                for _ in range(8):
                    await connect(asker, node)
                if fixed:
                    await fixes.close_host(node, 1.0)
            try:
                stream = await trio.open_tcp_stream("127.0.0.1", port)
                await stream.aclose()
                listens = True
            except OSError:
                listens = False
            assert listens is not fixed
            for listener in listeners:
                await listener.close()


# Reading.


@pytest.mark.parametrize(("fix", "whole"), [((), False), ((fixes.fix_read_exactly,), True)])
async def test_a_message_may_come_in_many_parts(fix: tuple[Fix, ...], whole: bool) -> None:
    """Stock: after a hundred parts the message is given up. Fixed: it is read."""

    class Dripping(Reader):
        async def read(self, n: int | None = None) -> bytes:
            await trio.lowlevel.checkpoint()
            return b"x"

    class Ending(Reader):
        async def read(self, n: int | None = None) -> bytes:
            await trio.lowlevel.checkpoint()
            return b""

    with applied(*fix):
        if whole:
            assert await io_utils.read_exactly(Dripping(), 300) == b"x" * 300
        else:
            with pytest.raises(IncompleteReadError):
                await io_utils.read_exactly(Dripping(), 300)
        with pytest.raises(IncompleteReadError) as caught:
            await io_utils.read_exactly(Ending(), 3)
        assert caught.value.is_clean_close


@pytest.mark.parametrize(("fix", "taken"), [((), (4 << 20) + 8), ((fixes.fix_negotiation_length,), 8)])
async def test_a_negotiation_is_short(fix: tuple[Fix, ...], taken: int) -> None:
    """Stock: a line of any announced length is collected in memory. Fixed: its length is refused before it is read."""

    class Line:
        def __init__(self, data: bytes, total: int = 0) -> None:
            self.data = data
            self.taken = 0
            self.total = total

        async def read(self, n: int) -> bytes:
            await trio.lowlevel.checkpoint()
            if not self.data and self.taken < self.total:
                self.data = bytes(65536)
            out, self.data = self.data[:n], self.data[n:]
            self.taken += len(out)
            return out

    with applied(*fix):
        communicator = multiselect_communicator.MultiselectCommunicator
        endless = Line(b"\xff" * 7 + b"\x01", total=4 << 20)
        with pytest.raises(MultiselectCommunicatorError):
            await communicator(endless).read()  # type: ignore[arg-type]
        assert endless.taken == taken
        assert await communicator(Line(b"\x05/one\n")).read() == "/one"  # type: ignore[arg-type]
        for junk in (b"", b"\x00", b"\x03abc", b"\x03\xff\xff\n", b"\x80" * 11):
            with pytest.raises((MultiselectCommunicatorError, UnicodeDecodeError, IncompleteReadError)):
                await communicator(Line(junk)).read()  # type: ignore[arg-type]


def test_another_libp2p_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """These fixes are for one release: with another the program says which one to install."""
    monkeypatch.setattr(fixes, "_applied", False)
    monkeypatch.setattr(fixes, "version", lambda name: "0.9.0")
    with pytest.raises(LocalProtocolError, match=r"pip install libp2p==0\.8\.1"):
        fixes.apply()
