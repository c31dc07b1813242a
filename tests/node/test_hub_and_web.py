"""Models from the hub and from the web: real HTTP, to a server on this machine that may be hostile."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from cxp2p.errors import SettingsError
from cxp2p.records import Service
from cxp2p_node.catalog.entries import CatalogEntry, Licence
from cxp2p_node.catalog.sources import HubFile
from cxp2p_node.models import ModelError, Store
from cxp2p_node.models.http import Refused, check_step
from file_host import COMMIT, FILE, HUB, REPO, Host, hosted, leftovers, quiet, serve_files
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


DIGEST = "ab" * 32


def web(host: Host, path: str = "/tiny.gguf") -> str:
    return f"{host.url}{path}"


# The hub.


def test_a_file_of_the_hub_is_pinned_by_what_the_hub_says(host: Host, store: Store, data: bytes) -> None:
    """What was found in the file is kept beside it, and the file is fetched of one commit."""
    entry = store.entry("mine:1b", HUB)
    assert store.pull(entry, quiet).read_bytes() == data
    record = store.record(entry)
    assert record is not None
    assert (record.digest, record.source) == (hashlib.sha256(data).digest(), HUB)
    assert (record.service, record.context_units) == (Service.CHAT, 512)
    assert store.digest(entry) == record.digest
    assert store.has(entry)
    assert leftovers(store) == ["mine-1b.gguf", "mine-1b.json"]
    assert [each.path for each in host.asked] == [
        f"/{REPO}/resolve/main/{FILE}",
        f"/{REPO}/resolve/{COMMIT}/{FILE}",
        f"/cdn/{REPO}/{FILE}",
    ]


def test_a_model_that_is_here_is_found_by_its_name_alone(host: Host, store: Store) -> None:
    """Also by another process, which knows nothing but the folder."""
    store.pull(store.entry("mine:1b", HUB), quiet)
    found = Store(store.path).entry("mine:1b")
    assert (found.source, found.service, found.context_units) == (HubFile(REPO, FILE), Service.CHAT, 512)
    with pytest.raises(SettingsError, match="did you mean 'mine:1b'"):
        store.entry("mine:1")


def test_an_interrupted_transfer_goes_on(host: Host, store: Store, data: bytes) -> None:
    class Killed(BaseException):
        pass

    def kill(what: str, done: int, total: int) -> None:
        if done > len(data) // 2:
            raise Killed

    entry = store.entry("mine:1b", HUB)
    with pytest.raises(Killed):
        store.pull(entry, kill)
    assert not store.has(entry)
    assert store.pull(entry, quiet).read_bytes() == data
    assert host.transfers[-1] is not None


def test_a_cut_connection_goes_on_by_itself(host: Host, store: Store, data: bytes) -> None:
    host.cut_after = 100_000
    assert store.pull(store.entry("mine:1b", HUB), quiet).read_bytes() == data
    assert host.transfers[-1] == "bytes=100000-"


def test_what_is_damaged_on_its_way_is_not_kept(host: Host, store: Store, data: bytes) -> None:
    host.told_sha256 = DIGEST
    entry = store.entry("mine:1b", HUB)
    with pytest.raises(ModelError, match="damaged on its way, and was deleted; try again"):
        store.pull(entry, quiet)
    host.told_sha256 = None
    assert store.pull(entry, quiet).read_bytes() == data


def known(sha256: str, size: int) -> CatalogEntry:
    return CatalogEntry(
        name="tiny:1m",
        service=Service.CHAT,
        source=HubFile(REPO, FILE),
        sha256=bytes.fromhex(sha256),
        size_bytes=size,
        licence=Licence("MIT"),
        context_units=512,
        about="for tests",
    )


def test_a_file_that_was_replaced_on_the_hub_is_noticed_before_it_is_fetched(host: Host, store: Store) -> None:
    with pytest.raises(ModelError, match=f"expected {DIGEST}; it was not kept"):
        store.pull(known(DIGEST, 1000), quiet)
    assert [each.method for each in host.asked] == ["HEAD"]


def test_a_closed_repository_asks_for_a_token(
    host: Host, store: Store, data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the environment or the file that the hub's own programs write."""
    host.closed = "hf_secret"
    entry = store.entry("mine:1b", HUB)
    with pytest.raises(ModelError, match="accept its terms on its page there, and set HF_TOKEN"):
        store.pull(entry, quiet)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(ModelError, match="your token may not read it") as told:
        store.pull(entry, quiet)
    assert "hf_wrong" not in str(told.value)
    monkeypatch.delenv("HF_TOKEN")
    (tmp_path / "token").write_text("hf_secret\n")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert store.pull(entry, quiet).read_bytes() == data


def test_a_token_is_for_the_hub_alone(host: Host, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the hub sends us for the file, the token does not go."""
    with serve_files(Host(files={"/tiny": host.hub[f"{REPO}/{FILE}"]})) as elsewhere:
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        host.moved[f"/{REPO}/resolve/{COMMIT}/{FILE}"] = f"{elsewhere.url}/tiny"
        store.pull(store.entry("mine:1b", HUB), quiet)
        assert [each.authorization for each in elsewhere.asked] == [None]
    assert {each.authorization for each in host.asked} == {"Bearer hf_secret"}


def test_the_hub_is_left_alone_where_that_is_wanted(host: Host, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set"):
        store.pull(store.entry("mine:1b", HUB), quiet)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.example.org")
    with pytest.raises(ModelError, match=r"HF_ENDPOINT is 'http://hub\.example\.org', expected is an https address"):
        store.pull(store.entry("mine:1b", HUB), quiet)
    assert host.asked == []


def test_a_file_that_the_hub_has_not_is_told(host: Host, store: Store) -> None:
    with pytest.raises(ModelError, match=r"the hub has no other\.gguf in maker/tiny-GGUF at main"):
        store.pull(store.entry("mine:1b", f"hf:{REPO}/other.gguf"), quiet)


def test_a_hub_that_cannot_be_reached_is_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match=r"cannot be reached: .*refused"):
        store.pull(store.entry("mine:1b", HUB), quiet)


# The web.


def test_an_address_without_a_hash_is_pinned_with_a_warning(
    host: Host, store: Store, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    entry = store.entry("mine:1b", web(host))
    with caplog.at_level(logging.WARNING):
        assert store.pull(entry, quiet).read_bytes() == data
    assert "nothing says what" in caplog.text
    assert store.digest(entry) == hashlib.sha256(data).digest()


def test_a_pinned_address_may_not_give_another_file(host: Host, store: Store, data: bytes) -> None:
    """What was pinned when it was first used holds until the model is removed."""
    entry = store.entry("mine:1b", web(host))
    store.pull(entry, quiet)
    store.file(entry).unlink()
    host.files["/tiny.gguf"] = data + bytes(32)
    with pytest.raises(ModelError, match=r"pinned when it was first used; `cxp2p models rm mine:1b` forgets that"):
        store.pull(entry, quiet)
    assert store.remove(entry)
    assert store.pull(entry, quiet).read_bytes() == data + bytes(32)


def test_the_hash_behind_an_address_is_heeded(host: Host, store: Store, data: bytes) -> None:
    with pytest.raises(ModelError, match=f"expected {DIGEST}; it was not kept"):
        store.pull(store.entry("mine:1b", f"{web(host)}#sha256={DIGEST}"), quiet)
    right = hashlib.sha256(data).hexdigest()
    assert store.pull(store.entry("mine:1b", f"{web(host)}#sha256={right}"), quiet).read_bytes() == data


@pytest.mark.parametrize("tags", [True, False])
def test_a_file_that_changes_between_two_tries_is_begun_again(
    host: Host, store: Store, data: bytes, tags: bool
) -> None:
    """Parts of two files are never joined: the server says by a tag that it is the same, or it is not assumed."""
    host.tags = tags

    def kill(what: str, done: int, total: int) -> None:
        if done > len(data) // 2:
            host.files["/tiny.gguf"] = data + bytes(32)
            raise KeyboardInterrupt

    entry = store.entry("mine:1b", web(host))
    with pytest.raises(KeyboardInterrupt):
        store.pull(entry, kill)
    assert store.pull(entry, quiet).read_bytes() == data + bytes(32)


def test_a_server_without_parts_gives_the_whole_again(host: Host, store: Store, data: bytes) -> None:
    host.ranges, host.cut_after = False, 100_000
    assert store.pull(store.entry("mine:1b", web(host)), quiet).read_bytes() == data


def test_what_is_no_model_is_not_kept(host: Host, store: Store) -> None:
    host.files["/tiny.gguf"] = b"<!DOCTYPE html>Please log in"
    with pytest.raises(ModelError, match="cannot be served: it is not a GGUF file"):
        store.pull(store.entry("mine:1b", web(host)), quiet)
    assert not store.has(store.entry("mine:1b", web(host)))
    assert leftovers(store) == []


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("file:///etc/passwd", "is not allowed"),
        ("ftp://127.0.0.1/a", "which is no web address"),
        ("data:text/plain,GGUF", "is not allowed"),
        ("/moved", "redirect"),
    ],
)
def test_a_server_cannot_send_us_anywhere(host: Host, store: Store, place: str, said: str) -> None:
    host.moved["/moved"] = place
    with pytest.raises(ModelError, match=said):
        store.pull(store.entry("mine:1b", web(host, "/moved")), quiet)
    assert leftovers(store) in ([], ["mine-1b.gguf.partial"])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("https://a.org/x", "http://a.org/x"),
        ("https://a.org/x", "file:///etc/passwd"),
        ("http://index.corp/x", "http://127.0.0.1/x"),
    ],
)
def test_steps_that_a_server_may_not_ask_for(old: str, new: str) -> None:
    with pytest.raises(Refused):
        check_step(old, new)


def test_an_answer_that_is_too_long_ends_when_there_is_no_room(host: Host, tmp_path: Path, data: bytes) -> None:
    """Told before it begins, or not told at all: no byte more than there is room for is written."""
    room = 64 * 1024 * 1024 + len(data) - 1
    for claims in (None, -1):
        host.claims = claims
        store = Store(tmp_path / str(claims), free=lambda folder: room)
        with pytest.raises(ModelError, match="room for"):
            store.pull(store.entry("mine:1b", web(host)), quiet)
        assert not list(store.path.rglob("*.part"))


def test_a_server_that_fails_is_told(host: Host, store: Store) -> None:
    with pytest.raises(ModelError, match="the server answers 404 Not Found: is the address right"):
        store.pull(store.entry("mine:1b", web(host, "/gone")), quiet)


def test_a_server_that_cannot_be_reached_is_told(host: Host, store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """It is no fault of the disk, and nothing was pinned."""
    with pytest.raises(ModelError, match=r"mine:1b: the server cannot be reached: .*refused.*HTTPS_PROXY"):
        store.pull(store.entry("mine:1b", "https://127.0.0.1:9/tiny.gguf"), quiet)
    assert "pinned" not in caplog.text
