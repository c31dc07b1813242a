"""Slots of a llama-server, told apart by whose words are in them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cxp2p_node.engines.upstream_slots import Slot, SlotBook


def test_a_slot_is_found_by_its_salt() -> None:
    book = SlotBook(2)
    first = book.take(b"a")
    assert first is not None
    assert first[1] is False
    book.give_back(first[0], b"a")
    again = book.take(b"a")
    assert again == (first[0], True)
    other = book.take(b"a")
    assert other is not None
    assert other[1] is False
    assert book.take(b"a") is None


def test_what_a_job_that_never_began_left_is_not_known() -> None:
    """The words of the one before may still be there."""
    book = SlotBook(1)
    taken = book.take(b"a")
    assert taken is not None
    book.give_back(taken[0], None)
    assert book.take(b"a") == (taken[0], False)


STEPS = st.lists(st.tuples(st.sampled_from([b"", b"a", b"b", b"c"]), st.booleans(), st.integers(0, 5)), max_size=60)


@given(st.integers(1, 4), STEPS)
def test_nothing_is_reused_but_what_the_same_salt_left(count: int, steps: list[tuple[bytes, bool, int]]) -> None:
    """Whatever jobs come, begin or do not, and end in any order; and no slot is lost, or given twice."""
    book = SlotBook(count)
    holds: dict[int, bytes | None] = {}
    running: list[tuple[Slot, bytes]] = []
    for salt, begins, ends in steps:
        if ends < len(running):
            book.give_back(*running.pop(ends))
        taken = book.take(salt)
        assert (taken is None) == (len(running) == count)
        if taken is None:
            continue
        slot, reuse = taken
        assert slot not in [each for each, _ in running]
        assert not reuse or holds[slot.number] == salt
        if begins:
            holds[slot.number] = salt
            running.append((slot, salt))
        else:
            book.give_back(slot, None)
    for slot, salt in running:
        book.give_back(slot, salt)
    assert len([book.take(b"") for _ in range(count)]) == count
