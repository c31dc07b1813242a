"""The process that reads pages: bytes of strangers go in, what they say comes out. `readers` starts it and ends it.

A frame is a 4-byte big-endian length and a record as the wire encodes it. The kernel ends the process when a page
takes more time or memory than it may: nothing but that page is lost.
"""

from __future__ import annotations

import gc
import resource
import signal
import sys
from contextlib import suppress
from importlib.metadata import version
from typing import BinaryIO, Final

from cxp2p import units
from cxp2p.jobs import PageForm
from cxp2p.kinds import Blob, Flag, Text, record
from cxp2p.wire import decode, encode
from cxp2p_node.scrape.extract import Page, extract

CPU_S_MAX: Final = 10.0  # of one page; usual are some milliseconds, and two seconds for the largest that is fetched
ROOM_BYTES_MAX: Final = 1 << 30  # of the process: five times what the largest page takes
PAGES_MAX: Final = 10_000  # then it ends, and another one starts: what libraries keep is given back
KEPT_KIB_MAX: Final = 200 * 1024  # it ends, too, after a page that took so much: a process gives little of it back
OBJECTS_KEPT_MAX: Final = 50_000  # before they are looked through for rings that nobody holds: some dozen pages
CONTENT_BYTES_MAX: Final = units.BYTES_PER_PAGE_MAX - 64 * 1024  # with the rest of a ScrapedPage beside it
SHELL_LETTERS: Final = 200  # a page with scripts and less text than this is made by its scripts

_SCRIPT: Final = b"<script"


@record
class Unread:
    """Node → process: a page that was fetched from `url`, and what is wanted of it."""

    body: Blob
    content_type: Text
    url: Text
    form: PageForm
    main_only: Flag
    links: Flag


@record
class Read:
    """Process → node: what the page says. `shell`: its scripts would say more. `cut`: it said more than is told."""

    content: Text
    title: Text = ""
    description: Text = ""
    author: Text = ""
    published: Text = ""
    language: Text = ""
    shell: Flag = False
    cut: Flag = False


def extractor() -> str:
    """What reads pages here, and in which version. Its digest stands in offers, orders and receipts."""
    return f"cxp2p scrape {version('cxp2p')} selectolax {version('selectolax')}"


def read_page(unread: Unread) -> Read:
    """What a page says. Pure."""
    page = extract(
        unread.body,
        unread.content_type,
        unread.url,
        unread.form,
        only_main_content=unread.main_only,
        include_links=unread.links,
    )
    content = cut_at(page.content, CONTENT_BYTES_MAX)
    return Read(
        content=content if content.strip() else "",
        title=_told(page.title),
        description=_told(page.description),
        author=_told(page.author),
        published=_told(page.publish_date),
        language=_told(page.language),
        shell=_is_shell(unread, page),
        cut=page.cut or len(content) < len(page.content),
    )


def cut_at(text: str, bytes_max: int) -> str:
    """As much of a text as there is room for, in UTF-8."""
    if len(text) * 4 <= bytes_max:
        return text
    return text.encode(errors="replace")[:bytes_max].decode(errors="ignore")


def _told(words: str) -> str:
    """As long as a ScrapedPage may tell it."""
    return words[:2048]


def _is_shell(unread: Unread, page: Page) -> bool:
    if len(page.content) >= SHELL_LETTERS or _SCRIPT not in unread.body.lower():
        return False
    kind = unread.content_type.partition(";")[0].strip().lower()
    return kind in ("", "text/html", "application/xhtml+xml")


# The process itself.


def next_frame(source: BinaryIO) -> bytes | None:
    """The next frame's body, None at the end."""
    size = source.read(4)
    return source.read(int.from_bytes(size, "big")) if len(size) == 4 else None


def frame(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


def hold_back() -> None:
    """What this process may not do, from here on: take more than its room, write files, leave a core behind."""
    resource.setrlimit(resource.RLIMIT_AS, (ROOM_BYTES_MAX, ROOM_BYTES_MAX))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)


def spare_collection() -> None:
    """Rings of objects that nobody holds are looked for less often, and not in the libraries: a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(OBJECTS_KEPT_MAX)


def keeps_much() -> bool:
    """Whether it has had more memory at once than it should go on with.

    By Linux's count for what runs now: that of `getrusage` begins with what the process had that started this one.
    """
    with suppress(OSError, ValueError, IndexError), open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) > KEPT_KIB_MAX
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > KEPT_KIB_MAX


def main() -> None:
    """Reads what comes on standard input until that is closed."""
    hold_back()
    spare_collection()
    source, out = sys.stdin.buffer, sys.stdout.buffer
    out.write(frame(b""))  # it is ready
    out.flush()
    for _ in range(PAGES_MAX):
        body = next_frame(source)
        if body is None:
            return
        signal.setitimer(signal.ITIMER_PROF, CPU_S_MAX)
        said = encode(read_page(decode(Unread, body)))
        signal.setitimer(signal.ITIMER_PROF, 0)
        out.write(frame(said))
        out.flush()
        if keeps_much():
            return


if __name__ == "__main__":
    main()
