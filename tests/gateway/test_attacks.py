"""Requests that are made to be read differently by two servers, over real sockets: none hides a second one.

The list is drawn from RFC 9112 (sections 2.2, 3, 5, 6, 7, 9, 11), RFC 9110 and what is known of servers on h11
(CVE-2025-43859 and its kind: CVE-2025-22871, CVE-2025-55315; reports against Hypercorn of CONNECT, of methods in small
letters and of a length beside chunks).
"""

from __future__ import annotations

import json
import logging

import pytest

from doors import CHAT, KEY, chat_body
from sockets import Listening, listening
from wires import chat, request

HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n"
BODY = json.dumps(chat_body()).encode()
CHUNK = b"%x\r\n%b\r\n" % (len(BODY), BODY)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
OK = b"GET /health HTTP/1.1\r\nHost: x\r\n"


def post(headers: bytes, body: bytes, *, version: bytes = b"1.1", target: str = CHAT, method: bytes = b"POST") -> bytes:
    """A chat request of which one thing is wrong."""
    head = b"%b %b HTTP/%b\r\nHost: x\r\nAuthorization: Bearer %b\r\n" % (
        method,
        target.encode(),
        version,
        KEY.encode(),
    )
    return head + b"Content-Type: application/json\r\n" + headers + b"\r\n" + body


LENGTHS = {
    "length and chunks": post(LENGTH + CHUNKED, CHUNK + b"0\r\n\r\n"),
    "chunks and length": post(CHUNKED + b"Content-Length: 4\r\n", b"0\r\n\r\n"),
    "length 0 and chunks": post(b"Content-Length: 0\r\n" + CHUNKED, b"0\r\n\r\n"),
    "two lengths": post(b"Content-Length: 0\r\n" + LENGTH, BODY),
    "two equal lengths": post(LENGTH + LENGTH, BODY),
    "a list of lengths": post(b"Content-Length: 0, %d\r\n" % len(BODY), BODY),
    "a list of equal lengths": post(b"Content-Length: %d, %d\r\n" % (len(BODY), len(BODY)), BODY),
    "a length with a sign": post(b"Content-Length: +%d\r\n" % len(BODY), BODY),
    "a length below nothing": post(b"Content-Length: -1\r\n", BODY),
    "a length in hexadecimal": post(b"Content-Length: 0x10\r\n", BODY),
    "a length with an underscore": post(b"Content-Length: 1_0\r\n", BODY),
    "a length of other digits": post("Content-Length: ١٢\r\n".encode(), BODY),
    "no length": post(b"Content-Length:\r\n", BODY),
    "a length with a space in it": post(b"Content-Length: 1 0\r\n", BODY),
    "a length that overflows": post(b"Content-Length: 18446744073709551617\r\n", BODY),
    "identity": post(b"Transfer-Encoding: identity\r\n" + LENGTH, BODY),
    "identity alone": post(b"Transfer-Encoding: identity\r\n", b""),
    "chunked, chunked": post(b"Transfer-Encoding: chunked, chunked\r\n", CHUNK + b"0\r\n\r\n"),
    "chunked, identity": post(b"Transfer-Encoding: chunked, identity\r\n", CHUNK + b"0\r\n\r\n"),
    "gzip, chunked": post(b"Transfer-Encoding: gzip, chunked\r\n", CHUNK + b"0\r\n\r\n"),
    "chunked twice": post(CHUNKED + CHUNKED, CHUNK + b"0\r\n\r\n"),
    "chunked with a parameter": post(b"Transfer-Encoding: chunked;q=1\r\n", CHUNK + b"0\r\n\r\n"),
    "xchunked": post(b"Transfer-Encoding: xchunked\r\n" + LENGTH, BODY),
    "chunked in quotes": post(b'Transfer-Encoding: "chunked"\r\n' + LENGTH, BODY),
    "chunked behind a vertical tab": post(b"Transfer-Encoding: \x0bchunked\r\n" + LENGTH, BODY),
    "an empty encoding": post(b"Transfer-Encoding:\r\n" + LENGTH, BODY),
    "chunks in HTTP/1.0": post(CHUNKED, CHUNK + b"0\r\n\r\n", version=b"1.0"),
    "chunks with a space before the colon": post(b"Transfer-Encoding : chunked\r\n" + LENGTH, BODY),
    "a folded encoding": post(b"Transfer-Encoding:\r\n chunked\r\n" + LENGTH, BODY),
    "an encoding folded into another header": post(b"X: y\r\n Transfer-Encoding: chunked\r\n" + LENGTH, BODY),
}

CHUNKS = {
    "a chunk longer than it says": post(CHUNKED, b"1\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "a chunk that ends with other bytes": post(CHUNKED, CHUNK[:-2] + b"XX0\r\n\r\n"),
    "a chunk that ends with a line feed": post(CHUNKED, CHUNK[:-2] + b"\n0\r\n\r\n"),
    "a size that ends with a line feed": post(CHUNKED, b"1\n{\r\n0\r\n\r\n"),
    "a size that ends with a carriage return": post(CHUNKED, b"1\r{\r\n0\r\n\r\n"),
    "a size with 0x": post(CHUNKED, b"0x1\r\n{\r\n0\r\n\r\n"),
    "a size with a sign": post(CHUNKED, b"+1\r\n{\r\n0\r\n\r\n"),
    "a size below nothing": post(CHUNKED, b"-1\r\n{\r\n0\r\n\r\n"),
    "a size with a space before it": post(CHUNKED, b" 1\r\n{\r\n0\r\n\r\n"),
    "a size with a space behind it": post(CHUNKED, b"1 \r\n{\r\n0\r\n\r\n"),
    "a size with an underscore": post(CHUNKED, b"1_0\r\n" + b"{" * 16 + b"\r\n0\r\n\r\n"),
    "no size": post(CHUNKED, b"\r\n{\r\n0\r\n\r\n"),
    "a size that is no number": post(CHUNKED, b"G\r\n{\r\n0\r\n\r\n"),
    "a size over 64 bits": post(CHUNKED, b"10000000000000001\r\n{\r\n0\r\n\r\n"),
    "a size with too many zeros": post(CHUNKED, b"0" * 300 + b"1\r\n{\r\n0\r\n\r\n"),
    "a line feed in an extension": post(CHUNKED, b"1;a\nb\r\n{\r\n0\r\n\r\n"),
    "a carriage return in an extension": post(CHUNKED, b"1;a\rb\r\n{\r\n0\r\n\r\n"),
    "a NUL in an extension": post(CHUNKED, b"1;a\0b\r\n{\r\n0\r\n\r\n"),
    "an extension without an end": post(CHUNKED, b"1;" + b"a" * 100_000),
    "a last chunk that a line feed ends": post(CHUNKED, CHUNK + b"0\n\n"),
    "trailers that line feeds end": post(CHUNKED, CHUNK + b"0\r\nX: y\n\n"),
    "a folded trailer": post(CHUNKED, CHUNK + b"0\r\nX: y\r\n z\r\n\r\n"),
    "a trailer without a colon": post(CHUNKED, CHUNK + b"0\r\nX\r\n\r\n"),
    "a request in the trailers": post(CHUNKED, CHUNK + b"0\r\n" + HIDDEN),
    "huge trailers": post(CHUNKED, CHUNK + b"0\r\n" + b"X: y\r\n" * 100_000 + b"\r\n"),
    "a trailer without an end": post(CHUNKED, CHUNK + b"0\r\nX: " + b"y" * 1_000_000),
}

HEADS = {
    "lines that end with line feeds": OK.replace(b"\r\n", b"\n") + b"\n",
    "one line that ends with a line feed": OK + b"X: y\nContent-Length: 5\r\n\r\n",
    "a head that ends with a line feed": OK + b"\n",
    "a carriage return alone": OK + b"X: y\rZ: z\r\n\r\n",
    "two carriage returns": OK + b"X: y\r\r\n\r\n",
    "a NUL in a value": OK + b"X: y\0z\r\n\r\n",
    "a NUL in a name": OK + b"X\0: y\r\n\r\n",
    "a NUL in the target": OK.replace(b"/health", b"/hea\0lth") + b"\r\n",
    "a control character in a value": OK + b"X: y\x01z\r\n\r\n",
    "a DEL in a value": OK + b"X: y\x7fz\r\n\r\n",
    "a vertical tab in a value": OK + b"X: y\x0bz\r\n\r\n",
    "a header without a name": OK + b": y\r\n\r\n",
    "a header without a colon": OK + b"X\r\n\r\n",
    "a space in a name": OK + b"X Y: z\r\n\r\n",
    "a space before a colon": OK + b"X : y\r\n\r\n",
    "a tab before a colon": OK + b"X\t: y\r\n\r\n",
    "a name of other letters": OK + b"X\xc3\xa9: y\r\n\r\n",
    "a folded header": OK + b"X: y\r\n\tz\r\n\r\n",
    "a fold before any header": OK.replace(b"Host", b" Host") + b"\r\n",
    "no host": b"GET /health HTTP/1.1\r\n\r\n",
    "two hosts": OK + b"Host: y\r\n\r\n",
    "two equal hosts": OK + b"Host: x\r\n\r\n",
    "a host with a path": OK.replace(b": x", b": x/y") + b"\r\n",
    "a host with a user": OK.replace(b": x", b": a@x") + b"\r\n",
    "a host with a space": OK.replace(b": x", b": x y") + b"\r\n",
    "three empty lines first": b"\r\n\r\n\r\n" + OK + b"\r\n",
    "a space first": b" " + OK + b"\r\n",
    "an empty line that is a line feed": b"\n" + OK + b"\r\n",
    "two spaces": OK.replace(b"GET ", b"GET  ") + b"\r\n",
    "a tab for a space": OK.replace(b"GET ", b"GET\t") + b"\r\n",
    "a space behind the version": OK.replace(b"/1.1", b"/1.1 ") + b"\r\n",
    "no version": OK.replace(b" HTTP/1.1", b"") + b"\r\n",
    "a version in small letters": OK.replace(b"HTTP/", b"http/") + b"\r\n",
    "a version of one digit": OK.replace(b"/1.1", b"/1") + b"\r\n",
    "a version of many digits": OK.replace(b"/1.1", b"/1.10") + b"\r\n",
    "no target": OK.replace(b"/health ", b"") + b"\r\n",
    "a space in the target": OK.replace(b"/health", b"/hea lth") + b"\r\n",
    "a target of other letters": OK.replace(b"/health", b"/h\xc3\xa9") + b"\r\n",
    "a target that is no path": OK.replace(b"/health", b"health") + b"\r\n",
    "a target that is a host": OK.replace(b"/health", b"x:80") + b"\r\n",
    "a target that is a star": OK.replace(b"/health", b"*") + b"\r\n",
    "a URL of another scheme": OK.replace(b"/health", b"file:///etc/passwd") + b"\r\n",
    "a URL with a user": OK.replace(b"/health", b"http://a@x/health") + b"\r\n",
    "a URL without a host": OK.replace(b"/health", b"http:///health") + b"\r\n",
    "a broken escape in the target": OK.replace(b"/health", b"/hea%2") + b"\r\n",
    "an escape that is no text": OK.replace(b"/health", b"/%ff") + b"\r\n",
    "a method in small letters": OK.replace(b"GET", b"get") + b"\r\n",
    "a method in mixed letters": OK.replace(b"GET", b"GeT") + b"\r\n",
    "a method with a colon": OK.replace(b"GET", b"G:T") + b"\r\n",
    "a tunnel": b"CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n",
    "a tunnel to a path": OK.replace(b"GET", b"CONNECT") + b"\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"r" * 200,
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "a proxy's own header": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + OK + b"\r\n",
    "an answer": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
}

ALL = {**LENGTHS, **CHUNKS, **HEADS}


async def refuses(here: Listening, data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """`data` gets one answer, 400 in our form, and the end of its connection; what hides behind it is never served."""
    caplog.clear()
    reply, behind = await here.tell(data)
    assert reply is not None
    assert (reply.status, reply.reason, reply.complete) == (400, "Bad Request", True)
    assert reply.json() == {"error": "Malformed HTTP request"}
    assert reply.headers["x-error-code"] == "malformed_request"
    assert reply.headers["connection"] == "close"
    assert behind == b""
    assert "/hidden" not in caplog.text
    assert not any(run.ended_at is None for run in here.door.runs)


@pytest.mark.parametrize("name", ALL)
async def test_an_ambiguous_request_is_the_last_of_its_connection(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """400 and the end, whatever stands behind it; then the next caller is served."""
    caplog.set_level(logging.DEBUG)
    async with listening() as here:
        await refuses(here, ALL[name] + HIDDEN, caplog)
        assert not here.door.runs
        assert await here.serves()


@pytest.mark.parametrize("name", ALL)
async def test_an_ambiguous_request_behind_a_good_one(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """The good one is answered, the other one refused."""
    caplog.set_level(logging.DEBUG)
    async with listening() as here, here.connect() as client:
        await client.say(request(key=None) + chat() + ALL[name] + HIDDEN)
        for status in (200, 200, 400):
            reply = await client.reply()
            assert reply is not None
            assert reply.status == status
        assert await client.rest() == b""
        assert "/hidden" not in caplog.text
        assert len(here.door.runs) == 1
