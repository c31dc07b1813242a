"""Reads a request's body into JSON, within limits that hold before anything is buffered or parsed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, NoReturn

import trio
from starlette.types import Receive

from cxp2p_gateway.faults import Condition, Fault
from cxp2p_gateway.middleware import ClientGone

BODY_BYTES_MAX: Final = 16 * 1024 * 1024
BODIES_BYTES_MAX: Final = 256 * 1024 * 1024  # of all requests at once: 16 of the largest
BODY_WAIT_S: Final = 120.0  # 16 MiB at 1 Mbit/s take 134 s; honest bodies are 100 times smaller
JSON_DEPTH_MAX: Final = 64
JSON_VALUES_MAX: Final = 2**18  # brackets, commas and colons: Python spends up to 100 bytes and 50 ns on each


class BodyBudget:
    """How many bytes of bodies the gateway holds at once, over all requests."""

    def __init__(self, bytes_max: int = BODIES_BYTES_MAX) -> None:
        self._left = bytes_max

    @contextmanager
    def lease(self) -> Iterator[Lease]:
        """What one request holds; given back when the block ends."""
        lease = Lease(self)
        try:
            yield lease
        finally:
            self._left += lease.held

    def take(self, count: int) -> None:
        """Raises Fault if `count` more bytes are too many."""
        if count > self._left:
            raise Fault(Condition.BODIES_TOO_MANY)
        self._left -= count


class Lease:
    """The share of the budget that one request holds."""

    def __init__(self, budget: BodyBudget) -> None:
        self._budget = budget
        self.held = 0

    def take(self, count: int) -> None:
        self._budget.take(count)
        self.held += count


async def read_json(
    headers: Mapping[str, str], receive: Receive, lease: Lease, *, may_be_empty: bool = False
) -> dict[str, Any]:
    """The JSON object in a request's body; `may_be_empty`: no body is an empty one. Raises Fault, or ClientGone."""
    sound = media_type_is_json(headers)
    body = await _read_body(headers, receive, lease)
    if may_be_empty and not body:
        return {}
    try:
        fields = parse_object(body)
    except Fault:
        if sound is None:
            raise Fault(Condition.MEDIA_TYPE) from None
        raise
    return fields


def media_type_is_json(headers: Mapping[str, str]) -> bool | None:
    """True if the body is said to be JSON, None if nothing is said. Raises Fault if it is said to be something else."""
    if headers.get("content-encoding", "identity").lower() not in {"", "identity"}:
        raise Fault(Condition.CONTENT_ENCODING)
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if not kind:
        return None
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise Fault(Condition.MEDIA_TYPE)
    return True


async def _read_body(headers: Mapping[str, str], receive: Receive, lease: Lease) -> bytes:
    announced = headers.get("content-length", "")
    if announced.isascii() and announced.isdigit() and int(announced[:20]) > BODY_BYTES_MAX:
        raise Fault(Condition.BODY_TOO_LARGE, None, {"limit": BODY_BYTES_MAX})
    body = bytearray()  # not a list: many small chunks would weigh thirty times what is counted
    with trio.move_on_after(BODY_WAIT_S) as patience:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            part = message.get("body", b"")
            if lease.held + len(part) > BODY_BYTES_MAX:
                raise Fault(Condition.BODY_TOO_LARGE, None, {"limit": BODY_BYTES_MAX})
            lease.take(len(part))
            body += part
            if not message.get("more_body", False):
                break
    if patience.cancelled_caught:
        raise Fault(Condition.BODY_TOO_SLOW, None, {"limit": round(BODY_WAIT_S)})
    return bytes(body)


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object that `body` is, as UTF-8 (RFC 8259). Raises Fault."""
    check_shape(body)
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except ValueError:  # bad UTF-8, bad JSON, or an integer of thousands of digits
        raise Fault(Condition.JSON_INVALID) from None
    if not isinstance(value, dict):
        raise Fault(Condition.JSON_INVALID)
    return value


def check_shape(body: bytes) -> None:
    """Refuses JSON that is nested too deep or has too many values, before a parser sees it. Raises Fault.

    Every step over the whole body is one call into C: 16 MiB take milliseconds, whatever is in them.
    """
    bare = body.replace(b"\\\\", b"").replace(b'\\"', b"")  # what quotes remain begin or end a string
    if bare.count(b'"') > 2 * JSON_VALUES_MAX:
        raise Fault(Condition.JSON_TOO_RICH, None, {"limit": JSON_VALUES_MAX})
    outside = b"".join(bare.split(b'"')[::2])
    marks = outside.translate(None, delete=_NO_MARKS)
    if len(marks) > JSON_VALUES_MAX:
        raise Fault(Condition.JSON_TOO_RICH, None, {"limit": JSON_VALUES_MAX})
    depth = 0
    for mark in marks.translate(None, delete=b",:"):
        depth += 1 if mark in b"[{" else -1
        if depth > JSON_DEPTH_MAX:
            raise Fault(Condition.JSON_TOO_DEEP, None, {"limit": JSON_DEPTH_MAX})


_NO_MARKS: Final = bytes(set(range(256)) - set(b"[]{},:"))


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
