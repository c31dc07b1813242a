"""A look at a database that changes nothing. At SQLite's it is by header and lock, without opening it as a database."""

from __future__ import annotations

import fcntl
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cxp2p_gateway.store import StoreError, postgres
from cxp2p_gateway.store.sqlite import APPLICATION_ID, SCHEMA_VERSION

MAGIC: Final = b"SQLite format 3\0"  # the database header: sqlite.org/fileformat2.html, 1.3
HEADER_BYTES: Final = 100
USER_VERSION_AT: Final = 60
APPLICATION_ID_AT: Final = 68


@dataclass(frozen=True, slots=True)
class Looked:
    """What a look told. `version` None: there is nothing yet; `keeper`: the process that keeps it, "" for none."""

    version: int | None
    keeper: str

    @property
    def is_old(self) -> bool:
        """Whether the next start changes its tables."""
        return self.version is not None and self.version < SCHEMA_VERSION


def look_at(url: str) -> Looked:
    """What is in the PostgreSQL at `url`. Raises StoreError if no gateway of this version could use it."""
    step = postgres.step_at(url)
    return Looked(None if step is None else int(step), "")


def look(path: Path) -> Looked:
    """What is at `path`. Raises StoreError if no gateway of this version could use it."""
    try:
        with path.open("rb") as file:
            header = file.read(HEADER_BYTES)
    except FileNotFoundError:
        return Looked(None, _keeper(path))
    except OSError as error:
        raise StoreError(f"the gateway's database {path} cannot be opened: {error.strerror}") from None
    if not header:
        return Looked(None, _keeper(path))
    application, version = _number(header, APPLICATION_ID_AT), _number(header, USER_VERSION_AT)
    if len(header) < HEADER_BYTES or not header.startswith(MAGIC) or application not in (0, APPLICATION_ID):
        raise StoreError(f"{path} is not a gateway's database: give another data path")
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"the gateway's database {path} has version {version}, this program knows {SCHEMA_VERSION}: "
            "use the program that made it, or a newer one"
        )
    return Looked(version, _keeper(path))


def _number(header: bytes, at: int) -> int:
    return int.from_bytes(header[at : at + 4], "big")


def _keeper(path: Path) -> str:
    """The process that has locked the file beside the database."""
    with suppress(FileNotFoundError), path.with_name(path.name + ".lock").open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return lock.read(32).decode(errors="replace").strip() or "unknown"
    return ""
