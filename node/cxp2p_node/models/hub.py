"""Finds a file on Hugging Face: where it is, how large it is, and its SHA-256.

The hub answers a HEAD with `X-Linked-Etag`, the SHA-256 of a large file, `X-Linked-Size` and `X-Repo-Commit`. Its own
library is not used: it needs nine packages, and begins an interrupted file again from its beginning. HF_ENDPOINT,
HF_TOKEN, HF_TOKEN_PATH, HF_HOME and HF_HUB_OFFLINE mean what they mean there.
"""

from __future__ import annotations

import os
import re
import urllib.error
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.parse import quote, urlsplit

from cxp2p_node.catalog.sources import HubFile, is_loopback
from cxp2p_node.models import http

ENDPOINT = "https://huggingface.co"
LINKED_ETAG, LINKED_SIZE, COMMIT = "X-Linked-Etag", "X-Linked-Size", "X-Repo-Commit"
TOKEN_BYTES_MAX = 4096


class HubError(Exception):
    """The hub does not give the file. The text says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnHub:
    """A file of one commit, with the headers to ask for it with."""

    url: str
    sha256: bytes
    size_bytes: int
    revision: str
    headers: Mapping[str, str]


def locate(file: HubFile) -> OnHub:
    """Asks the hub for a file. Raises HubError."""
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        raise HubError("HF_HUB_OFFLINE is set, so nothing is fetched from the hub")
    endpoint = os.environ.get("HF_ENDPOINT", ENDPOINT).rstrip("/")
    parts = urlsplit(endpoint)
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname or "")):
        raise HubError(f"HF_ENDPOINT is {endpoint!r}, expected is an https address")
    token = _token()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        url, found = http.head(_address(endpoint, file, file.revision), headers, LINKED_ETAG)
    except urllib.error.HTTPError as error:
        raise HubError(_explain(file, error.code, bool(token))) from error
    except (OSError, HTTPException, http.Refused) as error:
        raise HubError(
            f"{endpoint} cannot be reached: {getattr(error, 'reason', error)}: is this machine online? HTTPS_PROXY "
            "names a proxy, HF_ENDPOINT a mirror, and `cxp2p models import` takes a file that you have"
        ) from error
    etag = found.get(LINKED_ETAG, "").strip('"')
    size = found.get(LINKED_SIZE, "")
    if not re.fullmatch(r"[0-9a-f]{64}", etag) or not re.fullmatch(r"[0-9]{1,15}", size):
        raise HubError(f"{endpoint} does not tell the SHA-256 and the size of {file.path}: is it a model file?")
    commit = found.get(COMMIT, "")
    if re.fullmatch(r"[0-9a-f]{40}", commit):
        url = _address(endpoint, file, commit)
    return OnHub(
        url=url,
        sha256=bytes.fromhex(etag),
        size_bytes=int(size),
        revision=commit or file.revision,
        headers=headers,
    )


def _address(endpoint: str, file: HubFile, revision: str) -> str:
    return f"{endpoint}/{file.repo}/resolve/{quote(revision, safe='')}/{quote(file.path)}"


def _token() -> str:
    """The user's token for the hub, or nothing."""
    given = os.environ.get("HF_TOKEN", "").strip()
    if given:
        return given
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = Path(os.environ.get("HF_HOME") or cache / "huggingface")
    try:
        with Path(os.environ.get("HF_TOKEN_PATH") or home / "token").open("rb") as source:
            kept = source.read(TOKEN_BYTES_MAX).decode(errors="replace").strip()
    except OSError:
        return ""
    return kept if kept.isascii() and kept.isprintable() else ""


def _explain(file: HubFile, code: int, has_token: bool) -> str:
    if code in (401, 403):
        hint = "your token may not read it" if has_token else "set HF_TOKEN to a token of yours"
        return f"the hub keeps {file.repo} closed: accept its terms on its page there, and {hint}"
    if code == 404:
        return f"the hub has no {file.path} in {file.repo} at {file.revision}"
    return f"the hub answers {code} for {file.repo}; try again later"
