"""A package index on this machine for tests of fetching: real HTTP, real pip, nothing from outside."""

from __future__ import annotations

import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def metadata(package: str, version: str) -> bytes:
    return f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n".encode()


def wheel(package: str, version: str, members: dict[str, bytes]) -> bytes:
    """The bytes of a minimal wheel."""
    name = package.replace("-", "_")
    info = f"{name}-{version}.dist-info"
    files = {
        **members,
        f"{info}/METADATA": metadata(package, version),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for member, data in files.items():
            archive.writestr(member, data)
    return out.getvalue()


@dataclass
class Index:
    """What is served, how it misbehaves, and what was asked for."""

    package: str
    version: str
    wheel: bytes
    others: dict[str, bytes] = field(default_factory=dict)  # wheels of other packages, of the same version
    cut_after: int | None = None  # end the next transfer after so many bytes
    login: bool = False  # serve the wheel only to pip
    url: str = ""
    ranges: list[str | None] = field(default_factory=list)  # of each transfer that was begun

    @property
    def wheels(self) -> dict[str, bytes]:
        """Every package that is here, and its wheel."""
        return {self.package: self.wheel, **self.others}

    def file(self, package: str) -> str:
        return f"{package.replace('-', '_')}-{self.version}-py3-none-any.whl"


@contextmanager
def serve(index: Index) -> Iterator[Index]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            for package, data in index.wheels.items():
                file = index.file(package)
                if self.path == f"/simple/{package}/":
                    attributes = f'href="/files/{file}#sha256={hashlib.sha256(data).hexdigest()}"'
                    attributes += ' data-core-metadata="true"'
                    attributes += ' data-dist-info-metadata="true"'  # its name in PEP 658, which older pips know
                    self.answer(200, f"<!DOCTYPE html><a {attributes}>{file}</a>".encode(), "text/html")
                elif self.path == f"/files/{file}.metadata":
                    self.answer(200, metadata(package, index.version), "text/plain")
                elif self.path == f"/files/{file}":
                    self.send_wheel(data)
                else:
                    continue
                return
            self.answer(404, b"", "text/plain")

        def send_wheel(self, whole: bytes) -> None:
            if index.login and "pip" not in self.headers["User-Agent"]:
                self.answer(401, b"", "text/plain")
                return
            wanted = self.headers.get("Range")
            index.ranges.append(wanted)
            start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
            data = whole[start:]
            self.send_response(206 if wanted else 200)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if index.cut_after is not None:
                data, index.cut_after = data[: index.cut_after], None
                self.close_connection = True
            self.wfile.write(data)

        def answer(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Tests are quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        index.url = f"http://127.0.0.1:{server.server_port}/simple/"
        try:
            yield index
        finally:
            server.shutdown()
            thread.join()
