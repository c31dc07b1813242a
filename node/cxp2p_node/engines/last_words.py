"""What a worker process says on standard error: passed on to ours; what it said just before it ended is kept."""

from __future__ import annotations

import re
import sys
from typing import Final

import trio

from cxp2p.errors import one_line

KEPT_BYTES_MAX: Final = 4096
WORDS_MAX: Final = 160
READ_BYTES_MAX: Final = 1 << 14
JUST_S: Final = 2.0  # what was said earlier is not about the end
NOTE: Final = "note: "  # how to get more words, from code in Rust
PLACE: Final = re.compile(r"/\S*/(?=[^/\s]+:\d+: )")  # where the library was built, which nobody needs to know


class LastWords:
    """Of one life of a process. `over`: it has closed its standard error."""

    def __init__(self) -> None:
        self.over = trio.Event()
        self._said_at = float("-inf")
        self._kept = b""

    async def hear(self, stream: trio.abc.ReceiveStream) -> None:
        """Passes on what comes, until the other end is closed; then closes this one."""
        try:
            while data := await stream.receive_some(READ_BYTES_MAX):
                sys.stderr.write(data.decode(errors="replace"))
                sys.stderr.flush()
                self.keep(data, trio.current_time())
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
        finally:
            self.over.set()
            await trio.aclose_forcefully(stream)

    def keep(self, data: bytes, now: float) -> None:
        self._kept = (self._kept + data)[-KEPT_BYTES_MAX:]
        self._said_at = now

    def said(self, now: float) -> str:
        """The last line that is no note, if it was said just now; without a path."""
        lines = [line for line in self._kept.decode(errors="replace").strip().splitlines() if not line.startswith(NOTE)]
        if not lines or now > self._said_at + JUST_S:
            return ""
        return one_line(PLACE.sub("", lines[-1].strip()), WORDS_MAX)
