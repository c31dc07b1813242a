"""The seam to the network: what the rest of the project may ask of it, and nothing more.

Two things implement it: `net.memory` (one process, virtual time) and `net.libp2p`. Both pass the same contract tests
(`cxp2p.testing`). Bytes in, bytes out; a peer is named by its peer id; addresses are a look-up detail. Every error that
leaves an implementation is `PeerUnreachable` (the connection, the peer) or `RemoteProtocolError` (what it said).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeAlias


class Stream(Protocol):
    """One conversation with one peer. Ordered, reliable, with back-pressure in both directions."""

    @property
    def peer(self) -> str:
        """The authenticated peer id of the other end."""

    async def send(self, data: bytes) -> None:
        """Sends all of `data`, waiting while the peer does not read. Raises PeerUnreachable."""

    async def receive(self) -> bytes:
        """The next bytes, at least one; b"" when the peer ended cleanly. Raises PeerUnreachable after a reset or loss.

        A peer may end cleanly at any place: every protocol here has an explicit last frame.
        """

    async def close_send(self) -> None:
        """Nothing more will be sent. The peer reads b"" after what was sent; reading goes on."""

    async def close(self) -> None:
        """Ends the stream after what was sent; what the peer still sends is not read. Never raises; safe to call twice.

        A peer that goes on sending is told so within seconds: its calls raise PeerUnreachable.
        """

    async def reset(self) -> None:
        """Ends the stream at once in both directions; the peer's calls raise PeerUnreachable. Never raises."""


Handler: TypeAlias = Callable[[Stream], Awaitable[None]]
"""Serves one inbound stream. When it returns the stream is closed; when it raises, it is reset.

CxError and trio.TooSlowError are the stranger's doing and logged in a line; all else is our bug and logged whole."""


class Dht(Protocol):
    """The Kademlia DHT. Slow (100 ms to seconds) and only a hint: never on the path of a job."""

    async def provide(self, key: str) -> int:
        """Announces this peer under `key` (at most 80 bytes). Returns how many peers were told."""

    async def find_providers(self, key: str, limit: int) -> tuple[str, ...]:
        """Peer ids that announced `key`, without duplicates, in no order."""

    async def put_offer(self, envelope: bytes) -> int:
        """Stores this peer's signed offer under its own id. Returns how many peers took it."""

    async def get_offer(self, peer: str) -> bytes | None:
        """The newest valid offer envelope of `peer` that the network holds, or None."""

    async def put_root(self, epoch: int, envelope: bytes) -> int:
        """Stores this peer's signed root of an epoch. Returns how many peers took it, or had it already."""

    async def get_roots(self, gateway: str, epoch: int) -> tuple[bytes, ...]:
        """All valid roots of `gateway` for `epoch` that the network holds: more than one convict it."""


class Network(Protocol):
    """One peer's place in the network."""

    @property
    def peer(self) -> str:
        """This peer's id."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """Addresses that other peers can dial, each ending in /p2p/<peer id>."""

    @property
    def dht(self) -> Dht: ...

    def connected(self) -> tuple[str, ...]:
        """Peer ids with a live connection."""

    def serve(self, protocol: str, handler: Handler) -> None:
        """Calls `handler` for each inbound stream of `protocol`, at most STREAMS_PER_PEER_MAX at once for each peer."""

    async def connect(self, address: str) -> str:
        """Connects to an address ending in /p2p/<peer id>; returns the peer id. Raises PeerUnreachable."""

    def remember(self, peer: str, addresses: tuple[str, ...]) -> None:
        """Adds addresses to the address book, so that `open` can dial `peer`. Bad ones are ignored."""

    async def open(self, peer: str, protocol: str) -> Stream:
        """Opens a stream, dialling first if need be, in at most STREAM_OPEN_TIMEOUT_S.

        Raises PeerUnreachable (cannot dial, timed out) or RemoteProtocolError (the peer does not speak `protocol`).
        A peer that spoke `protocol` before is not asked again: if it hangs or changed its mind, `receive` says so, in
        the same time.
        """

    async def kill(self, peer: str) -> None:
        """Drops every connection to `peer` at once, also one that hangs: its streams raise PeerUnreachable."""
