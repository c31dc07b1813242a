"""Who signs in a world: real keys, or a quick twin. Only simulations know the twin.

An Ed25519 signature in its envelope takes about 30 µs to make and 80 µs to check: six of them are most of what a
simulated job costs. The twin's envelope has a keyed digest in the signature's place. It is as exact about who signed
what as which kind, which is all that the rules ask; it is no defence against anybody.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import blake2b
from types import MappingProxyType
from typing import Final, Protocol

from cxp2p.errors import RemoteProtocolError
from cxp2p.identity import Kind, Opened, identity_from_seed, open_envelope

TAG_BYTES = 16
PEER_BYTES = 52  # what a real peer id has
_LETTERS = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"  # base 58, as in peer ids


class Signer(Protocol):
    """One peer's key."""

    peer: str

    def seal(self, kind: Kind, body: bytes) -> bytes:
        """Signs `body` as `kind` and returns the envelope."""


class Signing(Protocol):
    """How peers of one world sign, and check what others signed."""

    def signer(self, seed: bytes) -> Signer:
        """The same signer for the same 32 bytes."""

    def open(self, kind: Kind, envelope: bytes) -> Opened:
        """Who signed what. Raises RemoteProtocolError for whatever does not hold."""


class RealSigning:
    """Ed25519 in libp2p's envelopes, as the programs do it."""

    def signer(self, seed: bytes) -> Signer:
        return identity_from_seed(seed)

    def open(self, kind: Kind, envelope: bytes) -> Opened:
        return open_envelope(kind, envelope)


class QuickSigner:
    """A key that is known to its `QuickSigning`."""

    def __init__(self, peer: str, key: bytes) -> None:
        self.peer = peer
        self._key = key
        self._head = bytes((len(peer),)) + peer.encode()

    def seal(self, kind: Kind, body: bytes) -> bytes:
        return self.tag(kind, body) + self._head + body

    def tag(self, kind: Kind, body: bytes) -> bytes:
        """What stands in the place of a signature."""
        return blake2b(body, key=self._key, person=kind.encode(), digest_size=TAG_BYTES).digest()


class QuickSigning:
    """Keyed digests; whoever checks looks the key up here. Envelopes are tag ‖ length ‖ peer ‖ body."""

    def __init__(self) -> None:
        self._signers: dict[str, QuickSigner] = {}

    def signer(self, seed: bytes) -> Signer:
        number = int.from_bytes(blake2b(seed, digest_size=32).digest(), "big")
        letters = []
        for _ in range(PEER_BYTES - len("12D3KooW")):
            number, digit = divmod(number, len(_LETTERS))
            letters.append(_LETTERS[digit])
        peer = "12D3KooW" + "".join(letters)
        return self._signers.setdefault(peer, QuickSigner(peer, seed))

    def open(self, kind: Kind, envelope: bytes) -> Opened:
        start = TAG_BYTES + 1 + (envelope[TAG_BYTES] if len(envelope) > TAG_BYTES else 0)
        peer, body = envelope[TAG_BYTES + 1 : start].decode(errors="replace"), envelope[start:]
        signer = self._signers.get(peer)
        if signer is None or signer.tag(kind, body) != envelope[:TAG_BYTES]:
            raise RemoteProtocolError(f"{kind} signature is not valid")
        return Opened(peer, body, envelope)


KEYS: Final[Mapping[str, Callable[[], Signing]]] = MappingProxyType({"quick": QuickSigning, "real": RealSigning})
"""Both by name: quick ones are what a scenario has, if nobody says otherwise."""
