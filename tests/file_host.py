"""A web server on this machine for tests of fetching: plain files, a hub like Hugging Face, and what a bad one does."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cxp2p_node.models import Store, http

HELD_S = 60.0
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass(frozen=True)
class Asked:
    """One request: what for, from which byte on, with which credentials."""

    method: str
    path: str
    range: str | None
    authorization: str | None


@dataclass
class Host:
    """What is served, how it misbehaves, and what was asked for.

    `moved`: paths that answer with a redirect. `hub`: files of repositories, by `owner/repo/file`; they are served from
    another path than they are asked for, as the real hub does.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    hub: dict[str, bytes] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)
    closed: str | None = None  # the token without which the hub's files are not given
    cut_after: int | None = None  # end the next transfer after so many bytes
    ranges: bool = True  # whether parts are given
    tags: bool = True  # whether files have entity tags
    claims: int | None = None  # a length that is not true
    told_sha256: str | None = None  # instead of the right one
    held: threading.Event | None = None  # transfers stop in their middle until it is set
    url: str = ""
    asked: list[Asked] = field(default_factory=list)

    def hold(self) -> threading.Event:
        """Stops transfers in their middle until the event is set."""
        self.held = threading.Event()
        return self.held

    @property
    def transfers(self) -> list[str | None]:
        """The ranges of the files that were sent."""
        return [each.range for each in self.asked if each.method == "GET"]


def find(host: Host, path: str) -> bytes | None:
    if path.startswith("/cdn/"):
        return host.hub.get(path.removeprefix("/cdn/"))
    return host.files.get(path)


class Handler(BaseHTTPRequestHandler):
    """Answers as its host is set up."""

    host: Host

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        keys = (self.headers.get("Range"), self.headers.get("Authorization"))
        self.host.asked.append(Asked(self.command, self.path, *keys))
        if self.path in self.host.moved:
            self.send(302, b"", {"Location": self.host.moved[self.path]})
            return
        repo, mark, rest = self.path.partition("/resolve/")
        data = self.host.hub.get(f"{repo[1:]}/{rest.partition('/')[2]}") if mark else None
        if data is not None:
            self.point_to(data, f"{repo[1:]}/{rest.partition('/')[2]}")
            return
        data = find(self.host, self.path)
        if data is None:
            self.send(404, b"", {})
        else:
            self.send_file(data)

    def point_to(self, data: bytes, name: str) -> None:
        if self.host.closed is not None and self.headers.get("Authorization") != f"Bearer {self.host.closed}":
            self.send(401, b"", {})
            return
        digest = self.host.told_sha256 or hashlib.sha256(data).hexdigest()
        told = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(data)), "X-Repo-Commit": COMMIT}
        self.send(302, b"", {**told, "Location": f"{self.host.url}/cdn/{name}"})

    def send_file(self, data: bytes) -> None:
        tag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
        wanted = self.headers.get("Range") if self.host.ranges else None
        if wanted and self.headers.get("If-Range", tag) != tag:
            wanted = None
        start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
        if wanted and start >= len(data):
            self.send(416, b"", {})
            return
        headers = {"ETag": tag} if self.host.tags else {}
        if wanted:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self.send(206 if wanted else 200, data[start:], headers)

    def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        length = self.host.claims if self.host.claims is not None and body else len(body)
        if length >= 0:
            self.send_header("Content-Length", str(length))
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if self.host.cut_after is not None and body:
            body, self.host.cut_after = body[: self.host.cut_after], None
            self.close_connection = True
        if self.command == "GET":
            half = len(body) // 2 if self.host.held is not None else 0
            self.wfile.write(body[:half])
            if self.host.held is not None and body:
                self.host.held.wait(HELD_S)
            self.wfile.write(body[half:])

    def log_message(self, format: str, *args: object) -> None:
        """Tests are quiet."""


@contextmanager
def serve_files(host: Host) -> Iterator[Host]:
    handler = type("HandlerOfHost", (Handler,), {"host": host})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        host.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield host
        finally:
            server.shutdown()
            thread.join()


REPO, FILE = "maker/tiny-GGUF", "tiny-Q4.gguf"
HUB = f"hf:{REPO}/{FILE}"


@contextmanager
def hosted(data: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """A host that has `data` as `/tiny.gguf` and as a file of a hub, and is the hub of this process."""
    with serve_files(Host(files={"/tiny.gguf": data}, hub={f"{REPO}/{FILE}": data})) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        for name in ("HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HF_HOME", "/nowhere")
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(http, "PAUSE_S", 0.0)
        yield served


def quiet(what: str, done: int, total: int) -> None:
    """No progress."""


def leftovers(store: Store) -> list[str]:
    return sorted(file.name for file in store.path.iterdir() if not file.name.endswith(".lock"))
