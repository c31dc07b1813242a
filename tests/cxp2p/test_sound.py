"""Where another run of a job goes on, the listener hears no seam; and what nodes may claim of their sound."""

from __future__ import annotations

import math
import struct

import pytest

from cxp2p.records import Finish
from cxp2p.sound import JOINT_BYTES, RATE, SMOOTHED, fault_of, fault_so_far, joined, milliseconds


def tone(first: int, last: int, *, level: int = 9000, shift: int = 0) -> bytes:
    numbers = (round(level * math.sin(2 * math.pi * 200 * at / RATE)) + shift for at in range(first, last))
    return struct.pack(f"<{last - first}h", *numbers)


def numbers(data: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(data) // 2}h", data)


TOLD, AFTER = tone(0, JOINT_BYTES // 2), tone(JOINT_BYTES // 2, 4000)


def test_the_same_sound_goes_on_as_it_is() -> None:
    """Also if another processor has rounded it a little differently; and at the very beginning."""
    assert joined(TOLD, TOLD, AFTER) == AFTER
    assert joined(TOLD, tone(0, JOINT_BYTES // 2, shift=3), AFTER) == AFTER
    assert joined(b"", b"", AFTER) == AFTER
    assert joined(TOLD, tone(0, JOINT_BYTES // 2, shift=900), b"") == b""


@pytest.mark.parametrize("shift", [900, -30_000])
def test_another_sound_begins_where_the_last_one_ended(shift: int) -> None:
    """Without a step, and after 5 ms it is as it was made."""
    other = tone(0, 4000, level=2000, shift=shift)
    before, after = other[:JOINT_BYTES], other[JOINT_BYTES:]
    made = joined(TOLD, before, after)
    step = abs(numbers(made)[0] - numbers(TOLD)[-1])

    assert step < 700 < abs(numbers(after)[0] - numbers(TOLD)[-1])
    assert made[2 * SMOOTHED :] == after[2 * SMOOTHED :]
    assert len(made) == len(after)


@pytest.mark.parametrize(
    ("finish", "byte_count", "units", "fault"),
    [
        (Finish.STOP, 2 * RATE, 1000, ""),
        (Finish.STOP, 2 * RATE, 999, ""),
        (Finish.STOP, 2 * RATE, 1002, "1002 ms are claimed, 1000 came"),
        (Finish.STOP, 2 * RATE, 990, "990 ms are claimed, 1000 came"),
        (Finish.STOP, 2 * RATE + 1, 1000, "1000 ms are claimed, 1000 came"),
        (Finish.LENGTH, 2 * RATE, 1000, "the text was not read to its end"),
        (Finish.CANCELLED, 7, 1000, ""),
    ],
)
def test_an_answer_is_as_long_as_its_node_says(finish: Finish, byte_count: int, units: int, fault: str) -> None:
    assert fault_of(finish, byte_count, units) == fault


def test_more_than_was_sent_may_never_be_claimed() -> None:
    """But less, for a while: the length of a piece comes with its last part."""
    assert not fault_so_far(2 * RATE, 1001)
    assert fault_so_far(2 * RATE, 1002)
    assert not fault_so_far(2 * RATE, 0)
    assert milliseconds(2 * RATE - 1) == 999
