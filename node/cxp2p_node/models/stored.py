"""What is kept beside a model file: which model it is, where it came from, and the SHA-256 that pins it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cxp2p.errors import SettingsError
from cxp2p.records import Service
from cxp2p_node.catalog.entries import UNKNOWN, CatalogEntry, Licence
from cxp2p_node.catalog.sources import NAME_MAX, LocalFile, parse_source
from cxp2p_node.models.facts import ModelFacts
from cxp2p_node.models.voice import VoiceFacts

BYTES_MAX = 64 * 1024

Facts: TypeAlias = ModelFacts | VoiceFacts


class StoredModel(BaseModel):
    """The record. `source` as text, as `parse_source` reads it; `import:` for what was put here by hand."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str = Field(max_length=NAME_MAX)
    service: Service | None
    source: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    size_bytes: int = Field(ge=0)
    licence: str = "unknown"
    licence_accepted: bool = False
    context_units: int = Field(0, ge=0)
    parameters: int = Field(0, ge=0)
    pooling: str | None = None
    about: str = ""

    @property
    def digest(self) -> bytes:
        return bytes.fromhex(self.sha256)

    def entry(self) -> CatalogEntry:
        """The record as an entry. Raises SettingsError if its source is not known here."""
        kind, _, rest = self.source.partition(":")
        source = LocalFile(Path(rest), imported=True) if kind == "import" else parse_source(self.source)[0]
        return CatalogEntry(
            name=self.name,
            service=self.service,
            source=source,
            sha256=self.digest,
            size_bytes=self.size_bytes,
            licence=UNKNOWN if self.licence == UNKNOWN.name else Licence(self.licence),
            context_units=self.context_units,
            about=self.about,
            parameters=self.parameters,
            pooling=self.pooling,
        )


def completed(record: StoredModel, facts: Facts | None) -> StoredModel:
    """The record, with what its model's file says where nobody else does."""
    if facts is None:
        return record
    found: dict[str, object] = {"parameters": facts.parameters}
    if isinstance(facts, VoiceFacts):
        found |= {"service": Service.SPEECH, "about": f"Piper voice, {facts.language} {facts.quality}".strip()}
    else:
        found |= {"service": facts.service, "context_units": facts.context_units, "pooling": facts.pooling}
        found |= {"about": f"{facts.name or facts.architecture}, {facts.quantisation}"[:128]}
    missing = {name: value for name, value in found.items() if not getattr(record, name)}
    if isinstance(facts, ModelFacts) and facts.licence and record.licence == UNKNOWN.name:
        missing["licence"] = facts.licence
    return record.model_copy(update=missing)


def file_name(name: str) -> str:
    """What a model's file is called, without its ending. Two names may give the same one."""
    return re.sub(r"[^a-z0-9._-]", "-", name.lower()).lstrip(".") or "-"


def read_record(path: Path) -> StoredModel | None:
    """The record at `path`; None if there is none, or none that can be read."""
    try:
        with path.open("rb") as source:
            return StoredModel.model_validate_json(source.read(BYTES_MAX))
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None


def write_record(path: Path, record: StoredModel) -> None:
    """Replaces the record at `path`, at once and for good."""
    fresh = path.with_name(path.name + ".new")
    with fresh.open("w") as sink:
        json.dump(record.model_dump(mode="json"), sink, indent=1)
        sink.flush()
        os.fsync(sink.fileno())
    os.replace(fresh, path)


def not_in_the_way(record: StoredModel | None, name: str, source: str) -> None:
    """Raises SettingsError if the place of `name` belongs to another model, or to one from elsewhere."""
    if record is None:
        return
    if record.name != name:
        raise SettingsError(
            f"{name} and {record.name} would have the same file: use another name, "
            f"or `cxp2p models rm {record.name}` first"
        )
    if record.source != source:
        raise SettingsError(
            f"the {name} on this machine came from {record.source}, not from {source}: "
            f"`cxp2p models rm {name}` first, or use another name"
        )
