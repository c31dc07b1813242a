"""Serves the pages of `web_pages` on loopback, one host an address: `python -m benchmarks.page_host HOSTS`.

Prints the base URLs on one line, and ends with its standard input. A page's path is a number. It takes next to nothing
of the processors that are measured: replies are made before anybody asks, and a host is one thread that never waits.
"""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from benchmarks.web_pages import web_pages

HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s"
MISSING: Final = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
SEND_BYTES: Final = 1 << 20  # more than a page, so that it is the kernel's at once
READ_BYTES: Final = 1 << 16


def serve(listener: socket.socket, replies: Sequence[bytes]) -> None:
    """One connection after another, until the process ends."""
    while True:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            heard = connection.recv(READ_BYTES)
            while heard and b"\r\n\r\n" not in heard:
                more = connection.recv(READ_BYTES)
                heard = heard + more if more else b""
            path = [*heard.partition(b"\r\n")[0].split(b" "), b"", b""][1].lstrip(b"/")
            connection.sendall(replies[int(path) % len(replies)] if path.isdigit() else MISSING)


def main() -> None:
    """Until standard input is closed."""
    replies = tuple(HEAD % (len(body), body) for _, body in web_pages())
    urls = []
    for number in range(1, int(sys.argv[1]) + 1):
        listener = socket.create_server((f"127.0.0.{number}", 0), backlog=128)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)  # what it accepts has it, too
        threading.Thread(target=serve, args=(listener, replies), daemon=True).start()
        urls.append(f"http://127.0.0.{number}:{listener.getsockname()[1]}")
    sys.stdout.write(" ".join(urls) + "\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
