"""The pure rules of fetching: bodies, replies, copies, manners; each of their limits."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxp2p.records import PageFault
from cxp2p_node.scrape import manners
from cxp2p_node.scrape.copies import COPY_BYTES, SHARE, Copies, Copy, RobotsBook
from cxp2p_node.scrape.fetched import Fetched, FetchRefused
from cxp2p_node.scrape.inflate import RATIO_FROM_BYTES, RATIO_MAX, STEP_BYTES, Body
from cxp2p_node.scrape.manners import HOSTS_MAX, Manners
from cxp2p_node.scrape.replies import (
    CONTENT_TYPE_LETTERS_MAX,
    PAUSE_S_MAX,
    PAUSE_S_UNTOLD,
    check_length,
    check_text,
    content_type_of,
    may_be_kept,
    pause_s,
    validators,
)
from cxp2p_node.scrape.robots import Robots, rule_of

URL = "http://a.example/"
WALL_S = 1_800_000_000.0  # Fri, 15 Jan 2027 08:00:00 GMT


def inflated(data: bytes, encoding: str, bytes_max: int, step: int) -> bytes:
    body = Body(encoding, bytes_max)
    for at in range(0, len(data), step):
        body.take(data[at : at + step])
    return body.end()


def raw_deflate(text: bytes) -> bytes:
    squeeze = zlib.compressobj(wbits=-15)
    return squeeze.compress(text) + squeeze.flush()


@given(st.binary(max_size=3000).map(lambda text: text * 50), st.integers(1, 5000))
def test_a_body_is_what_it_was_however_it_comes(text: bytes, step: int) -> None:
    """In pieces of any size; gzip in several members, deflate with and without its two bytes at the beginning."""
    limit = len(text) + 200

    assert inflated(text, "", limit, step) == text
    assert inflated(gzip.compress(text), "gzip", limit, step) == text
    assert inflated(gzip.compress(text[:100]) + gzip.compress(text[100:]), "gzip", limit, step) == text
    assert inflated(zlib.compress(text), "deflate", limit, step) == text
    if step > 1:
        assert inflated(raw_deflate(text), "deflate", limit, step) == text


@pytest.mark.parametrize("beyond", [-1, 0, 1, *range(244, 260), STEP_BYTES, 2 * STEP_BYTES + 250])
def test_nothing_is_left_in_zlib(beyond: int) -> None:
    """It may have taken all there was and still have more: one repetition is up to 258 bytes."""
    size = STEP_BYTES + beyond
    for text in (b"a" * size, (bytes(range(256)) * (size // 256 + 1))[:size]):
        assert inflated(gzip.compress(text), "gzip", size, 1 << 20) == text
        assert inflated(raw_deflate(text), "deflate", size, 1 << 20) == text


def test_a_body_ends_at_its_limit_and_at_its_ratio() -> None:
    """To the byte; and a small page may be compressed as much as it wants."""
    assert inflated(b"x" * 100, "", 100, 7) == b"x" * 100
    for data, encoding in ((b"x" * 101, ""), (gzip.compress(b"x" * 101), "gzip")):
        with pytest.raises(FetchRefused) as caught:
            inflated(data, encoding, 100, 7)
        assert caught.value.fault is PageFault.TOO_LARGE
    flat = gzip.compress(bytes(RATIO_FROM_BYTES))
    assert len(flat) * RATIO_MAX < RATIO_FROM_BYTES
    assert len(inflated(flat, "gzip", 1 << 24, 1000)) == RATIO_FROM_BYTES
    with pytest.raises(FetchRefused, match="compressed more than pages are"):
        inflated(gzip.compress(bytes(2 * RATIO_FROM_BYTES)), "gzip", 1 << 24, 1000)


def test_what_comes_counts_too() -> None:
    """A body that becomes nothing, and never ends, is too large as well."""
    with pytest.raises(FetchRefused) as caught:
        inflated(gzip.compress(b"") * 1000, "gzip", 5000, 100)
    assert caught.value.fault is PageFault.TOO_LARGE


@given(st.binary(max_size=200), st.sampled_from(["gzip", "deflate"]))
def test_any_bytes_are_a_body_or_a_refusal(data: bytes, encoding: str) -> None:
    try:
        inflated(data, encoding, 1000, 20)
    except FetchRefused:
        return


def test_what_stands_after_the_end_is_nobodys() -> None:
    assert inflated(gzip.compress(b"hello") + b"\r\n\0\0", "gzip", 100, 5) == b"hello"


@pytest.mark.parametrize(
    "kind",
    "text/html application/xhtml+xml text/plain text/markdown text/x-markdown application/json text/xml application/xml"
    " application/rss+xml application/atom+xml application/feed+json application/ld+json TEXT/HTML".split(),
)
def test_text_of_these_types_is_read(kind: str) -> None:
    told = f"{kind}; charset=utf-8"
    assert content_type_of({"content-type": f" {told} "}, 200, URL) == told


@pytest.mark.parametrize(
    "kind",
    "application/pdf image/png image/svg+xml video/mp4 application/octet-stream application/zip text/css"
    " text/javascript application/javascript font/woff2 audio/mpeg multipart/form-data html x".split(),
)
def test_anything_else_is_not_read(kind: str) -> None:
    with pytest.raises(FetchRefused) as caught:
        content_type_of({"content-type": kind}, 200, URL)
    assert caught.value.fault is PageFault.UNSUPPORTED_CONTENT_TYPE
    assert (caught.value.status, caught.value.final_url) == (200, URL)


def test_a_type_is_short_and_printable_or_none() -> None:
    assert content_type_of({}, 200, URL) == ""
    assert len(content_type_of({"content-type": "text/html;" + "x" * 1000}, 200, URL)) == CONTENT_TYPE_LETTERS_MAX
    assert content_type_of({"content-type": "text/html; x=\x80y"}, 200, URL) == ""


def test_bytes_of_no_type_must_look_like_text() -> None:
    for body in (b"", b"<p>", "ä".encode(), "x".encode("utf-16"), b"\x1b[1m", b"a" * 2000 + b"\0"):
        check_text("", body, 200, URL)
    check_text("text/html", b"\0", 200, URL)
    for body in (b"\0", b"PK\x03\x04", b"a" * 1000 + b"\x08"):
        with pytest.raises(FetchRefused):
            check_text("", body, 200, URL)


def test_what_a_server_announces_is_believed_if_it_is_too_much() -> None:
    assert check_length({}, 10)
    assert check_length({"content-length": "10"}, 10)
    assert check_length({"content-length": "many"}, 10)
    assert not check_length({"content-length": "11"}, 10)
    assert not check_length({"content-length": "9" * 5000}, 10)


@pytest.mark.parametrize(
    ("status", "told", "pause"),
    [
        (200, "5", 0),
        (404, "5", 0),
        (429, "5", 5),
        (503, "5", 5),
        (503, "0", 0),
        (503, "", 0),
        (503, "soon", 0),
        (503, "-5", 0),
        (503, "1e3", 0),
        (503, "\u0665", 0),
        (429, "", PAUSE_S_UNTOLD),
        (429, "0", PAUSE_S_UNTOLD),
        (503, "9" * 5000, PAUSE_S_MAX),
        (503, "Fri, 15 Jan 2027 08:00:30 GMT", 30),
        (503, "Friday, 15-Jan-27 08:00:30 GMT", 30),
        (503, "Fri, 15 Jan 2027 07:00:00 GMT", 0),
        (503, "Fri, 15 Jan 2099 08:00:00 GMT", PAUSE_S_MAX),
        (503, "Fri, 99 Jan 2027 08:00:30 GMT", 0),
        (503, "Fri, 15 Jan 99999999999 08:00 GMT", 0),
    ],
)
def test_retry_after_is_read_within_bounds(status: int, told: str, pause: float) -> None:
    assert pause_s(status, {"retry-after": told}, WALL_S) == pytest.approx(pause)


@given(st.text(max_size=40))
def test_any_retry_after_is_a_pause(told: str) -> None:
    assert 0 <= pause_s(503, {"retry-after": told}, WALL_S) <= PAUSE_S_MAX


def test_validators_are_what_may_be_sent_back() -> None:
    """A stranger's header goes into a request: only what has the form of one."""
    date = "Fri, 15 Jan 2027 08:00:00 GMT"
    assert validators({"etag": 'W/"a-1"', "last-modified": date}) == {
        "If-None-Match": 'W/"a-1"',
        "If-Modified-Since": date,
    }
    for tag in ("a", '"a', '"a" , "b"', '"' + "a" * 257 + '"', '"a\r\nX: y"', '"a b"', "*"):
        assert validators({"etag": tag}) == {}
    for date in ("x" * 65, "Fri\r\nX: y", "<script>"):
        assert validators({"last-modified": date}) == {}


def test_no_store_is_no_copy() -> None:
    assert may_be_kept({})
    assert may_be_kept({"cache-control": "no-cache, max-age=0, private"})
    assert not may_be_kept({"cache-control": "private,No-Store"})


def page(size: int) -> Copy:
    fetched = Fetched(final_url=URL, status=200, content_type="", body=bytes(size), fetched_at_ms=0)
    return Copy(fetched, at=0.0)


def test_copies_stay_within_their_bytes() -> None:
    """Who was used longest ago goes; what takes too large a part is not kept, and what it replaces is gone."""
    copies = Copies(10 * (COPY_BYTES + 100))
    for number in range(10):
        copies.keep(str(number), page(100))
    assert (len(copies), copies.bytes) == (10, 10 * (COPY_BYTES + 100))
    assert copies.of("0") is not None

    copies.keep("10", page(100))
    assert copies.of("1") is None
    assert copies.of("0") is not None
    copies.keep("0", page(copies.bytes // SHARE))
    assert copies.of("0") is None
    copies.keep("2", page(50))
    copies.drop("none")
    assert copies.bytes == len(copies) * (COPY_BYTES + 100) - 50
    for number in range(11):
        copies.drop(str(number))
    assert (len(copies), copies.bytes) == (0, 0)


def test_no_room_is_no_copies() -> None:
    copies = Copies(0)
    copies.keep(URL, page(0))
    assert copies.young(URL, 1e9, 0.0) is None


def test_a_copy_is_young_to_the_second() -> None:
    copies = Copies(1 << 20)
    copies.keep(URL, page(1))
    young = copies.young(URL, 5, 5.0)
    assert young is not None
    assert young.cached
    assert copies.young(URL, 5, 5.1) is None


def test_what_hosts_said_stays_within_its_bytes() -> None:
    """Who said it longest ago is asked again."""
    large = Robots(tuple(rule_of(False, f"/{number}") for number in range(100)))
    book = RobotsBook(5 * (COPY_BYTES + large.weight))
    for number in range(7):
        book.learn(f"http://{number}.example", large, 10.0)
    book.learn("http://6.example", large, 20.0)

    assert (len(book), book.bytes) == (5, 5 * (COPY_BYTES + large.weight))
    assert book.of("http://1.example", 0.0) is None
    assert book.of("http://2.example", 9.9) is large
    assert book.of("http://2.example", 10.0) is None
    assert book.last("http://2.example") is large
    assert book.of("http://6.example", 19.9) is large


def test_hosts_that_are_remembered_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that matter no more are forgotten first, and of the others who was visited longest ago."""
    monkeypatch.setattr(manners, "HOSTS_MAX", 10)
    some = Manners(1.0)
    for number in range(5):
        some.visited(f"old{number}", 0.0)
    for number in range(6):
        some.pause(f"paused{number}", 5.0, 100.0, 429)
    assert len(some) == 6

    for number in range(6, 12):
        some.pause(f"paused{number}", 5.0, 100.0, 429)
    assert len(some) == 10
    assert some.asked_status("paused0", 6.0) == 0
    assert some.asked_status("paused2", 6.0) == 429
    assert HOSTS_MAX == 8192


def test_a_pause_that_was_asked_for_is_not_shortened() -> None:
    some = Manners(1.0)
    some.pause("a", 0.0, 50.0, 503)
    some.visited("a", 0.0)
    some.pause("a", 0.0, 5.0, 429)

    assert some.next_at("a") == 50.0
    assert some.asked_status("a", 49.0) == 429
    assert some.asked_status("a", 50.0) == 0
    some.visited("a", 60.0, 7.0)
    assert (some.next_at("a"), some.asked_status("a", 61.0)) == (67.0, 0)


def test_two_failures_in_a_row_are_a_rest() -> None:
    """Anything of HTTP between them, and there is none."""
    some = Manners(1.0)
    some.failed("a", 0.0, PageFault.TIMEOUT)
    some.answered("a", 1.0)
    some.failed("a", 2.0, PageFault.TIMEOUT)
    assert some.fault("a", 2.0) is None
    some.failed("a", 3.0, PageFault.DNS_ERROR)
    assert some.fault("a", 3.0) is PageFault.DNS_ERROR
    assert some.fault("a", 3.0 + manners.UNWELL_S) is None
    assert some.fault("b", 3.0) is None
