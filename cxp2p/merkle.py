"""Merkle tree hash over byte strings (RFC 9162, 2.1.1): no leaf is duplicated; leaves and inner hashes differ."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """The 32-byte root. The empty tree's root is SHA-256 of nothing."""
    if not leaves:
        return sha256().digest()
    level = [sha256(b"\x00" + leaf).digest() for leaf in leaves]
    while len(level) > 1:
        # Pairing level by level and carrying an odd last hash up gives RFC 9162's largest-power-of-two split.
        paired = [sha256(b"\x01" + level[i] + level[i + 1]).digest() for i in range(0, len(level) - 1, 2)]
        level = paired + level[len(paired) * 2 :]
    return level[0]
