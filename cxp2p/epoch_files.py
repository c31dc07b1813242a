"""A published epoch as bytes: the signed root, then each receipt with its countersign, in the leaves' order. Pure.

It is a sequence of frames as on the wire, `uvarint length ‖ CBOR`, without tags: one `Head`, then `Pair`s. It is read
in the memory of one receipt, however many there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from cxp2p import protocols
from cxp2p.epochs import Entry, Tally, check_total, open_entry, open_root
from cxp2p.errors import EpochInvalid, RemoteProtocolError
from cxp2p.kinds import Blob, record
from cxp2p.records import EpochRoot
from cxp2p.wire import FrameReader, decode, encode_bare_frame

HEAD_BYTES_MAX = protocols.ENVELOPE_BYTES_MAX + 64  # an envelope and the name of its field
PAIR_BYTES_MAX = 2 * HEAD_BYTES_MAX


@record
class Head:
    """First: the root's envelope."""

    root: Blob


@record
class Pair:
    """Then, for each leaf: the envelopes that it is made of."""

    receipt: Blob
    countersign: Blob


@dataclass(frozen=True, slots=True)
class Published:
    """An epoch that is being read. `entries` gives each receipt once it was checked, and ends only if all is true."""

    root: EpochRoot
    root_envelope: bytes
    entries: Iterator[Entry]


def published(root_envelope: bytes, entries: Iterable[Entry]) -> Iterator[bytes]:
    """The frames of a file. `entries` are in the order that `close_epoch` gave them."""
    yield encode_bare_frame(Head(root=root_envelope))
    for entry in entries:
        yield encode_bare_frame(Pair(receipt=entry.receipt_envelope, countersign=entry.countersign_envelope))


def read_epoch(chunks: Iterable[bytes]) -> Published:
    """What a file holds, as its bytes come. Raises EpochInvalid, with the reason; so does `entries`, up to its end."""
    frames = _frames(chunks)
    first = next(frames, None)
    if first is None:
        raise EpochInvalid("the file is empty, expected an epoch's root")
    try:
        head = decode(Head, first)
    except RemoteProtocolError as error:
        raise EpochInvalid(f"the file does not begin with an epoch's root: {error}") from None
    root = open_root(head.root)
    return Published(root, head.root, _entries(root, frames))


def _entries(root: EpochRoot, frames: Iterator[bytes]) -> Iterator[Entry]:
    tally = Tally(root.gateway, root.epoch)
    number = 0
    for number, frame in enumerate(frames, 1):
        if number > root.count:
            raise EpochInvalid(f"there are more receipts than the {root.count} that the root counts")
        try:
            pair = decode(Pair, frame)
            entry = open_entry(pair.receipt, pair.countersign)
            tally.add(entry)
        except EpochInvalid as error:
            raise EpochInvalid(f"receipt {number} of {root.count}: {error}", error.evidence) from None
        except RemoteProtocolError as error:
            raise EpochInvalid(f"receipt {number} of {root.count}: {error}") from None
        yield entry
    check_total(root, tally.total())


def _frames(chunks: Iterable[bytes]) -> Iterator[bytes]:
    reader, read = FrameReader(HEAD_BYTES_MAX), 0
    try:
        for chunk in chunks:
            reader.feed(chunk)
            while (body := reader.next_body()) is not None:
                yield body
                reader.bytes_max, read = PAIR_BYTES_MAX, read + 1
    except RemoteProtocolError as error:
        if isinstance(error, EpochInvalid):
            raise
        where = f"after {read - 1} receipts" if read else "at its beginning"
        raise EpochInvalid(f"the file is no published epoch, {where}: {error}") from None
    if not reader.empty:
        raise EpochInvalid(f"the file ends in the middle of {f'receipt {read}' if read else 'its root'}")
