"""Fetching what was published over HTTP: checked while it comes, and nothing is kept of what does not hold."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cxp2p import cli
from cxp2p.epoch_files import published
from cxp2p.errors import CxError, EpochInvalid, PeerUnreachable, SettingsError
from cxp2p.fetching import epoch_url, fetch_epoch
from cxp2p.rewards import DEFAULT_RULES, rules_hash
from hours import EPOCH, entry, hour

ENVELOPE, ROOT, ENTRIES, _ = hour(
    *(entry(number % 2, number) for number in range(4)), rules_hash=rules_hash(DEFAULT_RULES)
)
FILE = b"".join(published(ENVELOPE, ENTRIES))


@contextmanager
def gateway(body: bytes, status: int = 200) -> Iterator[str]:
    """An HTTP server that says one thing under the path of the epoch."""

    class Saying(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            right = self.path == f"/api/v1/epochs/{EPOCH}/file"
            self.send_response(status if right else 404)
            self.end_headers()
            self.wfile.write(body if right else b'{"error": "nothing counted for it"}')

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Saying) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("https://a.example", "https://a.example/api/v1/epochs/7/file"),
        ("https://a.example/", "https://a.example/api/v1/epochs/7/file"),
        ("http://a.example:8080/v1", "http://a.example:8080/v1/epochs/7/file"),
        ("https://a.example/v1/?gateway=12D3", "https://a.example/v1/epochs/7/file?gateway=12D3"),
    ],
)
def test_where_the_file_is(given: str, url: str) -> None:
    """Below the base that is given, or the documented one."""
    assert epoch_url(given, 7) == url


def test_what_holds_is_kept_to_the_byte(tmp_path: Path) -> None:
    with gateway(FILE) as url:
        fetch_epoch(url, EPOCH, (), tmp_path / "epoch")
    assert (tmp_path / "epoch").read_bytes() == FILE
    assert [each.name for each in tmp_path.iterdir()] == ["epoch"]


@pytest.mark.parametrize(
    ("body", "status", "error", "says"),
    [
        (FILE[:-1], 200, EpochInvalid, "the file ends in the middle"),
        (FILE[:900] + b"\x00" + FILE[901:], 200, EpochInvalid, "receipt"),
        (b"", 200, EpochInvalid, "the file is empty"),
        (b"<html>" * 20_000, 200, EpochInvalid, "does not begin with an epoch"),
        (b'{"error": {"message": "not closed\\u001b[2J yet"}}', 404, PeerUnreachable, "404: not closed"),
        (b"oops", 500, PeerUnreachable, "500: no reason is told"),
    ],
)
def test_what_does_not_hold_leaves_nothing(
    body: bytes, status: int, error: type[CxError], says: str, tmp_path: Path
) -> None:
    """Neither the file nor a part of it; the reason is told."""
    with gateway(body, status) as url, pytest.raises(error, match=says):
        fetch_epoch(url, EPOCH, (), tmp_path / "epoch")
    assert list(tmp_path.iterdir()) == []


@contextmanager
def server(said: bytes, *, resets: bool = False) -> Iterator[str]:
    """Something on a port that answers with these bytes and ends, or resets the connection."""

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65_536)
            connection.sendall(said)
            if resets:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            thread.join()


CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("said", "resets"),
    [
        (b"", False),
        (b"", True),
        (b"garbage\r\n\r\n", False),
        (CHUNKED + b"5\r\nabc", False),
        (CHUNKED + b"zz\r\nabc", False),
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 100\r\n\r\nabc", False),
    ],
)
def test_what_speaks_no_http_is_no_fault_of_the_file(said: bytes, resets: bool, tmp_path: Path) -> None:
    """Whatever a server says, or leaves out, the reason names the address that was asked."""
    with server(said, resets=resets) as url, pytest.raises(PeerUnreachable, match=f"{url}/api/v1/epochs/{EPOCH}/file"):
        fetch_epoch(url, EPOCH, (), tmp_path / "epoch")
    assert list(tmp_path.iterdir()) == []


def test_another_epoch_is_not_the_one_that_was_asked_for(tmp_path: Path) -> None:
    """A file may hold, and be of another hour."""
    other, _, entries, _ = hour(entry(0, 1), epoch=EPOCH + 1)
    with gateway(b"".join(published(other, entries))) as url, pytest.raises(EpochInvalid, match=f"epoch {EPOCH + 1}"):
        fetch_epoch(url, EPOCH, (), tmp_path / "epoch")
    assert list(tmp_path.iterdir()) == []


def test_who_is_not_there_is_said(tmp_path: Path) -> None:
    """A port that nobody listens on; what is neither a URL nor an address; a folder that is not there."""
    with pytest.raises(PeerUnreachable, match="cannot be read"):
        fetch_epoch("http://127.0.0.1:1", EPOCH, (), tmp_path / "epoch")
    with pytest.raises(SettingsError, match="no URL, and no address"):
        fetch_epoch("12D3KooW", EPOCH, (), tmp_path / "epoch")
    with gateway(FILE) as url, pytest.raises(SettingsError, match="cannot be written"):
        fetch_epoch(url, EPOCH, (), tmp_path / "none" / "epoch")


def run(*words: object) -> Result:
    return CliRunner().invoke(cli.main, [str(word) for word in words])


def test_commands_fetch_what_is_not_a_file(tmp_path: Path) -> None:
    """And say the same of it, to the µcredit."""
    path = tmp_path / "epoch"
    with gateway(FILE) as url:
        where = ("--epoch", EPOCH, "--gateway", url)
        fetched = run("epoch", "fetch", *where, "-o", path)
        shown, verified = run("epoch", "show", *where), run("epoch", "verify", *where)
        computed = run("rewards", "compute", *where, "--json")
        missing = run("epoch", "verify", "--epoch", EPOCH + 1, "--gateway", url)
    assert fetched.stdout.startswith(f"{path}: 4 receipts of epoch {EPOCH}")
    assert shown.stdout == run("epoch", "show", path).stdout != ""
    assert verified.stdout == run("epoch", "verify", path).stdout != ""
    assert computed.stdout == run("rewards", "compute", path, "--json").stdout != ""
    assert (missing.exit_code, "nothing counted for it" in missing.stderr) == (1, True)


@pytest.mark.parametrize("words", [(), ("file", "--epoch", "7"), ("--epoch", "7"), ("--gateway", "http://a")])
def test_a_file_or_where_it_is_must_be_given(words: tuple[str, ...]) -> None:
    done = run("epoch", "verify", *words)
    assert done.exit_code == 2
    assert "give a FILE, or --epoch and --gateway" in done.stderr


def test_times_are_of_the_networks_epochs(tmp_path: Path) -> None:
    """Where an epoch is no hour, it must be said how long it is."""
    (tmp_path / "epoch").write_bytes(FILE)
    assert "2027-01-15 08:00:00 UTC to 2027-01-15 09:00:00 UTC" in run("epoch", "show", tmp_path / "epoch").stdout
    short = run("epoch", "show", tmp_path / "epoch", "--epoch-s", "10").stdout
    assert "1970-02-27 20:53:20 UTC to 1970-02-27 20:53:30 UTC" in short
