"""A small web site on this machine, for nodes that are allowed to fetch from it: a page with all that a page has."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

HOST: Final = "127.0.0.1"
PATH: Final = "/lighthouses"
TITLE: Final = "How lighthouses work"

PAGE: Final = f"""<!doctype html>
<html lang="en">
<head>
<title>{TITLE} | The Coast</title>
<meta name="description" content="What makes a small lamp visible for twenty miles.">
<meta name="author" content="A. Keeper">
<meta property="article:published_time" content="2024-05-17">
</head>
<body>
<nav><a href="/">Home</a> <a href="/ships">Ships</a> <a href="/shop">Shop</a></nav>
<article>
<h1>{TITLE}</h1>
<p>A lighthouse is a lamp, a lens and a height. In 1822 Augustin Fresnel found that a lens need not be thick: rings of
glass, each a prism, bend the light just as well. A lamp of some hundred watts is then seen for twenty miles.</p>
<h2>How far it is seen</h2>
<p>The horizon limits what the lamp does not. With a height <em>h</em> in metres it is about</p>
<pre><code class="language-python">def miles(h):
    return 2.08 * h ** 0.5
</code></pre>
<table>
<tr><th>Height</th><th>Horizon</th></tr>
<tr><td>10 m</td><td>6.6 miles</td></tr>
<tr><td>40 m</td><td>13.2 miles</td></tr>
</table>
<p>So the light of a tall tower reaches ships that cannot see the tower yet, and the keeper's work is mostly to keep
salt and soot off the glass.</p>
</article>
<footer>The Coast, a page of the demo. All wrongs reserved.</footer>
</body>
</html>
"""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        found = self.path == PATH
        body = PAGE.encode() if found else b"There is no such page.\n"
        self.send_response(HTTPStatus.OK if found else HTTPStatus.NOT_FOUND)
        self.send_header("Content-Type", f"text/{'html' if found else 'plain'}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # the demo shows what it asks for
        pass


@contextmanager
def site() -> Iterator[str]:
    """Serves it on a free port until the block ends. Gives the page's URL."""
    server = ThreadingHTTPServer((HOST, 0), _Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{server.server_address[1]}{PATH}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
