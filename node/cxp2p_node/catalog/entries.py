"""What is known of a model before its file is here."""

from __future__ import annotations

from dataclasses import dataclass

from cxp2p.known_models import SizeClass, size_class
from cxp2p.records import Service
from cxp2p_node.catalog.sources import Source, is_voice


@dataclass(frozen=True, slots=True)
class Licence:
    """The terms of a model. `accept`: they ask more than open-source licences do, so whoever fetches it must agree."""

    name: str
    url: str = ""
    accept: bool = False


UNKNOWN = Licence("unknown")


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogEntry:
    """One model. Where something is not known it is None, 0 or empty.

    `sha256` and `size_bytes` are of the model file itself. Without a `sha256` the size is about right, and the file is
    pinned by the first fetch. `context_units` is what it was trained on. Embeddings: `dimensions` of a vector, and
    whether it may be cut to fewer (`matryoshka`), and how one vector is made of a text (`pooling`).
    `note`: what whoever uses it should know.
    """

    name: str
    service: Service | None
    source: Source
    sha256: bytes | None
    size_bytes: int
    licence: Licence
    context_units: int
    about: str
    aliases: tuple[str, ...] = ()
    parameters: int = 0
    dimensions: int | None = None
    matryoshka: bool = False
    pooling: str | None = None
    note: str = ""

    @property
    def is_voice(self) -> bool:
        """Whether it speaks, as far as it is known before its file is here."""
        return self.service is Service.SPEECH or (self.service is None and is_voice(self.source))

    @property
    def size_class(self) -> SizeClass | None:
        """What rewards weigh it by."""
        return size_class(self.parameters) if self.parameters else None
