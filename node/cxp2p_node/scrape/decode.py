"""Which encoding a page's bytes have, and its text.

As browsers do it (https://html.spec.whatwg.org/#determining-the-character-encoding): a byte-order mark, then the
charset of the HTTP header, then what the first 1,024 bytes declare. Where nothing is declared, valid UTF-8 is UTF-8,
and anything else is guessed by Firefox's detector.
"""

from __future__ import annotations

import codecs
import re
from typing import Final
from urllib.parse import urlsplit

import webencodings
from chardetng_py import EncodingDetector

PRESCAN_BYTES: Final = 1024  # the standard's
DETECT_BYTES_MAX: Final = 65_536  # enough for the detector to be sure; more costs time only

_MARKS: Final = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16le"), (codecs.BOM_UTF16_BE, "utf-16be"))
_HEADER: Final = re.compile(r"""charset\s*=\s*["']?([^\s;"']+)""", re.IGNORECASE)
_COMMENT: Final = re.compile(rb"<!--.*?(?:-->|\Z)", re.DOTALL)
_META: Final = re.compile(rb"<meta[\s/][^>]*+", re.IGNORECASE)
_CHARSET: Final = re.compile(rb"""charset\s*=\s*["']?\s*([^\s;"'/>]+)""", re.IGNORECASE)
_XML: Final = re.compile(rb"""\A\s*<\?xml[^>]*?\sencoding\s*=\s*["']([^"']+)""", re.IGNORECASE)

_STANDARD: Final = {"cp874": "windows-874"}  # the standard's name where the detector says Python's
_BEYOND_ASCII: Final = bytes(range(0x80, 0x100))

# Python's name where the standard's decoder takes more than webencodings' codec does.
_WIDER: Final = {"gbk": "gb18030", "shift_jis": "cp932", "euc-kr": "cp949"}


def decode(body: bytes, content_type: str, url: str = "") -> tuple[str, str]:
    """The text of `body`, and the standard's name of the encoding that it was read in. Never fails."""
    for mark, name in _MARKS:
        if body.startswith(mark):
            return _read(body[len(mark) :], name), name
    name = declared_by_header(content_type) or declared_inside(body) or _guess(body, url)
    return _read(body, name), name


def declared_by_header(content_type: str) -> str:
    """The encoding that a Content-Type names, "" if it names none that is known."""
    found = _HEADER.search(content_type)
    return _known(found[1]) if found else ""


def declared_inside(body: bytes) -> str:
    """The encoding that the page declares in its first bytes, "" if none."""
    start = body[:PRESCAN_BYTES]
    if found := _XML.match(start):
        return _ascii_like(_known(found[1].decode("ascii", "replace")))
    for meta in _META.findall(_COMMENT.sub(b"", start)):
        # A charset in a description is no declaration: there it is inside of another attribute's quotes.
        if (found := _CHARSET.search(meta)) and (b"http-equiv" in meta.lower() or b"content" not in meta.lower()):
            return _ascii_like(_known(found[1].decode("ascii", "replace")))
    return ""


def _known(label: str) -> str:
    encoding = webencodings.lookup(label)
    return "" if encoding is None or encoding.name == "replacement" else str(encoding.name)


def _ascii_like(name: str) -> str:
    """A declaration that could be read as ASCII is not in UTF-16, whatever it says."""
    if name.startswith("utf-16"):
        return "utf-8"
    return "windows-1252" if name == "x-user-defined" else name


def _guess(body: bytes, url: str) -> str:
    part = body[:DETECT_BYTES_MAX]
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        if _mostly_utf8(part):
            return "utf-8"
        detector = EncodingDetector()
        detector.feed(part, last=True)
        guess = detector.guess(tld=_top_level_domain(url), allow_utf8=False)
        return _known(_STANDARD.get(guess, guess)) or "windows-1252"
    return "utf-8"


def _mostly_utf8(part: bytes) -> bool:
    """Whether a few broken bytes only keep it from being UTF-8: a cut-off page, one comment pasted from elsewhere."""
    wrong = part.decode("utf-8", "replace").count("\N{REPLACEMENT CHARACTER}")
    return wrong * 50 < len(part) - len(part.translate(None, _BEYOND_ASCII))


def _top_level_domain(url: str) -> bytes | None:
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return None
    last = host.rpartition(".")[2]
    return last.encode() if last.isascii() and last.isalpha() else None


def _read(body: bytes, name: str) -> str:
    codec = _WIDER.get(name)
    if codec is None:
        encoding = webencodings.lookup(name)
        codec = "utf-8" if encoding is None else str(encoding.codec_info.name)
    if codec == "x-user-defined":
        codec = "cp1252"
    return body.decode(codec, "replace")
