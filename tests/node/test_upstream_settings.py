"""What an operator writes to offer a server of his own, and what is said when it cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cxp2p.errors import SettingsError
from cxp2p.records import Service
from cxp2p.settings import load_settings
from cxp2p_node.config import ModelSettings, NodeSettings
from cxp2p_node.engines.opening import open_engine
from cxp2p_node.engines.upstream import SLOTS
from cxp2p_node.engines.upstream_ask import declared_digest
from cxp2p_node.engines.upstream_settings import upstream_of
from cxp2p_node.models import Store
from upstreams import MODEL, Fake, do, listing, on_loopback, saying
from worlds import chat_job

URL = "http://127.0.0.1:8000/v1"


def loaded(tmp_path: Path, text: str) -> ModelSettings:
    path = tmp_path / "node.toml"
    path.write_text(f"[[models]]\n{text}")
    return load_settings(NodeSettings, "node", path, required=True).models[0]


def model(**fields: Any) -> ModelSettings:
    return ModelSettings(**{"name": "m", "engine": "upstream", "url": URL, **fields})


async def test_a_url_is_all_that_a_server_with_one_model_needs(tmp_path: Path) -> None:
    """The offer has the operator's name for it, and what the server tells."""
    fake = Fake(saying("well"), listing("/models/x.gguf", owned_by="llamacpp", meta={"n_ctx": 4096}))
    async with on_loopback(fake) as server:
        settings = loaded(tmp_path, f'name = "mine"\nengine = "upstream"\nurl = "{server.url}"')
        async with open_engine(settings, Store(tmp_path)) as engine:
            offered = engine.describe()
            assert (await do(engine, chat_job("hello"))).text == "well"  # type: ignore[arg-type]
    assert (offered.model, offered.slots, offered.context_units) == ("mine", SLOTS, 4096)
    assert offered.model_digest == declared_digest("mine", "")
    assert offered.service is Service.CHAT
    assert fake.asked[0].body["model"] == "/models/x.gguf"
    assert "authorization" not in fake.asked[0].headers


async def test_every_setting_reaches_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", " sk-1\n")
    text = (
        f'name = "mine"\nengine = "upstream"\nurl = "URL"\nupstream_model = "{MODEL}"\nservice = "embed"\n'
        'key_env = "MY_KEY"\nslots = 3\nqueue_max = 5\ncontext_units = 512\noutput_units_max = 64\ndigest = "ff"\n'
        "price_in = 1\nprice_out = 2"
    )
    fake = Fake(saying("well"))
    async with on_loopback(fake) as server, upstream_of(loaded(tmp_path, text.replace("URL", server.url))) as engine:
        offered = engine.describe()
    assert (offered.slots, offered.queue_max, offered.context_units, offered.output_units_max) == (3, 5, 512, 64)
    assert (offered.prices.input, offered.prices.output) == (1, 2)
    assert offered.service is Service.EMBED
    assert offered.model_digest == declared_digest(MODEL, "ff")
    assert fake.looks == 1


async def test_a_key_may_stand_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-2\n")
    fake = Fake(saying("well"))
    async with on_loopback(fake) as server:
        settings = model(url=server.url, key_path=tmp_path / "key", upstream_model=MODEL)
        async with upstream_of(settings) as engine:
            await do(engine, chat_job("hello"))
    assert fake.asked[0].headers["authorization"] == "Bearer sk-2"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('engine = "upstream"', "needs url"),
        (f'engine = "upstream"\nurl = "{URL}"\nkey_env = "A"\nkey_path = "b"', "one is enough"),
        (f'url = "{URL}"', 'url: only engine = "upstream" has this, here it is llama'),
        ('engine = "echo"\nkey_env = "A"', 'key_env: only engine = "upstream"'),
        (f'engine = "upstream"\nurl = "{URL}"\nservice = "speech"', "service"),
        ('engine = "vllm"', "engine"),
    ],
)
def test_settings_that_cannot_be_are_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        loaded(tmp_path, f'name = "m"\n{text}')


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"url": "localhost"}, "models: m: url: expected something like"),
        ({"key_env": "NOT_THERE"}, "models: m: key_env: there is no environment variable NOT_THERE"),
        ({"key_env": "EMPTY"}, "EMPTY holds no key"),
        ({"key_env": "LONG"}, "LONG holds no key"),
        ({"key_path": Path("nowhere/key")}, "models: m: key_path: nowhere/key cannot be read"),
    ],
)
def test_a_url_or_a_key_that_cannot_be_is_told_before_the_node_starts(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], words: str
) -> None:
    monkeypatch.delenv("NOT_THERE", raising=False)
    monkeypatch.setenv("EMPTY", " ")
    monkeypatch.setenv("LONG", "x" * 5000)
    with pytest.raises(SettingsError, match=words):
        upstream_of(model(**fields))
