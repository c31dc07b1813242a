"""Published epochs from where they are published: a gateway's HTTP interface, or the peer-to-peer network."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO, Final
from urllib.parse import urlsplit, urlunsplit

import trio

from cxp2p.client import connect
from cxp2p.epoch_files import read_epoch
from cxp2p.epochs import open_root
from cxp2p.errors import EpochInvalid, PeerUnreachable, SettingsError, one_line
from cxp2p.identity import new_identity
from cxp2p.net.discover import offer_sequence
from cxp2p.net.epochs import ask_epoch
from cxp2p.net.libp2p import open_network
from cxp2p.net.tasks import sole

CHUNK_BYTES: Final = 64 * 1024
HTTP_S: Final = 30.0
MEET_S: Final = 15.0  # for a bootstrap peer to be met
ERROR_BYTES_MAX: Final = 64 * 1024
BASE: Final = "/api/v1"


def fetch_epoch(gateway: str, epoch: int, bootstrap: Sequence[str], path: Path) -> None:
    """Writes an epoch of a gateway to `path`, as it was published; what does not hold is not written to its end.

    `gateway`: a URL, or an address that ends in /p2p/<peer id>. With `bootstrap`, addresses of peers, the root is
    compared with what the DHT has. Raises CxError: SettingsError, PeerUnreachable, Absent, EpochInvalid,
    RemoteProtocolError.
    """
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            if urlsplit(gateway).scheme in ("http", "https"):
                _fetch_over_http(gateway, epoch, file)
            elif "/p2p/" in gateway:
                _run(_fetch_over_network, gateway, epoch, bootstrap, file)
            else:
                raise SettingsError(f"{gateway} is no URL, and no address that ends in /p2p/<peer id>")
        if bootstrap:
            _run(_compare, part, bootstrap)
        part.replace(path)
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        part.unlink(missing_ok=True)


def _fetch_over_http(gateway: str, epoch: int, file: IO[bytes]) -> None:
    url = epoch_url(gateway, epoch)
    with _answer(url) as answer:

        def chunks() -> Iterator[bytes]:
            while chunk := _read(answer, url):
                file.write(chunk)
                yield chunk

        published = read_epoch(chunks())
        if published.root.epoch != epoch:
            raise EpochInvalid(f"{url} answers with epoch {published.root.epoch}", published.root_envelope)
        for _ in published.entries:
            pass


def _answer(url: str) -> HTTPResponse:
    try:
        answer: HTTPResponse = urllib.request.urlopen(url, timeout=HTTP_S)  # its scheme was looked at
    except urllib.error.HTTPError as error:
        with error:
            raise PeerUnreachable(f"{url} answers {error.code}: {_reason(error)}") from None
    except (OSError, HTTPException, ValueError) as error:
        raise _unread(url, error) from None
    return answer


def _read(answer: HTTPResponse, url: str) -> bytes:
    try:
        return answer.read(CHUNK_BYTES)
    except (OSError, HTTPException) as error:
        raise _unread(url, error) from None


def _unread(url: str, error: Exception) -> PeerUnreachable:
    return PeerUnreachable(f"{url} cannot be read: {one_line(str(error), 200)}")


def epoch_url(gateway: str, epoch: int) -> str:
    """Where the file of an epoch is: below the base of the URL, or `/api/v1` if it has none; a query is kept."""
    parts = urlsplit(gateway)
    base = parts.path.rstrip("/") or BASE
    return urlunsplit((parts.scheme, parts.netloc, f"{base}/epochs/{epoch}/file", parts.query, ""))


def _reason(answer: urllib.error.HTTPError) -> str:
    try:
        error = json.loads(answer.read(ERROR_BYTES_MAX))["error"]
        words = error["message"] if isinstance(error, dict) else error
    except (OSError, HTTPException, ValueError, LookupError, TypeError):
        words = "no reason is told"
    return one_line(str(words), 200)


async def _fetch_over_network(gateway: str, epoch: int, bootstrap: Sequence[str], file: IO[bytes]) -> None:
    async with connect(bootstrap) as net:
        peer = await net.network.connect(gateway)
        async with aclosing(ask_epoch(net.network, peer, peer, epoch)) as chunks:
            async for chunk in chunks:
                file.write(chunk)


async def _compare(path: Path, bootstrap: Sequence[str]) -> None:
    """Raises EpochInvalid if the DHT has another root of the same gateway and epoch: then it signed two."""
    with path.open("rb") as file:
        published = read_epoch(iter(lambda: file.read(CHUNK_BYTES), b""))
    root = published.root
    async with open_network(
        new_identity(), bootstrap=tuple(bootstrap), dht_server=False, offer_validator=offer_sequence
    ) as network:
        with trio.move_on_after(MEET_S) as patience:
            await network.joined.wait()
        if patience.cancelled_caught:
            raise PeerUnreachable(f"none of the bootstrap peers answered in {MEET_S:g} s")
        for other in await network.dht.get_roots(root.gateway, root.epoch):
            if open_root(other) != root:
                fault = f"{root.gateway} signed two roots for epoch {root.epoch}: the DHT has another"
                raise EpochInvalid(fault, other)


def _run(act: Callable[..., Awaitable[None]], *arguments: object) -> None:
    try:
        trio.run(act, *arguments)
    except BaseExceptionGroup as error:
        raise sole(error) from None
