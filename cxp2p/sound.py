"""The samples of speech as the network has them, and what an asker makes of them. Pure.

22,050 a second, 16 bits signed, little-endian, one channel.
"""

from __future__ import annotations

import struct
from typing import Final

from cxp2p.records import Finish

RATE: Final = 22_050
SAMPLE_BYTES: Final = 2
JOINT_BYTES: Final = 441 * SAMPLE_BYTES  # 20 ms: what two runs must have alike where one goes on for the other
SMOOTHED: Final = 110  # samples, 5 ms
ALIKE_MAX: Final = 8  # of 32,768: how far processors may differ that make the same sound


def milliseconds(byte_count: int) -> int:
    """The length of so many bytes, rounded down."""
    return byte_count * 1000 // (SAMPLE_BYTES * RATE)


def fault_of(finish: Finish, byte_count: int, units: int) -> str:
    """What is wrong with a whole answer; nothing if it is as long as its node says, or was cancelled."""
    if finish is Finish.LENGTH:
        return "the text was not read to its end"
    if finish is not Finish.STOP:
        return ""
    ms = milliseconds(byte_count)
    return "" if byte_count % SAMPLE_BYTES == 0 and abs(ms - units) <= 1 else f"{units} ms are claimed, {ms} came"


def fault_so_far(byte_count: int, units: int) -> bool:
    """Whether a node has claimed more than it has sent. The milliseconds of a long piece come with its last part."""
    return units > milliseconds(byte_count) + 1


def joined(told: bytes, before: bytes, after: bytes) -> bytes:
    """`after`, as it is heard after `told`, where another run went on: `before` is what that one had in its place.

    The same text sounds the same wherever it is made, so that mostly both are alike and nothing has to be done.
    Otherwise the step between them is taken in 5 ms, and not heard as a click. All are whole samples.
    """
    if told == before or not told or not after or len(told) != len(before):
        return after
    was, would_be = _numbers(told), _numbers(before)
    if all(abs(a - b) <= ALIKE_MAX for a, b in zip(was, would_be, strict=True)):
        return after
    step, numbers = was[-1] - would_be[-1], list(_numbers(after))
    for at in range(min(SMOOTHED, len(numbers))):
        numbers[at] = max(-32_768, min(32_767, numbers[at] + round(step * (1 - at / SMOOTHED))))
    return struct.pack(f"<{len(numbers)}h", *numbers)


def _numbers(data: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(data) // SAMPLE_BYTES}h", data)
