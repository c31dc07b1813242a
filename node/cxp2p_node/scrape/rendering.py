"""Pages after their scripts ran, in a Chromium that is on this machine: one process group for each page.

Chromium resolves no name and reaches nobody: all that a page loads goes through a proxy of ours (`proxy`).
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from typing import Final, Protocol

import trio

from cxp2p.egress import EgressRefused, admit_url
from cxp2p.errors import SettingsError
from cxp2p.records import PageFault
from cxp2p_node.scrape.fetched import FetchRefused
from cxp2p_node.scrape.proxy import Connects, open_proxy

log = logging.getLogger("cxp2p.node.scrape")

AT_ONCE: Final = 2  # 300 MB each
DOM_BYTES_MAX: Final = 10_000_000
SCRIPTS_MS: Final = 5_000  # by the page's clock, which stands while it loads and runs ahead while it only waits
HEAP_MIB_MAX: Final = 512  # of the page's scripts
READ_BYTES_MAX: Final = 1 << 16
NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")

_ERROR_PAGE: Final = b'id="main-frame-error"'  # what Chromium shows instead of a page that it cannot have
_OPTIONS: Final = (
    "--headless",
    "--dump-dom",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-breakpad",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-domain-reliability",
    "--disable-extensions",
    "--disable-quic",
    "--disable-sync",
    "--metrics-recording-only",
    "--mute-audio",
    "--blink-settings=imagesEnabled=false",
    "--renderer-process-limit=2",
    f"--js-flags=--max-old-space-size={HEAP_MIB_MAX}",
    # Nothing may go past the proxy: neither names, nor loopback, nor WebRTC.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--proxy-bypass-list=<-loopback>",
    "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",
    "--webrtc-ip-handling-policy=disable_non_proxied_udp",
)


class Visits(Connects, Protocol):
    """Connects, and waits for a host's turn: a `Fetcher` does."""

    def turn(self, host: str, wait_s: float = ...) -> AbstractAsyncContextManager[None]: ...


def browser_path(told: str, uid: int) -> Path | None:
    """The Chromium that settings mean, for a node of the user `uid`. Raises SettingsError.

    None if they say "none", or "auto" where there is none; also as root, who must say that he wants it without sandbox.
    """
    if told == "none":
        return None
    if told != "auto":
        found = shutil.which(Path(told).expanduser())
        if found is None:
            raise SettingsError(f"scrape.browser: {told} is no program; expected a Chromium's path, auto or none")
        return Path(found)
    here = next((Path(found) for name in NAMES if (found := shutil.which(name))), None)
    if here is not None and sandbox_options(uid):
        log.info(
            "scripts of pages are not run: as root %s has no sandbox; scrape.browser can name it all the same", here
        )
        return None
    return here


class Renderer:
    """Renders pages. Made by `renderer_of`."""

    def __init__(self, path: Path, visits: Visits, user_agent: str, uid: int) -> None:
        self._path = path
        self._visits = visits
        self._options = (*_OPTIONS, *sandbox_options(uid), f"--user-agent={user_agent}")
        self._turns = trio.CapacityLimiter(AT_ONCE)
        self.groups: set[int] = set()

    def __repr__(self) -> str:
        return f"<Renderer {len(self.groups)} pages>"

    async def render(self, url: str, *, timeout_s: float, wait_ms: int) -> bytes:
        """The page at `url` as it is after its scripts ran, in UTF-8. Raises FetchRefused.

        `wait_ms`: how long its scripts may take, by the page's clock; 0: as long as is usual.
        """
        try:
            target = admit_url(url, self._visits.rules)
        except EgressRefused as refused:
            raise FetchRefused.of(refused) from None
        async with self._turns, self._visits.turn(target.host):
            with trio.move_on_after(timeout_s):
                return await self._render(target.url, wait_ms or SCRIPTS_MS)
        raise FetchRefused(PageFault.TIMEOUT, f"its scripts were not done in {timeout_s:g} s")

    async def _render(self, url: str, scripts_ms: int) -> bytes:
        with tempfile.TemporaryDirectory(prefix="cxp2p-page-", ignore_cleanup_errors=True) as folder:
            async with open_proxy(self._visits) as proxy:
                dom = await self._dom(
                    [
                        *(str(self._path), *self._options),
                        f"--proxy-server=http://127.0.0.1:{proxy.port}",
                        f"--user-data-dir={folder}",
                        f"--virtual-time-budget={scripts_ms}",
                        url,
                    ],
                    folder,
                )
        if proxy.over:
            raise FetchRefused(PageFault.TOO_LARGE, "its scripts load too much")
        if not dom.strip() or _ERROR_PAGE in dom:
            raise FetchRefused(PageFault.EXTRACTION_EMPTY, "its scripts could not be run")
        return dom

    async def _dom(self, command: list[str], home: str) -> bytes:
        """What the browser prints. Ends with all its processes."""
        environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": home, "TMPDIR": home, "LANG": "C.UTF-8"}
        try:
            process = await trio.lowlevel.open_process(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                env=environment,
            )
        except OSError as error:
            log.error("%s cannot be started: %s", self._path, error.strerror)
            raise FetchRefused(PageFault.EXTRACTION_EMPTY, "its scripts could not be run") from None
        self.groups.add(process.pid)
        assert process.stdout is not None
        said = bytearray()
        try:
            while data := await process.stdout.receive_some(READ_BYTES_MAX):
                said += data
                if len(said) > DOM_BYTES_MAX:
                    raise FetchRefused(PageFault.TOO_LARGE, f"its scripts make more than {DOM_BYTES_MAX} bytes")
            return bytes(said)
        finally:
            with trio.CancelScope(shield=True):
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
                await process.stdout.aclose()
            self.groups.discard(process.pid)


def sandbox_options(uid: int) -> tuple[str, ...]:
    """What a Chromium of the user `uid` is told of its sandbox: nothing, so that it has one. As root it refuses to."""
    return ("--no-sandbox",) if uid == 0 else ()


def renderer_of(path: Path, visits: Visits, user_agent: str, uid: int) -> Renderer:
    """What renders with the browser at `path`, for a node of the user `uid`."""
    if sandbox_options(uid):
        log.warning("%s runs without its sandbox, because this node is root: let the node be another user", path)
    return Renderer(path, visits, user_agent, uid)
