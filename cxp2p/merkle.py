"""Merkle trees: of RFC 9162 over byte strings, and one that sums amounts, in which nobody's part can be hidden. Pure.

No leaf is duplicated; leaves and inner hashes differ. In the sum tree each inner hash covers amount and count of both
its halves, so that a root fixes what every leaf is worth, and a proof shows that the sum has that leaf in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from cxp2p.errors import EpochInvalid

AMOUNT_MAX: Final = 2**63 - 1  # what a record can hold
NUMBER_BYTES: Final = 8  # amounts and counts, unsigned, big-endian
NODE_BYTES: Final = 2 * NUMBER_BYTES + 32


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """The 32-byte root of RFC 9162, 2.1.1. The empty tree's root is SHA-256 of nothing."""
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


# The tree that sums.


@dataclass(frozen=True, slots=True)
class Sum:
    """A node of the tree: what is beneath it in all, how many leaves, and the hash that covers both."""

    amount: int
    count: int
    hash: bytes

    def packed(self) -> bytes:
        """The 48 bytes that the node above hashes: amount, count, hash."""
        return _number(self.amount) + _number(self.count) + self.hash


def unpacked(data: bytes) -> Sum:
    """The node in 48 bytes. Raises EpochInvalid for another length or an amount over 2**63 - 1."""
    if len(data) != NODE_BYTES:
        raise EpochInvalid(f"a node of the tree has {len(data)} bytes, expected {NODE_BYTES}")
    amount = int.from_bytes(data[:NUMBER_BYTES], "big")
    if amount > AMOUNT_MAX:
        raise EpochInvalid(f"an amount of {amount} is over 2**63 - 1")
    return Sum(amount, int.from_bytes(data[NUMBER_BYTES : 2 * NUMBER_BYTES], "big"), data[2 * NUMBER_BYTES :])


EMPTY: Final = Sum(0, 0, sha256().digest())


def sum_leaf(amount: int, content: bytes) -> Sum:
    """The leaf of one content, which is worth `amount`. Raises EpochInvalid for an amount that is none."""
    if not 0 <= amount <= AMOUNT_MAX:
        raise EpochInvalid(f"an amount is {amount}, expected 0 to 2**63 - 1")
    packed = b"\x00" + _number(amount) + _ONE + sha256(content).digest()
    return Sum(amount, 1, sha256(packed).digest())


def joined(left: Sum, right: Sum) -> Sum:
    """The node over two. Raises EpochInvalid if they sum to more than 2**63 - 1."""
    amount = left.amount + right.amount
    if amount > AMOUNT_MAX:
        raise EpochInvalid("the amounts sum to more than 2**63 - 1")
    return Sum(amount, left.count + right.count, sha256(b"\x01" + left.packed() + right.packed()).digest())


class RunningSum:
    """A tree over leaves as they come, in the memory of one path."""

    def __init__(self) -> None:
        self._peaks: list[Sum] = []  # of whole trees, each smaller than the one before it

    def add(self, leaf: Sum) -> None:
        """One more leaf, on the right. Raises EpochInvalid if the sum is too large."""
        while self._peaks and self._peaks[-1].count == leaf.count:
            leaf = joined(self._peaks.pop(), leaf)
        self._peaks.append(leaf)

    def root(self) -> Sum:
        """The root over all so far. Raises EpochInvalid if the sum is too large."""
        root = self._peaks[-1] if self._peaks else EMPTY
        for peak in self._peaks[-2::-1]:
            root = joined(peak, root)
        return root


def sum_root(leaves: Iterable[Sum]) -> Sum:
    """The root over leaves of which none is kept. Raises EpochInvalid if the sum is too large."""
    tree = RunningSum()
    for leaf in leaves:
        tree.add(leaf)
    return tree.root()


@dataclass(frozen=True, slots=True)
class Proof:
    """That a leaf stands at `index` of `size`: the nodes beside its way up, the lowest first."""

    index: int
    size: int
    path: tuple[Sum, ...]


class SumTree:
    """All nodes of a tree, 96 bytes a leaf, for whoever gives proofs."""

    def __init__(self, leaves: Iterable[Sum]) -> None:
        level = bytearray()
        for leaf in leaves:
            level += leaf.packed()
        self._levels = [level]
        while len(self._levels[-1]) > NODE_BYTES:
            self._levels.append(_level_above(self._levels[-1]))

    def __len__(self) -> int:
        return len(self._levels[0]) // NODE_BYTES

    @property
    def root(self) -> Sum:
        """The node over all leaves."""
        return self._node(len(self._levels) - 1, 0) if len(self) else EMPTY

    def proof(self, index: int) -> Proof:
        """That the leaf at `index` is in the tree. Raises IndexError if there is none."""
        if not 0 <= index < len(self):
            raise IndexError(f"leaf {index} of a tree of {len(self)}")
        path, at = [], index
        for height, level in enumerate(self._levels[:-1]):
            beside = at ^ 1
            if beside < len(level) // NODE_BYTES:
                path.append(self._node(height, beside))
            at //= 2
        return Proof(index, len(self), tuple(path))

    def _node(self, height: int, at: int) -> Sum:
        return unpacked(bytes(self._levels[height][at * NODE_BYTES : (at + 1) * NODE_BYTES]))


def check_proof(root: Sum, leaf: Sum, proof: Proof) -> None:
    """Raises EpochInvalid, with the reason, unless `leaf` is in the tree under `root` where `proof` says.

    Which node is left and which right, and how many leaves are under each, follows from index and size alone.
    """
    if proof.size != root.count:
        raise EpochInvalid(f"the proof is of a tree of {proof.size} leaves, the root has {root.count}")
    if not 0 <= proof.index < proof.size:
        raise EpochInvalid(f"the proof is of leaf {proof.index} of {proof.size}")
    if leaf.count != 1:
        raise EpochInvalid(f"the leaf counts {leaf.count}, expected 1")
    steps = list(_steps(proof.index, proof.size))[::-1]
    if len(proof.path) != len(steps):
        raise EpochInvalid(f"the path has {len(proof.path)} nodes, expected {len(steps)}")
    at = leaf
    for height, (beside, (is_left, count)) in enumerate(zip(proof.path, steps, strict=True)):
        if beside.count != count:
            raise EpochInvalid(f"node {height} of the path counts {beside.count} leaves, expected {count}")
        at = joined(beside, at) if is_left else joined(at, beside)
    if at.amount != root.amount:
        raise EpochInvalid(f"the path sums to {at.amount}, the root to {root.amount}")
    if at.hash != root.hash:
        raise EpochInvalid("the path does not lead to the root: the leaf, a node or the index is another")


def _steps(index: int, size: int) -> Iterator[tuple[bool, int]]:
    """From the root down: whether the node beside the way is the left one, and how many leaves are under it."""
    while size > 1:
        split = 1 << (size - 1).bit_length() - 1
        if index < split:
            yield False, size - split
            size = split
        else:
            yield True, split
            index, size = index - split, size - split


def _level_above(level: bytearray) -> bytearray:
    above = bytearray()
    view = memoryview(level)
    pair = 2 * NODE_BYTES
    whole = len(level) // pair * pair
    for start in range(0, whole, pair):
        at = bytes(view[start : start + pair])
        amount = _read(at, 0) + _read(at, NODE_BYTES)
        if amount > AMOUNT_MAX:
            raise EpochInvalid("the amounts sum to more than 2**63 - 1")
        count = _read(at, NUMBER_BYTES) + _read(at, NODE_BYTES + NUMBER_BYTES)
        above += _number(amount) + _number(count) + sha256(b"\x01" + at).digest()
    above += view[whole:]
    return above


def _read(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + NUMBER_BYTES], "big")


def _number(value: int) -> bytes:
    return value.to_bytes(NUMBER_BYTES, "big")


_ONE: Final = _number(1)
