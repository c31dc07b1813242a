from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxp2p.errors import EpochInvalid
from cxp2p.merkle import (
    AMOUNT_MAX,
    EMPTY,
    NODE_BYTES,
    Proof,
    Sum,
    SumTree,
    check_proof,
    joined,
    sum_leaf,
    sum_root,
    unpacked,
)

SIZE_MAX = 70
LEAVES = [sum_leaf(number * 7 + 1, b"content %d" % number) for number in range(SIZE_MAX)]
SIZES = st.integers(1, SIZE_MAX)


def by_the_book(part: list[Sum]) -> Sum:
    """The definition as the protocol has it, with nothing of the code under test."""
    if not part:
        return Sum(0, 0, sha256().digest())
    if len(part) == 1:
        return part[0]
    split = 1 << (len(part) - 1).bit_length() - 1
    left, right = by_the_book(part[:split]), by_the_book(part[split:])
    packed = b"".join(
        each.amount.to_bytes(8, "big") + each.count.to_bytes(8, "big") + each.hash for each in (left, right)
    )
    return Sum(left.amount + right.amount, left.count + right.count, sha256(b"\x01" + packed).digest())


@pytest.mark.parametrize("size", range(1, SIZE_MAX + 1))
def test_every_leaf_of_every_size_is_proven(size: int) -> None:
    """The root is that of the definition, built whole or as leaves come, and each leaf has a proof that holds."""
    tree = SumTree(LEAVES[:size])

    assert tree.root == by_the_book(LEAVES[:size]) == sum_root(iter(LEAVES[:size]))
    assert (tree.root.count, tree.root.amount) == (size, sum(leaf.amount for leaf in LEAVES[:size]))
    for index in range(size):
        proof = tree.proof(index)
        check_proof(tree.root, LEAVES[index], proof)
        assert len(proof.path) <= (size - 1).bit_length()


@given(SIZES, st.data())
def test_a_proof_holds_for_its_own_leaf_and_place_only(size: int, data: st.DataObject) -> None:
    """No leaf passes with the proof of another place, and no index or size but the true ones."""
    tree = SumTree(LEAVES[:size])
    index, other = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, SIZE_MAX - 1))
    proof = tree.proof(index)
    wrong_size = data.draw(st.integers(-1, 2 * SIZE_MAX).filter(lambda number: number != size))
    wrong_index = data.draw(st.integers(-1, 2 * SIZE_MAX).filter(lambda number: number != index))

    if other != index:
        with pytest.raises(EpochInvalid, match=r"sums to|does not lead"):
            check_proof(tree.root, LEAVES[other], proof)
    with pytest.raises(EpochInvalid, match="the root has"):
        check_proof(tree.root, LEAVES[index], replace(proof, size=wrong_size))
    with pytest.raises(EpochInvalid, match=r"the proof is of leaf|the path has|counts|does not lead"):
        check_proof(tree.root, LEAVES[index], replace(proof, index=wrong_index))


@given(st.integers(2, SIZE_MAX), st.data())
def test_any_flipped_byte_is_refused_with_its_reason(size: int, data: st.DataObject) -> None:
    """Amount, count or hash of the leaf, of the root or of a node of the path: one bit off is refused, and says why."""
    tree = SumTree(LEAVES[:size])
    index = data.draw(st.integers(0, size - 1))
    proof = tree.proof(index)
    parts = [LEAVES[index], tree.root, *proof.path]
    which = data.draw(st.integers(0, len(parts) - 1))
    at = data.draw(st.integers(0, NODE_BYTES * 8 - 1))
    flipped = bytearray(parts[which].packed())
    flipped[at // 8] ^= 1 << at % 8

    def check() -> None:
        parts[which] = unpacked(bytes(flipped))
        check_proof(parts[1], parts[0], replace(proof, path=tuple(parts[2:])))

    with pytest.raises(EpochInvalid) as caught:
        check()
    expected = ["amount", "sums to", "sum to"] if at < 64 else ["count", "the root has"] if at < 128 else ["lead"]
    assert any(word in str(caught.value) for word in expected)


@given(st.integers(2, SIZE_MAX), st.data())
def test_a_path_cannot_be_longer_shorter_or_in_another_order(size: int, data: st.DataObject) -> None:
    """Nodes that are left out, added or swapped are refused."""
    tree = SumTree(LEAVES[:size])
    index = data.draw(st.integers(0, size - 1))
    proof = tree.proof(index)
    shuffled = tuple(data.draw(st.permutations(proof.path)))

    for path in (proof.path[1:], proof.path[:-1], (*proof.path, proof.path[0])):
        with pytest.raises(EpochInvalid, match="the path has"):
            check_proof(tree.root, LEAVES[index], replace(proof, path=path))
    if shuffled != proof.path:
        with pytest.raises(EpochInvalid):
            check_proof(tree.root, LEAVES[index], replace(proof, path=shuffled))


def test_an_inner_node_is_no_leaf() -> None:
    """A node over two leaves cannot be passed off as one leaf, and an odd leaf is not repeated."""
    two, root = joined(LEAVES[0], LEAVES[1]), SumTree(LEAVES[:3]).root

    with pytest.raises(EpochInvalid, match="counts 2, expected 1"):
        check_proof(root, two, Proof(0, 3, (LEAVES[2],)))
    assert root != SumTree([*LEAVES[:3], LEAVES[2]]).root


def test_the_empty_tree_has_no_leaf() -> None:
    """An hour without receipts has a root, which proves nothing."""
    assert SumTree([]).root == sum_root([]) == EMPTY == by_the_book([])
    with pytest.raises(IndexError):
        SumTree([]).proof(0)
    with pytest.raises(EpochInvalid, match="leaf 0 of 0"):
        check_proof(EMPTY, LEAVES[0], Proof(0, 0, ()))


def test_amounts_end_where_records_end() -> None:
    """A sum that no record could hold is refused, not wrapped round."""
    full = sum_leaf(AMOUNT_MAX, b"")

    assert SumTree([full]).root.amount == AMOUNT_MAX
    for over in (lambda: SumTree([full, LEAVES[0]]), lambda: sum_root([full, LEAVES[0]])):
        with pytest.raises(EpochInvalid, match="sum to more"):
            over()
    for amount in (-1, AMOUNT_MAX + 1):
        with pytest.raises(EpochInvalid, match="expected 0 to"):
            sum_leaf(amount, b"")


@pytest.mark.parametrize("size", [0, NODE_BYTES - 1, NODE_BYTES + 1])
def test_a_packed_node_has_one_size(size: int) -> None:
    """Only 48 bytes are a node, and they say what was packed."""
    with pytest.raises(EpochInvalid, match=f"has {size} bytes"):
        unpacked(bytes(size))
    assert unpacked(LEAVES[3].packed()) == LEAVES[3]
