"""What a web server's reply means: whether its body is wanted, how long to stay away, what to say next time. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Final

from cxp2p.records import PageFault
from cxp2p_node.scrape.fetched import FetchRefused

ACCEPT: Final = "text/html,application/xhtml+xml,text/markdown;q=0.9,application/xml;q=0.9,text/plain;q=0.8,*/*;q=0.5"
PAUSE_S_MAX: Final = 600.0  # a host that asks for more is asked again after this
PAUSE_S_UNTOLD: Final = 10.0  # of a host that says "too many requests" and no more
RETRY_S_MAX: Final = 10.0  # a page is tried once more after so long; a longer pause is told to the asker
CONTENT_TYPE_LETTERS_MAX: Final = 256

_READ: Final = frozenset(
    {"text/html", "application/xhtml+xml", "text/plain", "text/markdown", "text/x-markdown"}
    | {"application/json", "text/json", "application/xml", "text/xml"}
)
_SUFFIXES: Final = ("+json", "+xml")  # RSS, Atom, JSON Feed, JSON-LD
_NOT_READ: Final = frozenset({"image/svg+xml"})
_BINARY: Final = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")  # WHATWG MIME Sniffing, 7.2
_UTF_16: Final = (b"\xff\xfe", b"\xfe\xff")
_SNIFFED_BYTES: Final = 1445
_TAG: Final = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]{0,256}"')
_DATE: Final = re.compile(r"[A-Za-z0-9,: +-]{6,64}")


def check_status(status: int, final_url: str) -> None:
    """Raises FetchRefused for a status that comes with no page."""
    if not 200 <= status < 300:
        raise FetchRefused(PageFault.HTTP_ERROR, f"the server says {status}", status, final_url)


def content_type_of(headers: Mapping[str, str], status: int, final_url: str) -> str:
    """What the server says the body is, "" if it does not. Raises FetchRefused for what is not read here."""
    told = headers.get("content-type", "").strip()[:CONTENT_TYPE_LETTERS_MAX]
    kind = told.partition(";")[0].strip().lower()
    if kind and kind not in _READ and not (kind.endswith(_SUFFIXES) and kind not in _NOT_READ):
        raise FetchRefused(
            PageFault.UNSUPPORTED_CONTENT_TYPE, f"it is {kind[:64]!r}, which is not read", status, final_url
        )
    return told if told.isprintable() else ""


def check_text(content_type: str, body: bytes, status: int, final_url: str) -> None:
    """Raises FetchRefused for a body that no header tells of, and that is no text."""
    if not content_type and not body.startswith(_UTF_16) and _BINARY.search(body, 0, _SNIFFED_BYTES):
        raise FetchRefused(PageFault.UNSUPPORTED_CONTENT_TYPE, "it is no text", status, final_url)


def check_length(headers: Mapping[str, str], bytes_max: int) -> bool:
    """Whether the server announces no more than a page may have."""
    told = headers.get("content-length", "")
    return not (told.isdecimal() and (len(told) > 15 or int(told) > bytes_max))


def pause_s(status: int, headers: Mapping[str, str], wall_s: float) -> float:
    """How long the host wants to be left alone (RFC 9110, 10.2.3), within bounds; 0 if it does not say so."""
    if status not in (429, 503):
        return 0.0
    told = headers.get("retry-after", "").strip()
    seconds = 0.0
    if told.isascii() and told.isdecimal():
        seconds = float(told[:9])
    elif _DATE.fullmatch(told):
        try:
            seconds = parsedate_to_datetime(told).timestamp() - wall_s
        except (ValueError, OverflowError):
            seconds = 0.0
    if seconds <= 0 and status == 429:
        seconds = PAUSE_S_UNTOLD
    return min(max(seconds, 0.0), PAUSE_S_MAX)


def validators(headers: Mapping[str, str]) -> dict[str, str]:
    """What to send with the next request for this page, so that it need not come again (RFC 9110, 13.1)."""
    asked = {}
    tag, date = headers.get("etag", ""), headers.get("last-modified", "")
    if _TAG.fullmatch(tag):
        asked["If-None-Match"] = tag
    if _DATE.fullmatch(date):
        asked["If-Modified-Since"] = date
    return asked


def may_be_kept(headers: Mapping[str, str]) -> bool:
    """Whether the server lets a copy be kept (RFC 9111, 5.2.2.5); for how long is for the asker to say."""
    return not re.search(r"\bno-store\b", headers.get("cache-control", ""), re.IGNORECASE)
