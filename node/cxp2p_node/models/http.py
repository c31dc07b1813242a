"""Fetches a file over HTTP(S), and goes on where an earlier fetch ended.

Strict where a server may be hostile: only HTTP and HTTPS, no way from HTTPS back to HTTP, credentials for the first
host only, never more bytes than there is room for. Proxies are used as the environment says (HTTPS_PROXY and so on).
"""

from __future__ import annotations

import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO, TypeAlias
from urllib.parse import urljoin, urlsplit

from cxp2p_node.catalog.sources import is_loopback

FetchProgress: TypeAlias = Callable[[int, int], None]

CHUNK_BYTES = 1 << 18
TIMEOUT_S = 60.0
TRIES = 4
PAUSE_S = 1.0
REDIRECTS_MAX = 8
CREDENTIALS = ("authorization", "cookie", "proxy-authorization")


class Refused(Exception):
    """A transfer that must not go on. The text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """What to fetch. `bytes_max`: what there is room for, with what is here of it.

    `known`: its hash is known, so that parts of two files would be noticed. `plain`: whoever set this address up may
    do without TLS, as a company does inside its walls.
    """

    url: str
    bytes_max: int
    known: bool
    headers: Mapping[str, str] = field(default_factory=dict)
    plain: bool = False


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = REDIRECTS_MAX

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        check_step(req.full_url, newurl)
        made = super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]
        if made is not None and urlsplit(newurl).netloc != urlsplit(req.full_url).netloc:
            made.headers = {key: value for key, value in made.headers.items() if key.lower() not in CREDENTIALS}
        return made


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        return None


def check_step(old: str, new: str) -> None:
    """Whether a server at `old` may send us to `new`. Raises Refused."""
    before, after = urlsplit(old), urlsplit(new)
    if after.scheme == "https":
        return
    if after.scheme != "http":
        raise Refused(f"the server sends us to {new[:128]!r}, which is no web address")
    if before.scheme == "https":
        raise Refused(f"the server sends us to {new[:128]!r}, which is not protected on its way")
    if is_loopback(after.hostname or "") and not is_loopback(before.hostname or ""):
        raise Refused(f"the server sends us to {new[:128]!r}, an address of this machine")


def head(url: str, headers: Mapping[str, str], stop_at: str) -> tuple[str, Message]:
    """The final address and the headers there. A redirect that has the header `stop_at` is not followed.

    Raises OSError (urllib's errors are), HTTPException and Refused.
    """
    host = urlsplit(url).netloc
    for _ in range(REDIRECTS_MAX):
        request = urllib.request.Request(url, headers=dict(headers), method="HEAD")
        try:
            with _opener(_NoRedirects()).open(request, timeout=TIMEOUT_S) as response:
                return url, response.headers
        except urllib.error.HTTPError as error:
            place = error.headers.get("Location")
            error.close()
            if not 300 <= error.code < 400 or place is None:
                raise
            found = error.headers
        if stop_at in found:
            return url, found
        following = urljoin(url, place)
        check_step(url, following)
        if urlsplit(following).netloc != host:
            return url, found
        url = following
    raise Refused(f"the server sends us around in a circle: {url[:128]!r}")


def transfer(remote: Remote, part: Path, progress: FetchProgress) -> None:
    """Fetches into `part`, from where it ended before. Tries a few times while something arrives.

    Raises OSError (urllib's errors are), HTTPException and Refused.
    """
    check_address(remote)
    failures = 0
    while True:
        have = size_here(part)
        try:
            _transfer_once(remote, part, have, progress)
            return
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416 and have:  # more is here than there: another file
                part.unlink()
            elif error.code < 500 and error.code not in (408, 429):
                raise
            last: Exception = error
        except (urllib.error.URLError, ssl.SSLError, ConnectionError, TimeoutError, HTTPException) as error:
            last = error
        grown = part.exists() and part.stat().st_size > have
        failures = 0 if grown else failures + 1
        if failures >= TRIES:
            raise last
        time.sleep(PAUSE_S)


def size_here(part: Path) -> int:
    """How many bytes of a file are here already."""
    return part.stat().st_size if part.exists() else 0


def check_address(remote: Remote) -> None:
    """Raises Refused for an address that nothing may be fetched from."""
    parts = urlsplit(remote.url)
    if parts.scheme == "https" or (parts.scheme == "http" and (remote.plain or is_loopback(parts.hostname or ""))):
        return
    raise Refused(f"{remote.url[:128]!r} is no https address")


def _transfer_once(remote: Remote, part: Path, have: int, progress: FetchProgress) -> None:
    same = part.with_name(part.name + ".etag")  # which file it is a part of, in the server's words
    asked = dict(remote.headers)
    if have and remote.known:
        asked["Range"] = f"bytes={have}-"
    elif have and same.exists():
        asked |= {"Range": f"bytes={have}-", "If-Range": same.read_text()}
    request = urllib.request.Request(remote.url, headers=asked)
    with _opener(_Redirects()).open(request, timeout=TIMEOUT_S) as response:
        assert isinstance(response, HTTPResponse)
        resumed = response.status == 206
        if resumed and not _continues(response, have):
            raise HTTPException("the server sent another part than it was asked for")
        if not resumed:
            have = 0
            _remember(response, same)
        left = response.headers.get("Content-Length")
        total = have + int(left) if left and left.isdecimal() else 0
        if total > remote.bytes_max:
            raise Refused(f"it has {total} bytes, and there is room for {remote.bytes_max}")
        done = have
        with part.open("ab" if resumed else "wb") as sink:
            while chunk := response.read(CHUNK_BYTES):
                done += len(chunk)
                if done > remote.bytes_max:
                    raise Refused(f"it has more than {remote.bytes_max} bytes, and there is no room for more")
                sink.write(chunk)
                progress(done, total)
    if done < total:
        raise HTTPException(f"the connection ended after {done} of {total} bytes")


def _continues(response: HTTPResponse, have: int) -> bool:
    said = response.headers.get("Content-Range")
    return said is None or re.match(rf"bytes {have}-", said) is not None


def _remember(response: HTTPResponse, same: Path) -> None:
    """Keeps what makes sure that a later part is of the same file: a strong entity tag."""
    tag = response.headers.get("ETag", "")
    if re.fullmatch(r'"[\x21\x23-\x7e]{1,256}"', tag):
        same.write_text(tag)
    else:
        same.unlink(missing_ok=True)


def _opener(redirects: urllib.request.HTTPRedirectHandler) -> urllib.request.OpenerDirector:
    """Opens http and https and nothing else: `build_opener` would open files and FTP too."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        redirects,
    ):
        opener.add_handler(handler)
    return opener
