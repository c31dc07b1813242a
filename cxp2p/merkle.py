"""Merkle tree hash over byte strings (RFC 9162, 2.1.1): no leaf is duplicated; leaves and inner hashes differ."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """The 32-byte root. The empty tree's root is SHA-256 of nothing."""
    return root_of_hashes([leaf_hash(leaf) for leaf in leaves])


def leaf_hash(leaf: bytes) -> bytes:
    """What the tree keeps of a leaf."""
    return sha256(b"\x00" + leaf).digest()


def root_of_hashes(hashes: Sequence[bytes]) -> bytes:
    """The root over leaves of which only the hashes are known."""
    if not hashes:
        return sha256().digest()
    level = list(hashes)
    while len(level) > 1:
        # Pairing level by level and carrying an odd last hash up gives RFC 9162's largest-power-of-two split.
        paired = [sha256(b"\x01" + level[i] + level[i + 1]).digest() for i in range(0, len(level) - 1, 2)]
        level = paired + level[len(paired) * 2 :]
    return level[0]
