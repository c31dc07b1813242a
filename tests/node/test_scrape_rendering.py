"""Pages after their scripts ran, in Debian's Chromium, whose every request goes through our proxy."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import trio

from cxp2p.errors import SettingsError
from cxp2p.records import PageFault
from cxp2p_node.scrape import proxy as proxy_module
from cxp2p_node.scrape.fetched import FetchRefused
from cxp2p_node.scrape.proxy import Proxy, open_proxy
from cxp2p_node.scrape.rendering import NAMES, Renderer, browser_path, renderer_of
from webs import LOOPBACK, Asked, Line, Web, allowing, fetcher_on_loopback, on_loopback

FOUND = next((found for name in NAMES if (found := shutil.which(name))), None)
needs_browser = pytest.mark.skipif(FOUND is None, reason="no Chromium here: tools/test-packages.sh installs it")

DRAWN = """<html><body><div id="app"></div><script>
setTimeout(async () => {
  const more = await (await fetch("/more.json")).json();
  document.getElementById("app").innerHTML = "<h1>Drawn</h1><p>" + more.text + "</p>";
}, 800);
</script></body></html>"""

# Says on the page what became of each try to reach what it may not.
SPY = """<html><body><p id="said"></p><script>
const places = %s;
Promise.all(places.map(place => fetch(place, {mode: "no-cors"}).then(r => "got " + r.type, () => "failed")))
  .then(all => { document.getElementById("said").textContent = "done: " + all.join(","); });
</script></body></html>"""


def renderer(web: Web, **settings: Any) -> Renderer:
    assert FOUND is not None
    return renderer_of(Path(FOUND), fetcher_on_loopback(web, **settings), "CxmputeBot/test", os.geteuid())


def processes_of(group: int) -> list[int]:
    """Those of a process group that are alive."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, of_group = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(of_group) == group and state != "Z":
            found.append(int(folder.name))
    return found


@pytest.mark.slow
@needs_browser
async def test_a_page_that_its_scripts_make() -> None:
    """Empty without them, full with them, and with what they load; a host sees who we are."""

    async def script(asked: Asked, line: Line) -> None:
        if asked.path == "/more.json":
            await line.page('{"text": "By a script."}', content_type="application/json")
        else:
            await line.page(DRAWN)

    async with on_loopback(Web({"*": allowing(script)})) as web:
        dom = await renderer(web).render(web.url("drawn.example"), timeout_s=60, wait_ms=0)

    assert b"<h1>Drawn</h1><p>By a script.</p>" in dom
    assert {"/", "/more.json"} <= set(web.paths())
    assert {asked.headers["user-agent"] for asked in web.asked} == {"CxmputeBot/test"}


@pytest.mark.slow
@needs_browser
async def test_a_script_reaches_nothing_that_is_not_public() -> None:
    """Neither loopback, nor a cloud's metadata, nor a name that means either: the proxy refuses, nobody is asked."""
    async with on_loopback(Web()) as inner:

        async def script(asked: Asked, line: Line) -> None:
            places = [
                inner.url(LOOPBACK),
                inner.url("localhost"),
                inner.url("inner.example"),
                "http://169.254.169.254/latest/meta-data/",
                "https://10.0.0.1/",
                "http://[::1]:8080/",
            ]
            await line.page(SPY % places)

        async with on_loopback(Web({"*": allowing(script)})) as web:
            names = {"spy.example": [LOOPBACK], "inner.example": [LOOPBACK]}
            rendering = renderer(web, names=names, allow=("spy.example",), ports=(web.port, inner.port, 80, 443, 8080))
            dom = await rendering.render(web.url("spy.example"), timeout_s=60, wait_ms=0)

    assert b"done: " in dom
    assert inner.taken == 0
    assert web.paths()[0] == "/"


@pytest.mark.slow
@needs_browser
async def test_scripts_that_never_end_are_ended_with_all_their_processes() -> None:
    """After the job's time; and at once when the job is cancelled."""

    async def script(asked: Asked, line: Line) -> None:
        await line.page("<script>while (true) {}</script>")

    async with on_loopback(Web({"*": allowing(script)})) as web:
        rendering = renderer(web)
        groups: set[int] = set()

        async def look() -> None:
            while not rendering.groups:
                await trio.lowlevel.checkpoint()
            groups.update(rendering.groups)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            with pytest.raises(FetchRefused) as caught:
                await rendering.render(web.url("loop.example"), timeout_s=3, wait_ms=0)
        assert caught.value.fault is PageFault.TIMEOUT
        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            with trio.move_on_after(1) as scope:
                await rendering.render(web.url("loop.example"), timeout_s=60, wait_ms=0)
        assert scope.cancelled_caught
    assert len(groups) == 2
    assert not [pid for group in groups for pid in processes_of(group)]
    assert not rendering.groups


@pytest.mark.slow
@needs_browser
async def test_a_page_that_cannot_be_had_is_not_the_browsers_words_about_it() -> None:
    """What Chromium shows instead is no page."""
    async with on_loopback(Web()) as web:
        rendering = renderer(web, names={"there.example": [LOOPBACK]}, ports=(443,))
        with pytest.raises(FetchRefused) as caught:
            await rendering.render("https://nowhere.example/", timeout_s=60, wait_ms=0)
    assert caught.value.fault is PageFault.EXTRACTION_EMPTY


# The proxy, without a browser.


async def ask(proxy: Proxy, text: str) -> bytes:
    """What the proxy says to a request, until it closes the connection."""
    stream = await trio.open_tcp_stream(LOOPBACK, proxy.port)
    async with stream:
        await stream.send_all(text.encode())
        said = bytearray()
        while data := await stream.receive_some(1 << 16):
            said += data
        return bytes(said)


async def test_a_request_goes_on_to_its_host_in_the_hosts_form() -> None:
    """With the headers that are the host's, and for one request."""
    async with on_loopback(Web()) as web, open_proxy(fetcher_on_loopback(web)) as proxy:
        url = web.url("a.example", "/x?y=1")
        said = await ask(proxy, f"GET {url} HTTP/1.1\r\nHost: lie\r\nProxy-Connection: x\r\nAccept: */*\r\n\r\n")

    assert said.startswith(b"HTTP/1.1 200")
    (asked,) = web.asked
    assert (asked.host, asked.path) == ("a.example", "/x?y=1")
    assert asked.headers["connection"] == "close"
    assert "proxy-connection" not in asked.headers
    assert proxy.requests == 1


async def test_a_tunnel_carries_bytes_both_ways() -> None:
    """Whatever they are."""
    async with on_loopback(Web()) as web, open_proxy(fetcher_on_loopback(web)) as proxy:
        stream = await trio.open_tcp_stream(LOOPBACK, proxy.port)
        async with stream:
            await stream.send_all(f"CONNECT a.example:{web.port} HTTP/1.1\r\n\r\n".encode())
            assert (await stream.receive_some(1 << 16)).startswith(b"HTTP/1.1 200")
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")
            assert b"200" in await stream.receive_some(1 << 16)


@pytest.mark.parametrize(
    "request_line",
    [
        "CONNECT 127.0.0.1:{port}",
        "CONNECT 169.254.169.254:80",
        "CONNECT [::1]:443",
        "CONNECT a.example:22",
        "CONNECT update.googleapis.com:443",
        "CONNECT a.example:443@10.0.0.1:443",
        "GET http://127.0.0.1:{port}/",
        "GET http://inner.example:{port}/",
        "GET http://169.254.169.254/latest/meta-data/",
        "GET http://2130706433:{port}/",
        "GET file:///etc/passwd",
        "GET https://a.example/",
        "GET /",
        "nonsense",
    ],
)
async def test_what_is_not_allowed_is_refused(request_line: str) -> None:
    """Before anybody is asked."""
    async with on_loopback(Web()) as web:
        fetcher = fetcher_on_loopback(web, names={"inner.example": [LOOPBACK]}, allow=(), ports=(web.port, 443, 80))
        async with open_proxy(fetcher) as proxy:
            said = await ask(proxy, request_line.format(port=web.port) + " HTTP/1.1\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 403")
    assert web.taken == 0
    assert len(proxy.refused) == 1


async def test_a_page_may_not_load_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in requests nor in bytes: then it gets no more."""
    monkeypatch.setattr(proxy_module, "REQUESTS_MAX", 3)
    monkeypatch.setattr(proxy_module, "BYTES_MAX", 300_000)

    async def script(asked: Asked, line: Line) -> None:
        await line.page("x" * (10_000_000 if asked.path == "/large" else 10))

    async with on_loopback(Web({"*": script})) as web:
        async with open_proxy(fetcher_on_loopback(web)) as proxy:
            line = f"GET {web.url('a.example')} HTTP/1.1\r\n\r\n"
            said = [(await ask(proxy, line))[:12] for _ in range(4)]
            assert said == [b"HTTP/1.1 200"] * 3 + [b"HTTP/1.1 403"]
            assert proxy.over
        async with open_proxy(fetcher_on_loopback(web)) as proxy:
            said_large = await ask(proxy, f"GET {web.url('a.example', '/large')} HTTP/1.1\r\n\r\n")
            assert len(said_large) < 500_000
            assert proxy.over


async def test_a_head_that_never_ends_is_left() -> None:
    """At its limit."""
    async with on_loopback(Web()) as web, open_proxy(fetcher_on_loopback(web)) as proxy:
        with pytest.raises((trio.BrokenResourceError, AssertionError)):
            assert await ask(proxy, "GET / HTTP/1.1\r\n" + "x" * 1_000_000)
    assert proxy.requests == 0


ROOT, SOMEBODY = 0, 1000


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A browser that says what it is told, alone on the path."""
    program = tmp_path / "chromium"
    program.write_text('#!/bin/sh\nfor word in "$@"; do echo "[$word]"; done\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return program


def test_which_browser_is_meant(program: Path, tmp_path: Path) -> None:
    """One that is named must be there; none is none; as root, who would have no sandbox, auto is none."""
    for uid in (ROOT, SOMEBODY):
        assert browser_path("none", uid) is None
        assert browser_path(str(program), uid) == program
        with pytest.raises(SettingsError, match="is no program"):
            browser_path(str(tmp_path / "missing"), uid)
    assert browser_path("auto", SOMEBODY) == program
    assert browser_path("auto", ROOT) is None
    program.unlink()
    assert browser_path("auto", SOMEBODY) is None


@pytest.mark.parametrize(("uid", "without"), [(ROOT, True), (SOMEBODY, False)])
async def test_only_roots_browser_has_no_sandbox(program: Path, uid: int, without: bool) -> None:
    """Whatever else it is told: to reach nobody but the proxy, which resolves names and judges addresses."""
    async with on_loopback(Web()) as web:
        rendering = renderer_of(program, fetcher_on_loopback(web), "CxmputeBot/test", uid)
        said = (await rendering.render(web.url("a.example"), timeout_s=20, wait_ms=1234)).decode()

    assert ("[--no-sandbox]" in said) is without
    assert "[--user-agent=CxmputeBot/test]" in said
    assert "[--proxy-server=http://127.0.0.1:" in said
    assert "[--proxy-bypass-list=<-loopback>]" in said
    assert "[--virtual-time-budget=1234]" in said
    assert said.strip().endswith(f"[{web.url('a.example')}]")
