"""Serves the pages of `tests/data/pages` on loopback, one host an address: `python -m benchmarks.page_host HOSTS`.

Prints the base URLs on one line, and ends with its standard input. A page's path is a number.
"""

from __future__ import annotations

import socketserver
import sys
import threading
from typing import Final

from benchmarks.extraction_scores import pages

HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s"
MISSING: Final = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Host(socketserver.ThreadingTCPServer):
    """Short answers, made before anybody asks."""

    daemon_threads = True
    request_queue_size = 128
    replies: tuple[bytes, ...] = ()


class Line(socketserver.StreamRequestHandler):
    """One request and its reply."""

    server: Host

    def handle(self) -> None:
        path = [*self.rfile.readline().split(b" "), b"", b""][1].lstrip(b"/")
        while self.rfile.readline().strip():
            pass
        replies = self.server.replies
        self.wfile.write(replies[int(path) % len(replies)] if path.isdigit() else MISSING)


def main() -> None:
    """Until standard input is closed."""
    replies = tuple(HEAD % (len(body), body) for _, body in pages())
    urls = []
    for number in range(1, int(sys.argv[1]) + 1):
        host = Host((f"127.0.0.{number}", 0), Line)
        host.replies = replies
        threading.Thread(target=host.serve_forever, daemon=True).start()
        urls.append(f"http://127.0.0.{number}:{host.server_address[1]}")
    sys.stdout.write(" ".join(urls) + "\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
