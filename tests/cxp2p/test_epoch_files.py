from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxp2p.epoch_files import HEAD_BYTES_MAX, PAIR_BYTES_MAX, published, read_epoch
from cxp2p.epochs import Entry
from cxp2p.errors import EpochInvalid
from cxp2p.records import EpochRoot
from cxp2p.wire import encode_uvarint
from hours import entry, hour

ENVELOPE, ROOT, ENTRIES, _ = hour(*(entry(number % 4, number // 4) for number in range(6)))
FILE = b"".join(published(ENVELOPE, ENTRIES))
FRAMES = list(published(ENVELOPE, ENTRIES))


def read(data: bytes, step: int = 1000) -> tuple[EpochRoot, list[Entry]]:
    epoch = read_epoch(data[start : start + step] for start in range(0, len(data), step))
    return epoch.root, list(epoch.entries)


@pytest.mark.parametrize("step", [1, 7, 65_536])
def test_what_was_published_is_read_again_however_it_is_cut(step: int) -> None:
    """A file gives back its root and its entries."""
    assert read(FILE, step) == (ROOT, list(ENTRIES))


@given(st.integers(0, len(FILE) * 8 - 1))
def test_a_flipped_bit_anywhere_is_refused_with_a_reason(at: int) -> None:
    """No bit of a published epoch is free: not of the frames, the envelopes, the keys or the signatures."""
    flipped = bytearray(FILE)
    flipped[at // 8] ^= 1 << at % 8

    with pytest.raises(EpochInvalid, match=r"\w+ \w+"):
        read(bytes(flipped))


@given(st.integers(0, len(FILE) - 1))
def test_a_file_that_ends_early_is_refused(length: int) -> None:
    """Cut anywhere, it says where it ends or how many receipts are missing."""
    with pytest.raises(EpochInvalid, match=r"is empty|ends in the middle|the root counts 6"):
        read(FILE[:length])


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([], "the file is empty"),
        (FRAMES[1:], "does not begin with an epoch's root: Head"),
        ([FRAMES[0], *FRAMES[2:]], "there are 5 receipts, the root counts 6"),
        ([*FRAMES, FRAMES[-1]], "more receipts than the 6"),
        ([*FRAMES[:2], *FRAMES[1:-1]], "receipt 2 of 6: .* stands twice"),
        ([FRAMES[0], FRAMES[2], FRAMES[1], *FRAMES[3:]], "receipt 2 of 6: .* out of order"),
        ([FRAMES[0], FRAMES[0]], "receipt 1 of 6: Pair"),
        ([encode_uvarint(HEAD_BYTES_MAX + 1)], "at its beginning: a frame of .* over the limit"),
        ([*FRAMES[:3], encode_uvarint(PAIR_BYTES_MAX + 1)], "after 2 receipts: a frame of .* over the limit"),
        ([b"\xff\xff\xff\xff\xff"], "at its beginning"),
    ],
)
def test_frames_that_are_left_out_added_or_moved_are_refused(frames: list[bytes], reason: str) -> None:
    """Each fault of a file is told by its place."""
    with pytest.raises(EpochInvalid, match=reason):
        read(b"".join(frames))


def test_receipts_are_given_before_the_end_and_the_end_is_checked() -> None:
    """A reader of a large file holds one receipt at a time; that the sum is right it learns at the end."""
    other, _, _, _ = hour(*ENTRIES, sum=1)
    epoch = read_epoch(published(other, ENTRIES))

    for expected in ENTRIES:
        assert next(epoch.entries) == expected
    with pytest.raises(EpochInvalid, match="the root says 1"):
        next(epoch.entries)
