"""The vectors of a real model beside those of its original weights, which `tools/embed_reference.py` computed."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pytest

from cxp2p.paths import default_data_path
from cxp2p.records import EmbedJob, Piece, Prices
from cxp2p_node.catalog import look_up
from cxp2p_node.engines.embed import EmbedSettings, open_embed
from cxp2p_node.models import Store

VECTORS = Path(__file__).parent.parent / "data" / "minilm_vectors.json"
COSINE_MIN = 0.9999


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_the_vectors_agree_with_the_reference_model_in_all_scripts() -> None:
    rows = json.loads(VECTORS.read_text())
    entry = look_up("all-minilm-l6-v2")
    assert entry.sha256 is not None
    settings = EmbedSettings(
        model=entry.name,
        path=Store(default_data_path("models")).pull(entry, lambda what, done, total: None),
        model_digest=entry.sha256,
        prices=Prices(input=0, output=0),
        queue_max=1,
    )
    texts = tuple(row["text"] for row in rows)
    tokens = tuple(tuple(row["tokens"][1:-1]) or "" for row in rows)  # the marks are added
    expected = np.stack([np.frombuffer(base64.b64decode(row["vector"]), "<f4") for row in rows])
    pieces: list[Piece] = []

    async def emit(piece: Piece) -> None:
        pieces.append(piece)

    async with open_embed(settings) as engine:
        for inputs in (texts, tokens):
            pieces.clear()
            job = EmbedJob(model=entry.name, inputs=inputs)
            usage = await engine.run(job, 1, len(inputs), emit, lambda in_units, cached_units: None)
            vectors = np.frombuffer(b"".join(piece.data for piece in pieces), "<f4").reshape(len(rows), -1)
            cosines = (vectors * expected).sum(axis=1)
            assert usage.in_units == sum(len(row["tokens"]) for row in rows)
            for text, cosine in zip(texts, cosines, strict=True):
                assert cosine >= COSINE_MIN, text
