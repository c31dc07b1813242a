"""What of a connection's bytes the parser sees: good requests as they are, however they are cut; of bad ones none."""

from __future__ import annotations

import io
from contextlib import suppress

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxp2p_gateway.framing import (
    CHUNK_FRAMES_BYTES_MAX,
    CHUNK_LINE_BYTES_MAX,
    HEAD_BYTES_MAX,
    HEADERS_MAX,
    POISON,
    TRAILERS_BYTES_MAX,
    Framing,
    origin_form,
)

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n"
LENGTH = HEAD + b"Content-Length: "
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
GET = b"GET /a?b=%20 HTTP/1.1\r\nHost: [::1]:80\r\n\r\n"
GOOD = [
    GET,
    GET * 3,
    HEAD + b"Content-Length: 5\r\n\r\n\r\n\0\n " + GET,
    HEAD + b"content-length:0\t\r\n\r\n" + GET,
    CHUNKED + b'5\r\n\r\n0\r\n\r\nA;x="y"\r\n0123456789\r\n000\r\nX: y\r\nZ:\r\n\r\n' + GET,
    HEAD.replace(b"Host", b"TRANSFER-ENCODING: Chunked\r\nhOST") + b"\r\n0\r\n\r\n" + GET,
    b"GET http://x/y HTTP/1.1\r\nHost: z\r\n\r\n" + b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n" + GET,
    b"PRI * HTTP/2.0\r\n\r\n",
    HEAD + b"X: caf\xc3\xa9 \t tab\r\nHost2:\r\nx_y~!: z\r\n\r\n",
]


def seen(data: bytes, step: int = 10**9) -> tuple[bytes, int | None]:
    """What the parser sees of `data` that comes `step` bytes at a time, and what it was refused with."""
    framing = Framing()
    passed = b"".join(framing.feed(data[at : at + step]) for at in range(0, len(data), step))
    return passed, framing.refused


@pytest.mark.parametrize("data", GOOD)
@pytest.mark.parametrize("step", [1, 2, 3, 7, 10**9])
def test_good_requests_are_seen_as_they_are(data: bytes, step: int) -> None:
    """Byte by byte or at once."""
    assert seen(data, step) == (data, None)


@pytest.mark.parametrize("step", [1, 10**9])
def test_one_empty_line_before_a_request_is_dropped(step: int) -> None:
    """Behind a body or at the start (RFC 9112, 2.2); a second one is none of a request."""
    body = HEAD + b"Content-Length: 2\r\n\r\n{}"
    assert seen(b"\r\n" + body + b"\r\n" + GET, step) == (body + GET, None)
    assert seen(b"\r\n\r\n" + body, step) == (POISON, 400)


def test_after_a_flaw_nothing_is_seen() -> None:
    framing = Framing()
    assert framing.feed(GET + b"GET /\n\r\n" + GET) == GET + POISON
    assert framing.feed(GET) == b""
    assert framing.refused == 400


@pytest.mark.parametrize(
    ("below", "above", "status"),
    [
        (HEAD + b"X: y\r\n" * (HEADERS_MAX - 1) + b"\r\n", HEAD + b"X: y\r\n" * HEADERS_MAX + b"\r\n", 431),
        (
            HEAD + b"X: " + b"y" * (HEAD_BYTES_MAX - len(HEAD) - 7) + b"\r\n\r\n",
            HEAD + b"X: " + b"y" * (HEAD_BYTES_MAX - len(HEAD) - 6) + b"\r\n\r\n",
            431,
        ),
        (
            b"GET /" + b"y" * (HEAD_BYTES_MAX - 18) + b" HTTP/1.1\r\n",
            b"GET /" + b"y" * (HEAD_BYTES_MAX - 15) + b" HTTP/1.1\r\n",
            431,
        ),
        (
            CHUNKED + b"1;" + b"y" * (CHUNK_LINE_BYTES_MAX - 4) + b"\r\nz\r\n",
            CHUNKED + b"1;" + b"y" * (CHUNK_LINE_BYTES_MAX - 3) + b"\r\nz\r\n",
            400,
        ),
        (CHUNKED + b"FFFFFFFF\r\n", CHUNKED + b"100000000\r\n", 400),
        (
            CHUNKED + b"0\r\nX:" + b"y" * (TRAILERS_BYTES_MAX - 6) + b"\r\n\r\n",
            CHUNKED + b"0\r\nX:" + b"y" * (TRAILERS_BYTES_MAX - 5) + b"\r\n\r\n",
            400,
        ),
        (
            HEAD + b"Content-Length: " + b"9" * 18 + b"\r\n\r\n",
            HEAD + b"Content-Length: " + b"9" * 19 + b"\r\n\r\n",
            400,
        ),
    ],
    ids="headers head target chunk-line chunk trailers length".split(),
)
def test_every_limit_holds_at_its_last_byte(below: bytes, above: bytes, status: int) -> None:
    """What is as large as may be is seen; one more is refused, and no more of it is kept."""
    for step in (1000, 10**9):
        assert seen(below, step) == (below, None)
        passed, refused = seen(above, step)
        assert refused == status
        assert passed.endswith(POISON)


def test_a_body_of_tiny_chunks_ends_before_its_frames_weigh_more_than_bodies_may() -> None:
    """Line ends and sizes count as well."""
    framing = Framing()
    framing.feed(CHUNKED)
    most = CHUNK_FRAMES_BYTES_MAX // len(b"1\r\n\r\n")
    framing.feed(b"1\r\nz\r\n" * most)
    assert framing.refused is None
    framing.feed(b"1\r\nz\r\n")
    assert framing.refused == 400


@pytest.mark.parametrize("data", [b"\x16\x03\x01", b"\x00", b" ", b"\n", b"\x81", b"g", b"{"])
def test_what_is_no_request_is_known_by_its_first_byte(data: bytes) -> None:
    """TLS, for instance, has no line ends to wait for."""
    assert seen(data) == (POISON, 400)


@pytest.mark.parametrize(
    ("target", "path", "host"),
    [
        (b"/a?b", b"/a?b", None),
        (b"*", b"*", None),
        (b"http://x/a?b", b"/a?b", b"x"),
        (b"HTTPS://x:1?b", b"/?b", b"x:1"),
        (b"http://x", b"/", b"x"),
        (b"//x/a", b"//x/a", None),
    ],
)
def test_a_url_as_a_target_names_path_and_host(target: bytes, path: bytes, host: bytes | None) -> None:
    assert origin_form(target) == (path, host)


LINES = st.sampled_from(
    [b"GET / HTTP/1.1\r\n", b"POST /x HTTP/1.1\r\n", b"GET / HTTP/1.1\n", b"GET / HTTP/1.0\r\n", b""]
)
FIELDS = st.sampled_from(
    [
        b"X: y\r\n",
        b"X: y\n",
        b"X: y\r",
        b" folded\r\n",
        b"Content-Length: 3\r\n",
        b"Content-Length: 3, 3\r\n",
        b"Content-Length : 3\r\n",
        b"Content-Length: +3\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Transfer-Encoding:\r\n chunked\r\n",
    ]
)
BODIES = st.sampled_from(
    [
        b"abc",
        b"3\r\nabc\r\n",
        b"3;x\r\nabc\r\n",
        b"3\nabc\r\n",
        b"3\r\nabcXX",
        b"0\r\n\r\n",
        b"0\n\n",
        b"0\r\nX: y\n\n",
        b"0\r\n",
        b"\r\n",
        GET,
    ]
)
REQUESTS = st.tuples(
    LINES,
    st.just(b"Host: x\r\n"),
    st.lists(FIELDS, max_size=3).map(b"".join),
    st.sampled_from([b"\r\n", b"\r\n", b"\n", b""]),
    st.lists(BODIES, max_size=3).map(b"".join),
).map(b"".join)
STREAMS = st.lists(REQUESTS | st.sampled_from(GOOD) | st.binary(max_size=4), max_size=3).map(b"".join)


Request = tuple[bytes, bytes, bytes]
"""Method, target, body."""


def read(data: bytes) -> list[Request] | None:
    """The whole requests that h11 reads; None if it reads an error."""
    parser = h11.Connection(h11.SERVER)
    parser.receive_data(data)
    requests: list[Request] = []
    head, body = (b"", b""), b""
    try:
        while True:
            match parser.next_event():
                case h11.Request() as event:
                    head, body = (event.method, event.target), b""
                case h11.Data() as event:
                    body += event.data
                case h11.EndOfMessage():
                    requests.append((*head, body))
                    parser.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
                    parser.send(h11.EndOfMessage())
                    if parser.our_state is h11.MUST_CLOSE:
                        return requests
                    parser.start_next_cycle()
                case _:
                    return requests
    except h11.RemoteProtocolError:
        return None


def read_by_another(data: bytes) -> list[Request]:
    """The whole requests that a careless server reads: any line end, folds, lengths before chunks."""
    lines = io.BytesIO(data)
    requests: list[Request] = []

    def line() -> bytes:
        got = lines.readline()
        if not got.endswith(b"\n"):
            raise EOFError
        return got.strip(b"\r\n")

    def exactly(size: int) -> bytes:
        got = lines.read(size)
        if len(got) < size:
            raise EOFError
        return got

    with suppress(EOFError, ValueError):
        while True:
            method, target, _ = line().split(b" ")
            fields: dict[bytes, bytes] = {}
            while field := line():
                name, _, value = field.partition(b":")
                fields.setdefault(name.strip().lower(), value.strip().lower())
            if b"content-length" in fields:
                body = exactly(int(fields[b"content-length"]))
            elif b"chunked" in fields.get(b"transfer-encoding", b""):
                body = b""
                while size := int(line().partition(b";")[0], 16):
                    body += exactly(size)
                    line()
                while line():
                    pass
            else:
                body = b""
            requests.append((method, target, body))
    return requests


@given(STREAMS, st.integers(1, 9))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_it_matters_not_how_bytes_are_cut(data: bytes, step: int) -> None:
    """Networks cut where they like: what is seen and refused is the same."""
    assert seen(data, step) == seen(data)


@given(STREAMS)
@settings(max_examples=500, deadline=None, derandomize=True)
def test_what_is_let_through_is_read_alike_by_careless_servers(data: bytes) -> None:
    """Two parsers that differ in all that parsers differ in find the same requests; POISON is always an error."""
    passed, refused = seen(data)
    requests = read(passed)
    if refused is None and requests is not None:
        others = read_by_another(passed)
        assert others[: len(requests)] == requests  # h11 stops behind HTTP/1.0
        assert len(others) == len(requests) or b"HTTP/1.0" in data or b"HTTP/2.0" in data
    elif refused is not None and b"HTTP/1.0" not in data:
        assert requests is None
