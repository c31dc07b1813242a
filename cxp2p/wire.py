"""Bytes to values and back: the only place where a stranger's bytes are decoded.

A record is a CBOR map (RFC 8949) of its field names. A frame is `uvarint length ‖ CBOR [tag, body]`; the length is
checked against a limit before a byte of the frame is buffered. Decoding is strict: unknown or missing fields, wrong
types, duplicate keys, indefinite lengths, tags, trailing bytes and deep nesting are all RemoteProtocolError.
"""

from __future__ import annotations

import io
from types import MappingProxyType
from typing import Any, Final, NoReturn, TypeVar

import cbor2
from pydantic import TypeAdapter, ValidationError

from cxp2p import protocols
from cxp2p.epoch_frames import (
    EpochAbsent,
    FileWanted,
    InclusionSent,
    PairSent,
    ProofWanted,
    RootSent,
    RootWanted,
)
from cxp2p.errors import LocalProtocolError, RemoteProtocolError, one_line
from cxp2p.records import (
    Accepted,
    Ask,
    Cancel,
    ClaimRefused,
    ClaimSent,
    CountersignSent,
    Failure,
    OfferSent,
    OffersKnown,
    OffersWanted,
    Piece,
    ReceiptSent,
    Refusal,
    VoucherSent,
)

T = TypeVar("T")

RECORD_OF_TAG: Final = MappingProxyType(
    {
        protocols.TAG_ASK: Ask,
        protocols.TAG_ACCEPTED: Accepted,
        protocols.TAG_REFUSAL: Refusal,
        protocols.TAG_PIECE: Piece,
        protocols.TAG_CANCEL: Cancel,
        protocols.TAG_RECEIPT: ReceiptSent,
        protocols.TAG_COUNTERSIGN: CountersignSent,
        protocols.TAG_FAILURE: Failure,
        protocols.TAG_VOUCHER: VoucherSent,
        protocols.TAG_OFFERS_WANTED: OffersWanted,
        protocols.TAG_OFFERS_KNOWN: OffersKnown,
        protocols.TAG_OFFER: OfferSent,
        protocols.TAG_CLAIM: ClaimSent,
        protocols.TAG_CLAIM_REFUSED: ClaimRefused,
        protocols.TAG_ROOT_WANTED: RootWanted,
        protocols.TAG_FILE_WANTED: FileWanted,
        protocols.TAG_PROOF_WANTED: ProofWanted,
        protocols.TAG_ROOT: RootSent,
        protocols.TAG_PAIR: PairSent,
        protocols.TAG_INCLUSION: InclusionSent,
        protocols.TAG_EPOCH_ABSENT: EpochAbsent,
    }
)
_TAG_OF_RECORD: Final = {kind: tag for tag, kind in RECORD_OF_TAG.items()}

UVARINT_BYTES_MAX: Final = 4  # 2**28 bytes, above every limit here
FAULT_CHARS_MAX: Final = 120


_adapters: Final[dict[type, TypeAdapter[Any]]] = {}


def _adapter(kind: type) -> TypeAdapter[Any]:
    adapter = _adapters.get(kind)
    if adapter is None:
        adapter = _adapters[kind] = TypeAdapter(kind)
    return adapter


def encode(value: object) -> bytes:
    """A record as a CBOR map of its fields, but those at their defaults. The same value gives the same bytes."""
    return cbor2.dumps(_adapter(type(value)).dump_python(value, exclude_defaults=True))


def decode(kind: type[T], data: bytes) -> T:
    """The record of type `kind` in `data`. Raises RemoteProtocolError, which names the field and the fault."""
    return _validated(kind, _loads(data))


def encode_frame(value: object) -> bytes:
    """One frame that holds a record. Raises LocalProtocolError if it has no tag."""
    tag = _TAG_OF_RECORD.get(type(value))
    if tag is None:
        raise LocalProtocolError(f"{type(value).__name__} has no frame tag: add it to protocols.py and wire.py")
    body = cbor2.dumps([tag, _adapter(type(value)).dump_python(value, exclude_defaults=True)])
    return encode_uvarint(len(body)) + body


def encode_bare_frame(value: object) -> bytes:
    """One frame without a tag, where all frames hold the same kind of record."""
    body = encode(value)
    return encode_uvarint(len(body)) + body


def decode_frame(body: bytes) -> object:
    """The record in one frame without its length. Raises RemoteProtocolError."""
    parts = _loads(body)
    if not isinstance(parts, list) or len(parts) != 2 or type(parts[0]) is not int:
        raise RemoteProtocolError("a frame must be a CBOR array of a tag and a body")
    kind = RECORD_OF_TAG.get(parts[0])
    if kind is None:
        raise RemoteProtocolError(f"unknown frame tag {parts[0]}")
    return _validated(kind, parts[1])


class FrameReader:
    """Cuts a byte stream into frames, however the network cut it.

    `bytes_max` bounds the next frame and may be changed between frames. At most one frame and one read are buffered.
    """

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Adds what the network delivered."""
        self._buffer += data

    def next(self) -> object | None:
        """The next whole frame's record, or None when more bytes are needed. Raises RemoteProtocolError."""
        body = self.next_body()
        return None if body is None else decode_frame(body)

    def next_body(self) -> bytes | None:
        """The same of a stream whose frames have no tag: what is in the next one, not decoded."""
        header = _uvarint(self._buffer)
        if header is None:
            return None
        length, start = header
        if length > self.bytes_max:
            raise RemoteProtocolError(f"a frame of {length} bytes is over the limit of {self.bytes_max}")
        if len(self._buffer) < start + length:
            return None
        body = bytes(self._buffer[start : start + length])
        del self._buffer[: start + length]
        return body

    @property
    def empty(self) -> bool:
        """Whether the stream may end here: no part of a frame is waiting."""
        return not self._buffer


def encode_uvarint(number: int) -> bytes:
    """Unsigned LEB128 (multiformats unsigned-varint)."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _uvarint(data: bytearray) -> tuple[int, int] | None:
    number = 0
    for index in range(min(len(data), UVARINT_BYTES_MAX)):
        byte = data[index]
        number |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if byte == 0 and index > 0:
                raise RemoteProtocolError("a frame length is not minimally encoded")
            return number, index + 1
    if len(data) >= UVARINT_BYTES_MAX:
        raise RemoteProtocolError(f"a frame length is longer than {UVARINT_BYTES_MAX} bytes")
    return None


def _refuse_tag(decoder: object, tag: object) -> NoReturn:
    raise RemoteProtocolError("CBOR tags are not allowed")


# Tags that cbor2 decodes by itself; each is refused, as a record holds only plain values.
_NO_TAGS: Final = dict.fromkeys((*range(6), *range(21, 38), 43, 100, 258, 260, 261, 1004, 43000, 55799), _refuse_tag)


def _check_items(data: bytes) -> None:
    """Refuses what is small to send and huge to hold: a megabyte of empty maps takes gigabytes and seconds to decode.

    Walks the heads of the items (RFC 8949, 3) up to the limit; whether they are well-formed is for the decoder to say.
    """
    at = 0
    for _ in range(protocols.CBOR_ITEMS_MAX):
        if at >= len(data):
            return
        major, argument = data[at] >> 5, data[at] & 0x1F
        at += 1
        if argument >= 24:
            width = 1 << (argument - 24)
            if width > 8:
                return  # an indefinite length or a reserved head: the decoder refuses it
            argument = int.from_bytes(data[at : at + width], "big")
            at += width
        if major in (2, 3):
            at += argument  # the bytes of a string
    if at < len(data):
        raise RemoteProtocolError(f"a body of more than {protocols.CBOR_ITEMS_MAX} items")


def _loads(data: bytes) -> Any:
    if len(data) > protocols.FRAME_BYTES_MAX:
        _check_items(data)
    source = io.BytesIO(data)
    decoder = cbor2.CBORDecoder(
        source,
        tag_hook=_refuse_tag,
        semantic_decoders=_NO_TAGS,
        max_depth=protocols.CBOR_DEPTH_MAX,
        allow_indefinite=False,
        allow_duplicate_keys=False,
        strict_hashable_types=True,
    )
    try:
        value = decoder.decode()
    except (cbor2.CBORDecodeError, ValueError, TypeError, OverflowError) as error:
        raise RemoteProtocolError(f"not valid CBOR: {one_line(str(error), FAULT_CHARS_MAX)}") from None
    if source.tell() != len(data):
        raise RemoteProtocolError("not valid CBOR: bytes after the end")
    return value


def _validated(kind: type[T], value: object) -> T:
    try:
        record: T = _adapter(kind).validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        # An unknown field's name is a stranger's: it goes to logs and back to the peer, so short and printable.
        raise RemoteProtocolError(f"{kind.__name__}.{one_line(where, FAULT_CHARS_MAX)}: {first['msg']}") from None
    return record
