"""How much of what strangers send a node holds at once: asks that still arrive, and the prompts of taken jobs. Pure."""

from __future__ import annotations

from cxp2p import protocols
from cxp2p.errors import PeerUnreachable

INTAKE_BYTES_MAX = 256 * 1024 * 1024  # 15 asks of full size; a decoded prompt takes up to four times its bytes
INTAKE_BYTES_PER_PEER_MAX = 4 * protocols.ASK_BYTES_MAX


class Intake:
    """Counts bytes by peer. Over `bytes_max` in all, who holds more than an even share gets no more.

    So one peer, or a few, cannot keep the others' small asks out.
    """

    def __init__(self, bytes_max: int = INTAKE_BYTES_MAX, bytes_per_peer_max: int = INTAKE_BYTES_PER_PEER_MAX) -> None:
        self.bytes_max = bytes_max
        self.bytes_per_peer_max = bytes_per_peer_max
        self.held = 0
        self._of_peer: dict[str, int] = {}

    def open(self, peer: str) -> Share:
        """What one stream of `peer` will hold; close it at the stream's end."""
        return Share(self, peer)

    def take(self, peer: str, size: int) -> None:
        """Raises PeerUnreachable, and counts nothing, if that is more than this node holds for `peer`."""
        own = self._of_peer.get(peer, 0) + size
        even = self.bytes_max // max(1, len(self._of_peer))
        if own > self.bytes_per_peer_max or (self.held + size > self.bytes_max and own > even):
            raise PeerUnreachable(f"{peer} sends more at once than this node can hold now: {own} bytes")
        self.held += size
        self._of_peer[peer] = own

    def give_back(self, peer: str, size: int) -> None:
        """The bytes are no longer held."""
        self.held -= size
        left = self._of_peer.get(peer, 0) - size
        if left > 0:
            self._of_peer[peer] = left
        else:
            self._of_peer.pop(peer, None)


class Share:
    """The part of an intake that one stream holds."""

    def __init__(self, intake: Intake, peer: str) -> None:
        self._intake = intake
        self._peer = peer
        self._size = 0

    def take(self, size: int) -> None:
        """So many more bytes arrived. Raises PeerUnreachable."""
        self._intake.take(self._peer, size)
        self._size += size

    def close(self) -> None:
        """Nothing of this stream is held any more."""
        size, self._size = self._size, 0
        self._intake.give_back(self._peer, size)
