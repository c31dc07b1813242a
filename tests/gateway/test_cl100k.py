"""Token ids of OpenAI's tokenizer as text: with a small table in place of the real one, which is not ours to carry."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cxp2p.errors import SettingsError
from cxp2p_gateway.config import EmbeddingSettings
from cxp2p_gateway.faults import Fault
from cxp2p_gateway.openai import EmbedRules, TokenInput, embed_ask
from cxp2p_gateway.openai import embeddings as embeddings_module
from cxp2p_gateway.openai.cl100k import Cl100k, load_cl100k

WORDS = (b"hello", b" world", b"\xc3", b"\xa9", b"!")
TABLE = Cl100k(WORDS)
RULES = EmbedRules(token_input=TokenInput.CL100K, native=("mine:1b", "all-minilm-l6-v2"), cl100k=TABLE)


def written(path: Path, rows: list[str]) -> str:
    """A table at `path`; its SHA-256."""
    path.write_text("\n".join(rows) + "\n")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def inputs(raw: Any, model: str = "m", rules: EmbedRules = RULES) -> tuple[object, ...]:
    return embed_ask({"model": model, "input": raw}, rules).inputs


def test_a_table_is_read_as_tiktoken_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "cl100k_base.tiktoken"
    sha256 = written(path, [f"{base64.b64encode(word).decode()} {number}" for number, word in enumerate(WORDS)])
    assert load_cl100k(path, sha256) == TABLE


def test_a_file_that_is_not_the_table_is_refused(tmp_path: Path) -> None:
    """Another one, none, and one that is damaged in a way that its hash does not tell."""
    path = tmp_path / "table"
    with pytest.raises(SettingsError, match=r"cl100k_path: .*table cannot be read: No such file"):
        load_cl100k(path)
    for rows in (["aGVsbG8= 0", "d29ybGQ= 2"], ["aGVsbG8= zero"], ["!!!! 0"], ["aGVsbG8="]):
        sha256 = written(path, rows)
        with pytest.raises(SettingsError, match=r"table is not OpenAI's cl100k_base\.tiktoken, whose SHA-256 is 2239"):
            load_cl100k(path)
        with pytest.raises(SettingsError, match="table is no table of tokens"):
            load_cl100k(path, sha256)


@pytest.mark.parametrize(
    ("raw", "texts"),
    [
        ([0, 1, 4], ("hello world!",)),
        ([[0], [1, 4]], ("hello", " world!")),
        (["as it is", [0]], ("as it is", "hello")),
        ([2, 3], ("é",)),
        ([0, 2], ("hello\ufffd",)),  # clients cut long texts anywhere
    ],
)
def test_ids_become_the_text_that_they_were_made_of(raw: Any, texts: tuple[str, ...]) -> None:
    """Each input by itself; the node makes tokens of its own of it."""
    assert inputs(raw) == texts


def test_a_model_whose_own_ids_are_meant_gets_them() -> None:
    """By any of its names."""
    assert inputs([0, 99], "mine:1b") == ((0, 99),)
    assert inputs([[0, 99]], "all-minilm") == ((0, 99),)
    reject = EmbedRules(native=("mine:1b",))
    assert inputs([0, 99], "mine:1b", reject) == ((0, 99),)
    with pytest.raises(Fault):
        inputs([0, 99], "other:1b", reject)


@pytest.mark.parametrize(
    ("raw", "param", "problem"),
    [
        ([0, 5], "input[1]", "it is not between 0 and 4"),
        ([[0], [-1]], "input[1][0]", "it is not between 0 and 4"),
        ([[0], []], "input[1]", "0 tokens"),
        ([0, "x"], "input[1]", "expected a token id, got a string"),
    ],
)
def test_ids_that_are_none_are_named(raw: Any, param: str, problem: str) -> None:
    with pytest.raises(Fault) as caught:
        inputs(raw)
    assert caught.value.param == param
    assert problem in str(caught.value.words["problem"])


def test_ids_do_not_become_more_text_than_a_body_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short id may be a long word."""
    monkeypatch.setattr(embeddings_module, "LETTERS_MAX", 50)
    assert len(inputs([[0]] * 10)) == 10
    with pytest.raises(Fault) as caught:
        inputs([[0]] * 11)
    assert caught.value.param == "input"
    assert caught.value.words["problem"] == "its token ids are more than 50 letters"


def test_the_table_and_its_use_are_set_together() -> None:
    table = Path("cl100k_base.tiktoken")
    assert EmbeddingSettings(token_input=TokenInput.CL100K, cl100k_path=table).cl100k_path == table
    for fields in ({"token_input": TokenInput.CL100K}, {"cl100k_path": table}):
        with pytest.raises(ValidationError, match='token_input = "cl100k" and cl100k_path: one needs the other'):
            EmbeddingSettings.model_validate(fields)
