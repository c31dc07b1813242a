"""Chat templates in a process of their own: one that takes too much time or memory is ended with it.

A frame is a 4-byte big-endian length and as many bytes. Down the pipe go the template, then what it is to render, as
JSON; up come a byte that says whether it worked, and the text.
"""

from __future__ import annotations

import json
import os
import resource
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import BinaryIO, Final

from cxp2p_node.templates.sandbox import Template, TemplateFault

CPU_S_MAX: Final = 2.0  # of one prompt; usual are some milliseconds
WALL_S_MAX: Final = 10.0  # the same on a machine that has much else to do
START_S_MAX: Final = 20.0
ROOM_BYTES_MAX: Final = 512 * 1024 * 1024  # of the process: ten times what the largest prompt takes
READ_BYTES_MAX: Final = 1 << 16
DONE, REFUSED = b"+", b"-"


class Apart:
    """A template in its process, which starts again when it was ended. Not thread-safe. Close it at the end."""

    def __init__(self, source: str, *, bos: str, eos: str) -> None:
        """Raises TemplateFault for a template that cannot be compiled within the limits."""
        self._first = json.dumps([source, bos, eos]).encode()
        self._process: subprocess.Popen[bytes] | None = None
        self._start()

    def render(self, names: Mapping[str, object]) -> str:
        """The text that the template makes of these names. Raises TemplateFault, also for one that takes too much."""
        asked = json.dumps(names).encode()
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._start()
        return self._ask(asked, WALL_S_MAX)

    def close(self) -> None:
        """Ends the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with suppress(BrokenPipeError):
                    pipe.close()  # type: ignore[union-attr]

    def _start(self) -> None:
        command = [sys.executable, "-m", __name__]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            self._ask(self._first, START_S_MAX)
        except TemplateFault:
            self.close()
            raise

    def _ask(self, asked: bytes, wall_s_max: float) -> str:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        said = None
        try:
            with suppress(BrokenPipeError):
                process.stdin.write(_frame(asked))
                process.stdin.flush()
                said = _hear(process.stdout.fileno(), time.monotonic() + wall_s_max)
        finally:
            if said is None:
                self.close()
        if said is None:
            raise TemplateFault(f"it takes longer than {CPU_S_MAX:g} s, or more than {ROOM_BYTES_MAX >> 20} MiB")
        text = said[1:].decode()
        if said[:1] == REFUSED:
            raise TemplateFault(text)
        return text


def _frame(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


def _hear(source: int, deadline: float) -> bytes | None:
    """One frame; None if it does not come in time, or never."""
    heard = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(source, selectors.EVENT_READ)
        while len(heard) < 4 or len(heard) - 4 < int.from_bytes(heard[:4], "big"):
            if not selector.select(max(0.0, deadline - time.monotonic())):
                return None
            data = os.read(source, READ_BYTES_MAX)
            if not data:
                return None
            heard += data
    return bytes(heard[4:])


# The process itself.


def _next(source: BinaryIO) -> bytes | None:
    size = source.read(4)
    return source.read(int.from_bytes(size, "big")) if len(size) == 4 else None


def _answer(out: BinaryIO, mark: bytes, text: str) -> None:
    out.write(_frame(mark + text.encode(errors="replace")))
    out.flush()


def main() -> None:
    """Renders what comes on standard input until that is closed. The kernel ends it when a limit is passed."""
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    room = ROOM_BYTES_MAX if most == resource.RLIM_INFINITY else min(ROOM_BYTES_MAX, most)
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all of a terminal: the worker ends this one
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    source, out = sys.stdin.buffer, sys.stdout.buffer
    template: Template | None = None
    while (asked := _next(source)) is not None:
        signal.setitimer(signal.ITIMER_PROF, CPU_S_MAX)
        try:
            if template is None:
                text, bos, eos = json.loads(asked)
                template, said = Template(text, bos=bos, eos=eos), ""
            else:
                said = template.render(json.loads(asked))
            _answer(out, DONE, said)
        except TemplateFault as fault:
            _answer(out, REFUSED, str(fault)[:512])
        signal.setitimer(signal.ITIMER_PROF, 0)


if __name__ == "__main__":
    main()
