"""The model files on this machine: fetched once, checked, shared by every node of a user.

A file appears under its final name only when it is whole and its SHA-256 is right. What an interrupted fetch left is
used by the next one. One process fetches a file at a time; others wait for it.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from cxp2p.errors import SettingsError
from cxp2p_node import catalog
from cxp2p_node.catalog.entries import UNKNOWN, CatalogEntry
from cxp2p_node.catalog.sources import VOICE_ENDING, LocalFile, Source, WebFile, check_name, parse_source
from cxp2p_node.models.bring import (
    CHUNK_BYTES,
    Brought,
    Errand,
    ModelError,
    Progress,
    bring,
    clean,
    hashed,
    no_room,
    place,
    room_wanted,
    wrong,
)
from cxp2p_node.models.facts import facts_of
from cxp2p_node.models.header import HeaderError
from cxp2p_node.models.stored import (
    Facts,
    StoredModel,
    completed,
    file_name,
    not_in_the_way,
    read_record,
    write_record,
)
from cxp2p_node.models.voice import join_voice, read_settings, voice_facts

log = logging.getLogger("cxp2p.node.models")

SPARE_BYTES = 64 * 1024 * 1024  # a disk that is full to the last byte harms more than this program


def free_bytes(folder: Path) -> int:
    """What is free on the disk of a folder."""
    return shutil.disk_usage(folder).free


class Store:
    """The folder of model files. Every method blocks; the long ones are `pull` and `take`."""

    def __init__(self, path: Path, free: Callable[[Path], int] = free_bytes) -> None:
        self.path = path
        self._free = free

    # What is here.

    def file(self, entry: CatalogEntry) -> Path:
        """Where the model's file is, or will be."""
        return self.path / f"{file_name(entry.name)}{VOICE_ENDING if entry.is_voice else '.gguf'}"

    def record(self, entry: CatalogEntry) -> StoredModel | None:
        """What is kept beside the model's file."""
        return read_record(self._record_path(entry.name))

    def has(self, entry: CatalogEntry) -> bool:
        """Whether the file is here. It was checked when it was put here, so now only its size is."""
        file, record = self.file(entry), self.record(entry)
        if not file.is_file():
            return False
        if record is None:  # from before there were records: by its size it is the catalogue's, or it is not known
            return entry.sha256 is not None and file.stat().st_size == entry.size_bytes
        if record.name != entry.name or file.stat().st_size != record.size_bytes:
            return False
        return record.digest == entry.sha256 if entry.sha256 else record.source == str(entry.source)

    def digest(self, entry: CatalogEntry) -> bytes:
        """The SHA-256 of a model that is here. Raises ModelError if it is not."""
        if entry.sha256 is not None:
            return entry.sha256
        record = self.record(entry)
        if record is None or not self.has(entry):
            raise ModelError(f"{entry.name} is not on this machine: `cxp2p models pull {entry.name}` fetches it")
        return record.digest

    def own(self) -> list[CatalogEntry]:
        """The models of this machine that the catalogue does not know."""
        found = []
        for path in sorted(self.path.glob("*.json")):
            record = read_record(path)
            if record is None or catalog.find(record.name) is not None or path != self._record_path(record.name):
                continue
            try:
                found.append(record.entry())
            except SettingsError as error:
                log.warning("%s is passed over: %s", path, error)
        return found

    def entry(self, name: str, source: str | None = None) -> CatalogEntry:
        """The entry of a name: of the catalogue, of a model of one's own, or of `source`. Raises SettingsError."""
        if source is not None:
            return _own_entry(name, *parse_source(source))
        known = catalog.find(name)
        if known is not None:
            return known
        own = self.own()
        for entry in own:
            if entry.name == name.strip():
                return entry
        if self.begun(name) is not None:
            raise SettingsError(
                f"{name} is not here yet, its fetch was interrupted: give its --source again and it goes on, "
                f"or `cxp2p models rm {name}` forgets it"
            )
        raise catalog.unknown(name, (entry.name for entry in own))

    def begun(self, name: str) -> CatalogEntry | None:
        """An entry of a model of one's own of which only what an interrupted fetch left is here."""
        if catalog.find(name) is not None or any(entry.name == name for entry in self.own()):
            return None
        try:
            entries = [_own_entry(name, LocalFile(self.path / file)) for file in ("model", f"voice{VOICE_ENDING}")]
        except SettingsError:
            return None
        return next((entry for entry in entries if self._left_bytes(entry)), None)

    def check(self, entry: CatalogEntry, progress: Progress) -> bool:
        """Whether the file still has its SHA-256: reads all of it."""
        file = self.file(entry)
        digest, done, size = hashlib.sha256(), 0, file.stat().st_size
        with file.open("rb") as source:
            while chunk := source.read(CHUNK_BYTES):
                digest.update(chunk)
                done += len(chunk)
                progress("checking", done, size)
        return digest.digest() == self.digest(entry)

    # What changes it.

    def pull(self, entry: CatalogEntry, progress: Progress, *, accept_licence: bool = False) -> Path:
        """The model's file, fetched if it is not here. Raises ModelError and SettingsError."""
        if self.has(entry):
            return self.file(entry)
        if entry.licence.accept and not accept_licence:
            raise ModelError(
                f"{entry.name} is under the {entry.licence.name}: read {entry.licence.url}, and if you agree, "
                f"`cxp2p models pull {entry.name} --accept-licence` fetches it"
            )
        try:
            with self._locked(entry, progress):
                if not self.has(entry):  # another process may just have fetched it
                    self._fetch(entry, progress)
        except HeaderError as error:
            raise ModelError(f"{entry.name}: what {entry.source} gives cannot be served: {error}") from error
        except OSError as error:
            raise ModelError(f"{entry.name} cannot be stored in {self.path}: {error.strerror or error}") from error
        return self.file(entry)

    def take(self, file: Path, name: str, progress: Progress, *, copy: bool = False) -> tuple[CatalogEntry, Facts]:
        """Puts a GGUF file or a voice of one's own into the store. Raises SettingsError, ModelError and HeaderError."""
        entry = _own_entry(name, LocalFile(file.resolve(), imported=True))
        if catalog.find(name) is not None:
            raise SettingsError(f"{name} is a name of the catalogue: give yours another one")
        try:
            with self._locked(entry, progress):
                not_in_the_way(self.record(entry), name, str(entry.source))
                partial = self._partial(entry)
                clean(partial)
                partial.mkdir()
                held = partial / "taken"
                if entry.is_voice:
                    join_voice(file, read_settings(file), held)
                else:
                    place(file, held, self._room(), name, progress, copy=copy)
                facts = _looked_at(entry, held)
                self._keep(entry, hashed(self._errand(entry, progress), held), facts)
                clean(partial)
        except OSError as error:
            raise ModelError(f"{name} cannot be stored in {self.path}: {error.strerror or error}") from error
        return self.entry(name), facts

    def remove(self, entry: CatalogEntry) -> bool:
        """Deletes the model's file, and what an interrupted fetch of it left. False if there was neither."""
        with self._locked(entry, _ignore):
            begun = bool(self._left_bytes(entry))
            clean(self._partial(entry))
            record = self.record(entry)
            if record is not None and record.name != entry.name:
                return begun
            self._record_path(entry.name).unlink(missing_ok=True)
            try:
                self.file(entry).unlink()
            except FileNotFoundError:
                return begun or record is not None
            return True

    # How.

    def _fetch(self, entry: CatalogEntry, progress: Progress) -> None:
        record = self.record(entry)
        not_in_the_way(record, entry.name, str(entry.source))
        partial = self._partial(entry)
        partial.mkdir(parents=True, exist_ok=True)
        wanted = room_wanted(entry) - self._left_bytes(entry)
        if self._room() < wanted:
            raise ModelError(no_room(entry.name, wanted + SPARE_BYTES, self._free(self.path), self.path))
        errand = self._errand(entry, progress)
        if errand.pin is None and record is not None:
            errand = replace(errand, pin=record.digest)
        brought = bring(errand)
        if errand.pin is None and isinstance(entry.source, WebFile):
            log.warning("%s: nothing says what %s should be; it is pinned as it is now", entry.name, entry.source)
        if errand.pin is not None and brought.sha256 != errand.pin:
            clean(partial)
            raise ModelError(wrong(entry, brought.sha256.hex(), errand.pin.hex()))
        # The catalogue's own files are known; all others are looked at before they count as a model.
        try:
            facts = None if entry.sha256 is not None and entry.service else _looked_at(entry, brought.path)
        except HeaderError:
            clean(partial)
            raise
        self._keep(entry, brought, facts)
        clean(partial)

    def _errand(self, entry: CatalogEntry, progress: Progress) -> Errand:
        return Errand(
            entry=entry,
            folder=self._partial(entry),
            pin=entry.sha256,
            room_bytes=self._room(),
            progress=progress,
        )

    def _keep(self, entry: CatalogEntry, brought: Brought, facts: Facts | None) -> None:
        """Gives a whole file its name. Its record comes first: a file without one would not be known."""
        record = StoredModel(
            name=entry.name,
            service=entry.service,
            source=str(entry.source),
            sha256=brought.sha256.hex(),
            size_bytes=brought.size_bytes,
            licence=entry.licence.name,
            licence_accepted=entry.licence.accept,
            context_units=entry.context_units,
            parameters=entry.parameters,
            pooling=entry.pooling,
            about=entry.about,
        )
        write_record(self._record_path(entry.name), completed(record, facts))
        os.replace(brought.path, self.file(entry))
        _sync_folder(self.path)

    def _room(self) -> int:
        return self._free(self.path) - SPARE_BYTES

    def _record_path(self, name: str) -> Path:
        return self.path / f"{file_name(name)}.json"

    def _partial(self, entry: CatalogEntry) -> Path:
        return self.path / (self.file(entry).name + ".partial")

    def _left_bytes(self, entry: CatalogEntry) -> int:
        """What an interrupted fetch left."""
        return sum(file.stat().st_size for file in self._partial(entry).rglob("*") if file.is_file())

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


def _own_entry(name: str, source: Source, pin: bytes | None = None) -> CatalogEntry:
    """An entry of a model that only its user knows. Raises SettingsError for a name that is none."""
    return CatalogEntry(
        name=check_name(name),
        service=None,
        source=source,
        sha256=pin,
        size_bytes=0,
        licence=UNKNOWN,
        context_units=0,
        about="",
    )


def _looked_at(entry: CatalogEntry, file: Path) -> Facts:
    return voice_facts(file) if entry.is_voice else facts_of(file)


def _sync_folder(path: Path) -> None:
    """Makes a rename in this folder outlive a power cut."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _ignore(what: str, done: int, total: int) -> None:
    """For callers that show no progress."""
