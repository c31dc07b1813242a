"""Hosts on this machine over HTTP, each with pages of all kinds, that remember who asked for what."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from demo.site import PAGE

PATIENCE_S = 60
LEAF = PAGE.replace("lighthouse", "buoy")

# Empty without its script, which loads what it says from elsewhere on the host, and then tries to get further in.
DRAWN = """<html><head><title>Drawn</title></head><body><div id="app"></div><script>
const places = %s;
setTimeout(async () => {
  const told = await (await fetch("/private/told.json")).json();
  const all = await Promise.all(places.map(place => fetch(place).then(() => "something", () => "nothing")));
  const inner = "<h1>Tides</h1><p>" + told.text + "</p><p>Found: " + all.join(", ") + ".</p>";
  document.getElementById("app").innerHTML = inner;
}, 500);
</script></body></html>"""
TOLD = "The tide turns twice a day, and the keeper writes down when. " * 6


@dataclass
class Site:
    """One host of this machine, and when each page of it was asked for and answered."""

    address: str
    url: str = ""
    visits: list[tuple[str, float, float]] = field(default_factory=list)
    agents: set[str] = field(default_factory=set)
    places: tuple[str, ...] = ()
    released: threading.Event = field(default_factory=threading.Event)
    tenth: threading.Event = field(default_factory=threading.Event)

    def asked(self, path: str) -> int:
        return sum(each == path for each, *_ in self.visits)


class Handler(BaseHTTPRequestHandler):
    """Answers as its paths say. A page's address ends in a number."""

    protocol_version = "HTTP/1.1"
    timeout = 10
    site: Site

    def do_GET(self) -> None:
        begun = time.monotonic()
        self.site.agents.add(self.headers["User-Agent"])
        self.answer()
        self.site.visits.append((self.path, begun, time.monotonic()))
        if len(self.site.visits) == 10:
            self.site.tenth.set()

    def answer(self) -> None:
        match self.path:
            case "/robots.txt":
                self.give(200, "text/plain", b"User-agent: *\nDisallow: /private\n")
            case "/missing":
                self.give(404, "text/html", b"<h1>Not here</h1>")
            case "/hangs":
                self.site.released.wait(PATIENCE_S)
                self.close_connection = True
            case "/inside":
                self.give(302, "text/html", b"", ("Location", "http://10.0.0.1/"))
            case "/round":
                self.give(302, "text/html", b"", ("Location", "/round"))
            case "/moved":
                self.give(301, "text/html", b"", ("Location", "/page/7"))
            case "/empty":
                self.give(200, "text/html", b"<html><body></body></html>")
            case "/picture":
                self.give(200, "image/png", b"\x89PNG")
            case "/drawn" | "/private/drawn":
                self.give(200, "text/html", (DRAWN % json.dumps(self.site.places)).encode())
            case "/private/told.json":
                self.give(200, "application/json", json.dumps({"text": TOLD}).encode())
            case "/large":
                self.give(200, "text/html", b"<p>" + b"word " * 2_200_000)
            case "/latin":
                self.give(
                    200, "text/html; charset=iso-8859-1", "<h1>Über</h1><p>Zwölf Boxkämpfer</p>".encode("latin-1")
                )
            case _:
                self.give(200, "text/html", LEAF.encode())

    def give(self, status: int, kind: str, body: bytes, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        told = (("Content-Type", kind), ("Content-Length", str(len(body))), ("Access-Control-Allow-Origin", "*"))
        for name, value in (*told, *headers):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def served(site: Site) -> Iterator[Site]:
    handler = type("SiteHandler", (Handler,), {"site": site})
    server = ThreadingHTTPServer((site.address, 0), handler)
    server.daemon_threads = False  # `server_close` waits until the last connection is closed; nodes are gone by then
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    site.url = f"http://{site.address}:{server.server_address[1]}"
    try:
        yield site
    finally:
        site.released.set()
        server.shutdown()
        server.server_close()
        thread.join()
