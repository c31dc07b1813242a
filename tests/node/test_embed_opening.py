"""A model's file decides what its node offers: an encoder gives vectors, a chat model tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gguf
import llama_cpp
import psutil
import pytest

from cxp2p.errors import SettingsError
from cxp2p.records import EmbedJob, Piece, Service
from cxp2p_node.config import ModelSettings
from cxp2p_node.engines import embed
from cxp2p_node.engines.opening import loadable, open_engine
from cxp2p_node.models import Store
from cxp2p_node.models.header import HeaderError
from test_embed import settings_of
from tiny_bert import CONTEXT, write_tiny_bert
from tiny_model import write_tiny_model


async def test_a_file_of_an_encoder_is_offered_for_embeddings(tmp_path: Path) -> None:
    model = ModelSettings(name="mine", path=write_tiny_bert(tmp_path / "tiny.gguf"), threads=1)
    store = Store(tmp_path / "models")
    known = await loadable(model, store)
    assert known is not None
    assert (known.described.service, known.described.context_units) == (Service.EMBED, CONTEXT)
    assert (known.described.slots, known.described.output_units_max) == (embed.SLOTS, embed.INPUTS_MAX)
    pieces: list[Piece] = []

    async def emit(piece: Piece) -> None:
        pieces.append(piece)

    async with open_engine(model, store) as engine:
        # What is offered before the model is in memory is what is offered then.
        assert replace(engine.describe(), runtime=known.described.runtime) == known.described
        job = EmbedJob(model="mine", inputs=("abc", "b"))
        usage = await engine.run(job, 1, 2, emit, lambda in_units, cached_units: None)
        assert usage.out_units == 2
        assert isinstance(engine, embed.Embed)
        assert psutil.Process(engine.worker.pid).memory_info().rss < 1.5 * known.bytes_needed


async def test_a_file_of_a_chat_model_is_offered_for_chat(tmp_path: Path) -> None:
    model = ModelSettings(name="mine", path=write_tiny_model(tmp_path / "tiny.gguf"))
    known = await loadable(model, Store(tmp_path / "models"))
    assert known is not None
    assert known.described.service is Service.CHAT


async def test_a_file_that_ranks_texts_is_not_offered(tmp_path: Path) -> None:
    path = write_tiny_bert(tmp_path / "tiny.gguf", pooling=gguf.PoolingType.RANK)
    with pytest.raises(HeaderError, match="it ranks texts"):
        await loadable(ModelSettings(name="mine", path=path), Store(tmp_path / "models"))


@pytest.mark.parametrize(
    ("threads", "gpu_layers", "context_units", "packs"),
    [
        (1, 0, 256, (512,)),
        (2, 0, 2048, (2048, 512)),
        (3, 0, 512, (512, 512, 512)),
        (32, 0, None, (8192, 512, 512, 512)),
        (32, -1, 512, (2048,)),
        (1, 12, 8192, (8192,)),
    ],
)
def test_each_thread_has_an_encoder_up_to_a_limit_and_one_takes_long_inputs(
    threads: int, gpu_layers: int, context_units: int | None, packs: tuple[int, ...]
) -> None:
    settings = settings_of(Path("x"), context_units=context_units, threads=threads)
    assert embed.packs_of(replace(settings, gpu_layers=gpu_layers)) == packs


@pytest.mark.parametrize("write", [write_tiny_bert, write_tiny_model])
async def test_layers_for_a_gpu_are_refused_by_a_llama_cpp_that_has_none(
    write: Callable[[Path], Path], tmp_path: Path
) -> None:
    """They would be computed here, in memory that was not reckoned with."""
    if llama_cpp.llama_supports_gpu_offload():
        pytest.skip("this llama.cpp can use a GPU")
    model = ModelSettings(name="mine", path=write(tmp_path / "tiny.gguf"), threads=1, gpu_layers=-1)
    with pytest.raises(SettingsError, match="built without a GPU's support"):
        async with open_engine(model, Store(tmp_path / "models")):
            pass
