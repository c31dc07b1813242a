"""What is between a URL and the bytes of its page: the words of it. `fetch` does it over the network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import cxp2p
from cxp2p.egress import PORTS, EgressRefused
from cxp2p.errors import CxError
from cxp2p.records import PageFault
from cxp2p_node.scrape.room import Place

MIB: Final = 1 << 20
USER_AGENT: Final = f"CxmputeBot/{cxp2p.__version__}"
DELAY_S: Final = 1.0
WAIT_S: Final = 60.0  # for a host's turn: enough for some dozen pages of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A page's bytes, decompressed. `final_url`: after redirects. `content_type`: as the server says it, "" if not.

    `cached`: the bytes are a copy; `fetched_at_ms` is when the server last said that they are the page.
    """

    final_url: str
    status: int
    content_type: str
    body: bytes
    fetched_at_ms: int
    cached: bool = False


class FetchRefused(CxError):
    """There are no bytes, and why. `reason` may be told to the asker, `detail` is for the node's log.

    `status`: of HTTP, 0 if there was none. `final_url`: how far redirects had led.
    """

    def __init__(
        self, fault: PageFault, reason: str, status: int = 0, final_url: str = "", *, detail: str = ""
    ) -> None:
        super().__init__(f"{fault}: {detail or reason}")
        self.fault = fault
        self.reason = reason
        self.status = status
        self.final_url = final_url
        self.detail = detail or reason

    @classmethod
    def of(cls, refused: EgressRefused, final_url: str = "", status: int = 0) -> FetchRefused:
        """What the rules of egress refused."""
        return cls(refused.fault, refused.reason, status, final_url, detail=refused.detail)

    def copy(self) -> FetchRefused:
        """The same, to be raised to somebody else."""
        return FetchRefused(self.fault, self.reason, self.status, self.final_url, detail=self.detail)


class Fetches(Protocol):
    """Fetches pages. `fetch.Fetcher` does; so does a test's twin."""

    def place(self) -> Place:
        """For one page, before it is fetched. Who has it leaves it when the page's bytes are not needed any more."""
        ...

    async def fetch(
        self, url: str, *, timeout_s: float, age_s_max: int, wait_s: float = WAIT_S, place: Place | None = None
    ) -> Fetched:
        """The page at `url`, or a copy that is no older than `age_s_max`. Raises FetchRefused.

        `timeout_s` is for the page itself; `wait_s` for the turns of its hosts before it, one page at a time and a
        pause after each. A host's robots.txt, if it is not known yet, has a limit of its own. Of several that fetch
        one URL at once, one does and all get what it got; each may be cancelled. A large page waits until there is room
        for it, which is that of `place`; without one it has room on its way only.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchSettings:
    """How pages are fetched. `ports` and `allow` are those of `egress.rules_of`.

    `delay_s`: between two pages of one host. `at_once`: pages in all. `ca_path`: a file of certificates that are
    trusted besides the system's. `cache_bytes`: of bodies that are kept; 0 keeps none.
    """

    user_agent: str = USER_AGENT
    delay_s: float = DELAY_S
    at_once: int = 32
    ports: tuple[int, ...] = PORTS
    allow: tuple[str, ...] = ()
    ca_path: Path | None = None
    cache_bytes: int = 64 * MIB
    body_bytes_max: int = 10_000_000
