"""What a source is, in text and in settings; files of this machine; the disk, and others who are there too."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from cxp2p.errors import SettingsError
from cxp2p.records import Service
from cxp2p_node.catalog.sources import HubFile, LocalFile, PackagedFile, WebFile, check_name, parse_source
from cxp2p_node.config import ModelSettings
from cxp2p_node.models import ModelError, Store
from cxp2p_node.models.facts import ModelFacts
from cxp2p_node.models.store import SPARE_BYTES
from file_host import HUB, Host, hosted, quiet
from tiny_model import write_tiny_model


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(scope="session")
def data(tiny: Path) -> bytes:
    return tiny.read_bytes()


@pytest.fixture
def host(data: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    with hosted(data, monkeypatch) as served:
        yield served


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models")


# Texts.

DIGEST = "ab" * 32


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("pypi:tiny==1.0/a/b.gguf", PackagedFile(package="tiny", version="1.0", member="a/b.gguf")),
        ("hf:a/b/c.gguf", HubFile("a/b", "c.gguf")),
        ("hf:a/b.c/d/e-f.gguf@v1", HubFile("a/b.c", "d/e-f.gguf", "v1")),
        ("https://example.org/a.gguf", WebFile("https://example.org/a.gguf")),
        ("http://127.0.0.1:8000/a.gguf", WebFile("http://127.0.0.1:8000/a.gguf")),
        ("http://[::1]/a.gguf", WebFile("http://[::1]/a.gguf")),
        ("file:/data/my models/a.gguf", LocalFile(Path("/data/my models/a.gguf"))),
    ],
)
def test_a_source_is_read_as_it_is_written(text: str, source: object) -> None:
    assert parse_source(text) == (source, None)
    assert str(source) == text
    assert parse_source(f"{text}#sha256={DIGEST}") == (source, bytes.fromhex(DIGEST))


def test_a_file_may_be_named_in_other_ways() -> None:
    assert parse_source("file:///data/a.gguf")[0] == LocalFile(Path("/data/a.gguf"))
    assert parse_source("file:~/a.gguf")[0] == LocalFile(Path("~/a.gguf").expanduser())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not known; known are pypi:"),
        ("hf:", "is not known"),
        ("ftp://example.org/a.gguf", "is not known"),
        ("data:text/plain,GGUF", "is not known"),
        ("x" * 3000, "too long or not printable"),
        ("hf:a/b/c\n.gguf", "too long or not printable"),
        ("pypi:tiny/a.gguf", "should read pypi:package==version"),
        ("pypi:--index==1/a.gguf", "should read pypi:"),
        ("pypi:tiny==1 --index=x/a.gguf", "should read pypi:"),
        ("hf:a/b", "should read hf:"),
        ("hf:../../etc/passwd", "should read hf:"),
        ("hf:a/b/../c.gguf", "should read hf:"),
        ("hf:a/b/c.gguf?download=true", "should read hf:"),
        ("hf:a/b/c.gguf@../main", "should read hf:"),
        ("hf:a/b/c.gguf@a/../b", "a revision that is none"),
        ("https:///a.gguf", "should read https://host/path"),
        ("https://user:secret@example.org/a", "without a user or a password"),
        ("https://example.org:x/a", "is no address"),
        ("https://example.org/a b", "should read https://host/path"),
        ("http://example.org/a.gguf", "not protected on its way: use https"),
        ("http://127.0.0.1.example.org/a.gguf", "use https"),
        ("file:a.gguf", "should have the whole path"),
        ("https://example.org/a#sha256=ab", r"known is #sha256= and 64 digits"),
        ("https://example.org/a#top", r"known is #sha256="),
    ],
)
def test_what_is_no_source_is_told(text: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        parse_source(text)


def test_a_password_in_an_address_is_not_repeated() -> None:
    with pytest.raises(SettingsError) as told:
        parse_source("https://user:secret@example.org/a")
    assert "secret" not in str(told.value)


@pytest.mark.parametrize(
    "name",
    ["", "..", "../x", "a/../b", "a//b", "/etc/passwd", "a/", ".hidden", "-rf", "A", "a b", "a\x1b[2J", "é", "a" * 97],
)
def test_a_name_that_is_no_name_of_a_file_is_refused(name: str, tmp_path: Path, tiny: Path) -> None:
    store = Store(tmp_path / "models")
    with pytest.raises(SettingsError, match="cannot be used: expected are up to 96 small letters"):
        check_name(name)
    with pytest.raises(SettingsError):
        store.take(tiny, name, quiet)
    with pytest.raises(SettingsError):
        store.entry(name, HUB)
    assert not store.path.exists()


def test_settings_take_a_source_and_say_what_is_wrong_with_it() -> None:
    assert ModelSettings(name="mine:1b", source=HUB).source == HUB
    for fields, said in (
        ({"source": "gopher://x"}, "source 'gopher://x' is not known"),
        ({"source": HUB, "path": "/a.gguf"}, "it stands alone"),
        ({"source": HUB, "engine": "echo"}, "it stands alone"),
        ({"source": HUB, "name": "../x"}, r"name '\.\./x' cannot be used"),
    ):
        with pytest.raises(ValidationError, match=said):
            ModelSettings.model_validate({"name": "mine:1b", **fields})


# This machine.


def test_a_file_of_this_machine_is_linked(store: Store, tiny: Path, data: bytes) -> None:
    entry = store.entry("mine:1b", f"file:{tiny}")
    assert store.pull(entry, quiet).read_bytes() == data
    assert store.file(entry).stat().st_ino == tiny.stat().st_ino


def test_a_file_that_is_not_there_is_told(store: Store) -> None:
    with pytest.raises(ModelError, match=r"there is no file /nowhere\.gguf"):
        store.pull(store.entry("mine:1b", "file:/nowhere.gguf"), quiet)


def test_an_imported_file_is_found_by_name(store: Store, tiny: Path, data: bytes) -> None:
    entry, facts = store.take(tiny, "mine:1b", quiet)
    assert isinstance(facts, ModelFacts)
    assert (facts.architecture, entry.service) == ("llama", Service.CHAT)
    assert store.pull(store.entry("mine:1b"), quiet).read_bytes() == data
    assert store.check(entry, quiet)
    store.file(entry).unlink()
    with pytest.raises(ModelError, match=r"was imported from .*tiny\.gguf and is no longer in the store"):
        store.pull(store.entry("mine:1b"), quiet)


def test_a_copy_is_a_file_of_its_own(store: Store, tiny: Path) -> None:
    entry, _ = store.take(tiny, "mine:1b", quiet, copy=True)
    assert store.file(entry).stat().st_ino != tiny.stat().st_ino


def test_two_models_never_share_a_name_or_a_file(host: Host, store: Store, tiny: Path, tmp_path: Path) -> None:
    other = write_tiny_model(tmp_path / "other.gguf", loop=True)
    store.take(tiny, "mine:1b", quiet)
    for make, said in (
        (lambda: store.take(other, "mine:1b", quiet), "came from import:"),
        (lambda: store.take(other, "mine-1b", quiet), "would have the same file"),
        (lambda: store.pull(store.entry("mine:1b", HUB), quiet), "came from import:"),
        (lambda: store.take(other, "smollm2:135m", quiet), "is a name of the catalogue"),
    ):
        with pytest.raises(SettingsError, match=said):
            make()
    assert store.check(store.entry("mine:1b"), quiet)


# The disk, and others who are there too.


def test_a_disk_that_fills_up_is_told_and_what_is_there_is_used(host: Host, store: Store, data: bytes) -> None:
    def full(what: str, done: int, total: int) -> None:
        if done > len(data) // 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    entry = store.entry("mine:1b", HUB)
    with pytest.raises(ModelError, match=r"cannot be stored in .*models: No space left on device"):
        store.pull(entry, full)
    assert store.pull(entry, quiet).read_bytes() == data
    assert host.transfers[-1] is not None


def test_a_full_disk_is_told_before_anything_is_fetched(host: Host, tmp_path: Path) -> None:
    store = Store(tmp_path, free=lambda folder: 64 * 1024 * 1024 + 10)
    with pytest.raises(ModelError, match="MiB are free: make room, or set models_path"):
        store.pull(store.entry("mine:1b", HUB), quiet)
    assert [each.method for each in host.asked] == ["HEAD"]


@pytest.mark.parametrize("source", ["hub", "web"])
def test_what_is_here_of_a_file_needs_no_room_again(host: Host, tmp_path: Path, data: bytes, source: str) -> None:
    """The disk has room for the file once. A fetch that is killed in its middle goes on, and what it left is kept."""

    def free(folder: Path) -> int:
        used = sum(file.stat().st_size for file in folder.rglob("*.part"))
        return SPARE_BYTES + len(data) - used

    class Killed(BaseException):
        pass

    def kill(what: str, done: int, total: int) -> None:
        if done > len(data) // 2:
            raise Killed

    store = Store(tmp_path / "models", free)
    entry = store.entry("mine:1b", HUB if source == "hub" else f"{host.url}/tiny.gguf")
    with pytest.raises(Killed):
        store.pull(entry, kill)
    assert free(store.path) < SPARE_BYTES + len(data) // 2
    assert store.pull(entry, quiet).read_bytes() == data
    assert host.transfers[-1] is not None


PULL = """
import sys
from pathlib import Path
from cxp2p_node.models import Store
store = Store(Path(sys.argv[1]))
store.pull(store.entry("mine:1b", sys.argv[2]), lambda what, done, total: None)
"""


@pytest.mark.slow
def test_two_processes_fetch_a_file_once(host: Host, store: Store, data: bytes) -> None:
    command = [sys.executable, "-c", PULL, str(store.path), HUB]
    with subprocess.Popen(command) as one, subprocess.Popen(command) as other:
        assert (one.wait(60), other.wait(60)) == (0, 0)
    assert store.file(store.entry("mine:1b", HUB)).read_bytes() == data
    assert len([path for path in host.asked if path.path.startswith("/cdn/")]) == 1


def test_a_record_that_is_no_record_is_passed_over(store: Store, tiny: Path) -> None:
    """The folder is the user's: what stands in it may be anything."""
    store.take(tiny, "mine:1b", quiet)
    (store.path / "list.json").write_text("{}")
    (store.path / "broken.json").write_bytes(b"\xff\x00")
    (store.path / "large.json").write_text('{"name": "' + "a" * 100_000)
    (store.path / "other.json").write_bytes((store.path / "mine-1b.json").read_bytes())
    assert [entry.name for entry in store.own()] == ["mine:1b"]
