"""Bodies: what is read, what is refused, and that nothing a stranger sends costs much."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from cxp2p_gateway import reading
from cxp2p_gateway.faults import Fault
from cxp2p_gateway.reading import BODY_BYTES_MAX, JSON_DEPTH_MAX, JSON_VALUES_MAX, BodyBudget, check_shape, parse_object
from doors import CHAT, Answer, MemoryDoor, ask, chat_body, front, hangs

ALIAS = "/v1/chat/completions"
JSON = {"content-type": "application/json"}
BODY = json.dumps(chat_body()).encode()


async def post(body: bytes, path: str = CHAT, headers: dict[str, str] | None = None, **options: Any) -> Answer:
    headers = JSON if headers is None else headers
    return await ask(front(MemoryDoor()), "POST", path, body=body, headers=headers, **options)


def padded(size: int) -> bytes:
    """A chat request of so many bytes."""
    return BODY[:-1] + b', "x": "' + b"a" * (size - len(BODY) - 9) + b'"}'


def nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


INVALID = "Request body is not valid JSON"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", INVALID),
        (b"{", INVALID),
        (b"[]", INVALID),
        (b'"x"', INVALID),
        (b"null", INVALID),
        (BODY + b"x", INVALID),
        (BODY.replace(b"Hi", b"\xff\xfe"), INVALID),
        (BODY.replace(b"Hi", b"\xed\xa0\x80"), INVALID),
        (b"\xef\xbb\xbf" + BODY, INVALID),
        (BODY.decode().encode("utf-16"), INVALID),
        (BODY[:-1] + b', "temperature": NaN}', INVALID),
        (BODY[:-1] + b', "temperature": Infinity}', INVALID),
        (BODY[:-1] + b', "seed": ' + b"9" * 5000 + b"}", INVALID),
        (BODY.replace(b'"Hi"', b"'Hi'"), INVALID),
        (nested(65), "Request body is nested more than 64 levels deep"),
        (b"[" * 65, "Request body is nested more than 64 levels deep"),
        (b'{"messages": [' + b"1," * 300_000 + b"1]}", "Request body has more than 262144 JSON values"),
    ],
)
async def test_what_is_not_json_is_refused(body: bytes, text: str, autojump_clock: MockClock) -> None:
    """One status and one text, in both renderings."""
    simple, object_ = await post(body), await post(body, ALIAS)
    assert (simple.status, simple.json()) == (400, {"error": text})
    error = {"message": text, "type": "invalid_request_error", "param": None, "code": "invalid_json"}
    assert (object_.status, object_.json()) == (400, {"error": error})


def test_64_levels_are_read() -> None:
    assert parse_object(nested(JSON_DEPTH_MAX))
    brackets = b'{"a": "' + b"[" * 100 + b'\\"' + b"[" * 100 + b'"}'
    assert parse_object(brackets)["a"].count("[") == 200


async def test_the_largest_body_is_read_and_one_byte_more_is_not(autojump_clock: MockClock) -> None:
    """16 MiB: announced, in parts, and in both renderings."""
    whole = padded(BODY_BYTES_MAX)
    assert len(whole) == 16 * 1024 * 1024
    assert (await post(whole)).status == 200
    larger = padded(BODY_BYTES_MAX + 1)
    text = "Request body is larger than 16777216 bytes"
    step = 1024 * 1024
    parts = [(0.0, larger[start : start + step]) for start in range(0, len(larger), step)]
    announced = {**JSON, "content-length": str(len(larger))}
    for options in ({"parts": parts}, {"headers": announced}, {"headers": {**JSON, "content-length": "9" * 30}}):
        simple, object_ = [await post(larger, path, **options) for path in (CHAT, ALIAS)]
        assert (simple.status, simple.json()) == (413, {"error": text})
        error = {"message": text, "type": "invalid_request_error", "param": None, "code": "payload_too_large"}
        assert (object_.status, object_.json()) == (413, {"error": error})


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "application/json; charset=utf-8"}, 200),
        ({"content-type": "APPLICATION/JSON"}, 200),
        ({"content-type": "application/vnd.api+json"}, 200),
        ({}, 200),
        ({"content-type": ""}, 200),
        ({**JSON, "content-encoding": "identity"}, 200),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-type": "multipart/form-data; boundary=application/json"}, 415),
        ({**JSON, "content-encoding": "gzip"}, 415),
    ],
)
async def test_a_body_must_be_said_to_be_json_or_nothing(
    headers: dict[str, str], status: int, autojump_clock: MockClock
) -> None:
    """Without a type it is taken if it parses."""
    answer = await post(BODY, headers=headers)
    assert answer.status == status
    if status == 415:
        assert answer.headers["x-error-code"] == "unsupported_media_type"


async def test_a_body_without_a_type_that_does_not_parse(autojump_clock: MockClock) -> None:
    answer = await post(b"model=x", headers={})
    assert (answer.status, answer.json()) == (415, {"error": "Content-Type must be application/json"})


@pytest.mark.parametrize("drip_s", [5, 1000])
async def test_a_body_has_two_minutes(drip_s: float, autojump_clock: MockClock) -> None:
    """Byte by byte or not at all; then 408, and the connection closes."""
    began = trio.current_time()
    answer = await post(b"", parts=[(0, b"{"), *[(drip_s, b" ")] * 40])
    assert trio.current_time() - began == pytest.approx(120)
    assert (answer.status, answer.json()) == (408, {"error": "Request body did not arrive in 120 seconds"})
    assert answer.headers["connection"] == "close"


async def test_all_bodies_together_have_a_limit(monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock) -> None:
    """Over it new ones are told to come back; what a job held is free when it ends."""
    monkeypatch.setattr(reading.BodyBudget.__init__, "__defaults__", (3 * len(BODY),))
    app = front(MemoryDoor(work=hangs))
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(lambda: ask(app, "POST", CHAT, body=BODY, headers=JSON, leave_after_s=10))
        await trio.sleep(1)
        refused = await ask(app, "POST", CHAT, body=BODY, headers=JSON)
        assert (refused.status, refused.headers["retry-after"]) == (503, "2")
        assert refused.json() == {"error": "No room for more requests right now"}
    waiting = {**JSON, "x-stainless-read-timeout": "1"}
    assert (await ask(app, "POST", CHAT, body=BODY, headers=waiting)).headers["x-error-code"] == "timeout"


def test_a_lease_is_given_back_whatever_happens() -> None:
    budget = BodyBudget(10)
    with budget.lease() as lease:
        lease.take(8)
        with pytest.raises(Fault):
            lease.take(3)
    with budget.lease() as lease:
        lease.take(10)


@pytest.mark.parametrize(
    "body",
    [b"[" * BODY_BYTES_MAX, b'"' * BODY_BYTES_MAX, b"\\" * BODY_BYTES_MAX, b",:" * (BODY_BYTES_MAX // 2)],
)
def test_no_body_takes_long_to_refuse(body: bytes) -> None:
    """16 MiB of anything is refused in well under a second."""
    began = time.perf_counter()
    with pytest.raises(Fault):
        parse_object(body)
    assert time.perf_counter() - began < 2


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text('a"\\[]{},:\n', max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('a"\\[{', max_size=3), inner, max_size=4),
    max_leaves=30,
)


def depth_of(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max((depth_of(each) for each in value.values()), default=0)
    if isinstance(value, list):
        return 1 + max((depth_of(each) for each in value), default=0)
    return 0


@given(JSON_VALUES, st.booleans())
def test_the_shape_is_what_a_parser_would_find(value: Any, ascii_only: bool) -> None:
    """Quotes, backslashes and brackets in strings do not count: real nesting alone does, exactly."""
    text = json.dumps(value, ensure_ascii=ascii_only)
    check_shape(text.encode())
    levels = depth_of(value)
    wrapped = ("[" * (JSON_DEPTH_MAX - levels) + text + "]" * (JSON_DEPTH_MAX - levels)).encode()
    check_shape(wrapped)
    with pytest.raises(Fault):
        check_shape(b"[" + wrapped + b"]")


@given(st.binary(max_size=200) | st.text(st.sampled_from('{}[]",:\\u0d8e1 '), max_size=60).map(str.encode))
def test_any_bytes_are_an_object_or_a_clean_refusal(body: bytes) -> None:
    with suppress(Fault):
        assert isinstance(parse_object(body), dict)


def test_the_values_are_counted_without_a_parser() -> None:
    check_shape(b"[" + b"1," * (JSON_VALUES_MAX - 2) + b"1]")
    with pytest.raises(Fault):
        check_shape(b"[" + b"1," * (JSON_VALUES_MAX - 1) + b"1]")
