"""A BERT that is converted here is what llama.cpp and others read, byte for byte the same each time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import pytest
from safetensors.numpy import save_file

from cxp2p_node.models.convert_bert import INNER, OUTER, SPECIAL, ConvertError, convert_bert

WIDTH, INNER_WIDTH, LAYERS, POSITIONS = 32, 64, 2, 64
WORDS = (*SPECIAL, "[unused0]", "a", "man", "eat", "##s", "##ing", "bread", "café"[:3], ".")
Tensors = dict[str, np.ndarray[Any, Any]]


def config(**changes: object) -> dict[str, object]:
    return {
        "model_type": "bert",
        "hidden_act": "gelu",
        "hidden_size": WIDTH,
        "intermediate_size": INNER_WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "max_position_embeddings": POSITIONS,
        "type_vocab_size": 2,
        "vocab_size": len(WORDS),
        "layer_norm_eps": 1e-12,
        "position_embedding_type": "absolute",
        **changes,
    }


def weights() -> Tensors:
    rng = np.random.default_rng(7)
    rows = {"word": len(WORDS), "position": POSITIONS, "token_type": 2}
    made: Tensors = {
        f"embeddings.{name}_embeddings.weight": rng.standard_normal((count, WIDTH), dtype=np.float32)
        for name, count in rows.items()
    }
    shapes = {"intermediate.dense": (INNER_WIDTH, WIDTH), "output.dense": (WIDTH, INNER_WIDTH)}
    for place in (
        *(name for name in OUTER if not name.endswith("weight")),
        *(f"encoder.layer.{layer}.{name}" for layer in range(LAYERS) for name in INNER),
    ):
        short = place.split(".", 3)[-1]
        shape = (WIDTH,) if place.endswith("Norm") else shapes.get(short, (WIDTH, WIDTH))
        made[f"{place}.weight"] = rng.standard_normal(shape, dtype=np.float32)
        made[f"{place}.bias"] = rng.standard_normal(shape[:1], dtype=np.float32)
    return {**made, "pooler.dense.bias": np.zeros(WIDTH, np.float32)}  # embeddings need no pooler


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small BERT of random weights."""
    made = tmp_path / "bert"
    made.mkdir()
    (made / "config.json").write_text(json.dumps(config()))
    (made / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    save_file(weights(), made / "model.safetensors")
    return made


def test_another_reader_finds_all_that_was_written(folder: Path, tmp_path: Path) -> None:
    """The `gguf` package, which is of llama.cpp's own makers, reads every field and tensor back."""
    convert_bert(folder, "tiny-bert", tmp_path / "out.gguf")
    reader = gguf.GGUFReader(tmp_path / "out.gguf")
    fields = {name: field.contents() for name, field in reader.fields.items()}

    assert fields["general.architecture"] == "bert"
    assert fields["general.name"] == "tiny-bert"
    assert fields["bert.pooling_type"] == gguf.PoolingType.MEAN
    assert fields["bert.attention.causal"] is False
    assert fields["tokenizer.ggml.normalizer.lowercase"] is True
    assert fields["tokenizer.ggml.tokens"][5:10] == ["[unused0]", "▁a", "▁man", "▁eat", "s"]
    assert fields["tokenizer.ggml.bos_token_id"] == SPECIAL.index("[CLS]")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert len(tensors) == 5 + 16 * LAYERS
    source = weights()
    for name, given in (
        ("token_embd.weight", "embeddings.word_embeddings.weight"),
        ("position_embd.weight", "embeddings.position_embeddings.weight"),
        ("blk.1.ffn_up.weight", "encoder.layer.1.intermediate.dense.weight"),
        ("blk.0.layer_output_norm.bias", "encoder.layer.0.output.LayerNorm.bias"),
    ):
        half = name in ("token_embd.weight", "blk.1.ffn_up.weight")
        assert tensors[name].data.dtype == (np.float16 if half else np.float32)
        assert np.array_equal(tensors[name].data, source[given].astype(tensors[name].data.dtype))


def test_the_same_files_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    convert_bert(folder, "tiny-bert", tmp_path / "one.gguf")
    convert_bert(folder, "tiny-bert", tmp_path / "two.gguf")
    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "two.gguf").read_bytes()


def test_llama_cpp_embeds_with_it(folder: Path, tmp_path: Path) -> None:
    """Words are cut as BERT cuts them, lower case and without accents, and the pooled vectors differ as texts do."""
    convert_bert(folder, "tiny-bert", tmp_path / "out.gguf")
    model = llama_cpp.Llama(str(tmp_path / "out.gguf"), embedding=True, n_ctx=POSITIONS, verbose=False)
    words = [WORDS[token] for token in model.tokenize("A MAN eats bread, Cáf".encode())]
    assert words == ["[CLS]", "a", "man", "eat", "##s", "bread", "[UNK]", "caf", "[SEP]"]
    one, same, other = model.embed(["a man eats bread", "A Man Eats Bread", "bread."], normalize=True)
    assert np.dot(one, same) == pytest.approx(1, abs=1e-5)
    assert np.dot(one, other) < 0.99
    model.close()


def test_the_folder_says_how_to_pool_and_to_fold_case(folder: Path, tmp_path: Path) -> None:
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text('{"pooling_mode_cls_token": true, "word_embedding_dimension": 32}')
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    convert_bert(folder, "tiny-bert", tmp_path / "out.gguf")
    fields = gguf.GGUFReader(tmp_path / "out.gguf").fields
    assert fields["bert.pooling_type"].contents() == gguf.PoolingType.CLS
    assert fields["tokenizer.ggml.normalizer.lowercase"].contents() is False
    assert fields["tokenizer.ggml.normalizer.strip_accents"].contents() is False


def _configured(**changes: object) -> Callable[[Path], object]:
    return lambda folder: (folder / "config.json").write_text(json.dumps(config(**changes)))


def _without(name: str) -> Callable[[Path], object]:
    kept = {key: value for key, value in weights().items() if key != name}
    return lambda folder: save_file(kept, folder / "model.safetensors")


def _wide(folder: Path) -> None:
    name = "encoder.layer.0.output.dense.bias"
    save_file({**weights(), name: np.zeros(WIDTH, np.float64)}, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_configured(model_type="roberta"), "it is a roberta gelu absolute model; what can be converted is bert"),
        (_configured(hidden_act="relu"), "bert relu absolute"),
        (_configured(hidden_size=0), r"config\.json: hidden_size: .*greater than or equal to 1"),
        (_configured(num_hidden_layers=3), r"the tensor 'encoder\.layer\.2.*' of a BERT is missing"),
        (_configured(intermediate_size=65), r"has the shape \(64, 32\), by config\.json it has \(65, 32\)"),
        (_configured(vocab_size=99), r"14 words, by config\.json there are 99"),
        (_without("embeddings.LayerNorm.bias"), r"the tensor 'embeddings\.LayerNorm\.bias' of a BERT is missing"),
        (_wide, "is float64, and only float32 and float16"),
        (lambda folder: (folder / "config.json").write_text("{"), r"config\.json: the file: Invalid JSON"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 64), r"model\.safetensors is broken"),
        (lambda folder: (folder / "vocab.txt").write_bytes(b"\xff\n"), r"vocab\.txt: .*invalid start byte"),
        (lambda folder: (folder / "vocab.txt").write_text("\n".join("abcdefghijklmn")), r"\[PAD\], \[UNK\].* missing"),
        (lambda folder: (folder / "tokenizer_config.json").write_text("[]"), "it is no JSON object"),
    ],
)
def test_what_is_no_bert_is_told(folder: Path, tmp_path: Path, spoil: Callable[[Path], object], said: str) -> None:
    spoil(folder)
    with pytest.raises(ConvertError, match=said):
        convert_bert(folder, "tiny-bert", tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


def test_a_pooling_that_is_not_known_is_told(folder: Path, tmp_path: Path) -> None:
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text('{"pooling_mode_max_tokens": true}')
    with pytest.raises(ConvertError, match="pooling_mode_max_tokens; known are mean and cls"):
        convert_bert(folder, "tiny-bert", tmp_path / "out.gguf")
