"""`cxp2p gateway check`: what would keep a gateway from starting, told before it starts, with nothing touched."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner

from cxp2p.checks import FAULT_STATUS
from cxp2p_gateway.commands import gateway
from cxp2p_gateway.store.looking import Looked, look
from cxp2p_gateway.store.sqlite import SCHEMA_VERSION, open_store

PEER = "12D3KooWNoARWUN74FZfbru3NXtmWwd18YucfB1NzpyXq6TFyfWL"
WALL_MS = 1_700_000_000_000


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The settings of a gateway that would start."""
    path = tmp_path / "gateway.toml"
    path.write_text(f'data_path = "{tmp_path / "data"}"\n[http]\nport = 0\n')
    return path


def checked(config: Path, *arguments: str) -> tuple[int, dict[str, tuple[str, str]]]:
    """The exit status, and by what was looked at what it is and what is said of it."""
    result = CliRunner().invoke(gateway, ["check", "--config", str(config), "--json", *arguments])
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert all(line["event"] == "check" for line in lines), result.output
    return result.exit_code, {line["what"]: (line["standing"], line["text"]) for line in lines}


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def made(path: Path) -> None:
    """A database as a gateway leaves it."""

    async def main() -> None:
        async with open_store(path, lambda: WALL_MS):
            pass

    trio.run(main)


@contextmanager
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def test_a_first_start_is_good(config: Path) -> None:
    """It says where everything would be, and makes none of it."""
    before = files(config.parent)
    status, found = checked(config)

    assert status == 0
    assert found["data"] == ("ok", f"{config.parent / 'data'}, which the first start makes")
    assert found["database"][1].endswith("gateway.sqlite, which the first start makes")
    assert found["http"] == ("ok", "http://127.0.0.1:<free port>/api/v1")
    assert found["metrics"] == ("ok", "off")
    assert found["bootstrap"][0] == "note"
    assert files(config.parent) == before
    assert not (config.parent / "data").exists()


def test_people_get_lines(config: Path) -> None:
    """Standing, subject and text, in columns."""
    result = CliRunner().invoke(gateway, ["check", "--config", str(config)])

    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == f"ok     settings   {config}"


def test_wrong_settings_are_named(config: Path) -> None:
    """The setting, and what was expected."""
    config.write_text("[http]\nport = 99999\n")
    status, found = checked(config)

    assert status == FAULT_STATUS
    standing, text = found["settings"]
    assert standing == "fault"
    assert "http.port" in text
    assert "65535" in text


@pytest.mark.parametrize(
    ("section", "what", "said"),
    [
        ('[peer]\nbootstrap = ["/ip4/1.2.3.4/tcp/1"]', "peer", "peer.bootstrap: '/ip4/1.2.3.4/tcp/1'"),
        ('[peer]\nlisten = ["here"]', "peer", "peer.listen: 'here' is no TCP multiaddress"),
        ('[peer]\nannounce = ["/dns/x/udp/1"]', "peer", "peer.announce"),
        ('[peer]\npsk = "abc"', "peer", "peer.psk: expected 64 hex digits"),
        ('[scrape]\nallow = ["a b"]', "settings", "scrape.allow"),
        ("workers = 2", "settings", "http.workers: several workers need PostgreSQL"),
        ('[embeddings]\ntoken_input = "cl100k"\ncl100k_path = "/nowhere"', "settings", "cannot be read"),
        ('[metrics]\nport = 0\nhost = "no such host"', "metrics", "cannot listen on no such host:0"),
    ],
)
def test_each_fault_is_found(config: Path, section: str, what: str, said: str) -> None:
    """What a start would fail at fails here, under its name."""
    config.write_text(config.read_text() + section)
    status, found = checked(config)

    assert status == FAULT_STATUS
    assert found[what][0] == "fault"
    assert said in found[what][1]


def test_ports_are_tried(config: Path) -> None:
    """One that is taken is a fault, and is free to be taken after the check."""
    with taken() as port:
        config.write_text(config.read_text() + f"[metrics]\nport = {port}\n")
        status, found = checked(config, "--port", str(port))
    assert status == FAULT_STATUS
    assert found["http"] == ("fault", f"cannot listen on 127.0.0.1:{port}: another program listens there already")
    assert found["metrics"][0] == "fault"

    status, found = checked(config, "--port", str(port))
    assert (status, found["metrics"]) == (0, ("ok", f"http://127.0.0.1:{port}/metrics"))
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_a_key_must_open(config: Path) -> None:
    """One that others may read, or that needs another passphrase, is a fault; it stays as it was."""
    key = config.parent / "data" / "identity.key"
    key.parent.mkdir()
    key.write_text("no key")
    key.chmod(0o644)
    assert checked(config)[1]["key"][0] == "fault"
    key.chmod(0o600)
    status, found = checked(config)
    assert status == FAULT_STATUS
    assert "is not a PKCS#8 PEM private key" in found["key"][1]
    assert key.read_text() == "no key"


# The database.


def test_a_look_changes_nothing(tmp_path: Path) -> None:
    """A database, none, an empty file: each is told, and stays as it is."""
    path = tmp_path / "gateway.sqlite"
    assert look(path) == Looked(None, "")
    path.touch()
    assert look(path) == Looked(None, "")
    made(path)
    before = files(tmp_path)
    assert look(path) == Looked(SCHEMA_VERSION, "")
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("at", "written", "said"),
    [
        (0, b"something else", "is not a gateway's database"),
        (68, b"\x00\x00\x00\x07", "is not a gateway's database"),
        (60, b"\x00\x00\x00\x63", "has version 99, this program knows"),
    ],
)
def test_a_database_that_cannot_be_used(config: Path, at: int, written: bytes, said: str) -> None:
    """Another program's, or a newer one's."""
    path = config.parent / "data" / "gateway.sqlite"
    made(path)
    with path.open("r+b") as file:
        file.seek(at)
        file.write(written)
    status, found = checked(config)

    assert status == FAULT_STATUS
    assert said in found["database"][1]


def test_an_older_database_is_told(config: Path) -> None:
    """The next start changes it: that is the moment for a copy."""
    path = config.parent / "data" / "gateway.sqlite"
    made(path)
    with path.open("r+b") as file:
        file.seek(60)
        file.write((1).to_bytes(4, "big"))
    status, found = checked(config)

    assert status == 0
    assert "brings up to date: have a copy" in found["database"][1]


def test_while_a_gateway_runs_its_ports_are_its_own(config: Path) -> None:
    """Settings for the next start can be checked while this one serves."""
    path = config.parent / "data" / "gateway.sqlite"
    made(path)
    with taken() as port, path.with_name("gateway.sqlite.lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        status, found = checked(config, "--port", str(port))

    assert status == 0
    assert found["database"][0] == "note"
    assert f"(process {os.getpid()}): its ports are not tried" in found["database"][1]
    assert found["http"][0] == "ok"


# The network.


def test_peers_that_do_not_answer_are_told(config: Path) -> None:
    """Without `--network` nobody is asked; with it one that answers would do, and here is none."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    address = f"/ip4/127.0.0.1/tcp/{port}/p2p/{PEER}"
    assert checked(config, "-b", address)[0] == 0
    status, found = checked(config, "-b", address, "--network")

    assert status == FAULT_STATUS
    assert PEER in found["network"][1]


@pytest.mark.slow
def test_peers_that_answer_are_told(config: Path) -> None:
    """A real bootstrap peer is dialled; one of two is enough."""
    command = [sys.executable, "-m", "cxp2p", "bootstrap", "--json", "--listen", "/ip4/127.0.0.1/tcp/0"]
    environment = {**os.environ, "XDG_DATA_HOME": str(config.parent)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as peer:
        assert peer.stdout is not None
        address = json.loads(peer.stdout.readline())["addresses"][0]
        gone = f"/ip4/127.0.0.1/tcp/1/p2p/{PEER}"
        status, found = checked(config, "-b", gone, "-b", address, "--network")
        peer.terminate()

    assert status == 0
    assert found["network"] == ("ok", f"{address} answers")
