"""A real PostgreSQL server for tests: started in a folder of its own, on loopback, and stopped with the tests."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

START_S = 60
NOBODY_LOSES = (
    "fsync=off",
    "full_page_writes=off",
)  # a test's data may go with the machine, though not with the server


def programs() -> Path | None:
    """Where Debian's packages put the server; None if there is none here."""
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        if (folder / "initdb").exists():
            return folder
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found else None


class Server:
    """A server in a folder of its own. It can be stopped or killed, and started again on the same port."""

    def __init__(self, folder: Path) -> None:
        tools = programs()
        assert tools is not None
        self._tools = tools
        self._folder = folder
        self._user = "postgres" if os.getuid() == 0 else None  # it refuses to be root
        self._port = _free_port()
        self.url = f"postgresql://tests@127.0.0.1:{self._port}"
        if self._user is not None:
            shutil.chown(folder, self._user)
        choices = ["-U", "tests", "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C"]
        subprocess.run(
            [tools / "initdb", "-D", folder / "data", *choices],
            user=self._user,
            check=True,
            capture_output=True,
            cwd=folder,
        )

    def start(self) -> None:
        """Returns when it answers."""
        options = [f"-c {each}" for each in NOBODY_LOSES]
        options += ["-c listen_addresses=127.0.0.1", f"-c port={self._port}"]
        options += [f"-c unix_socket_directories={self._folder}"]
        self._control("start", "-l", str(self._folder / "server.log"), "-o", " ".join(options))

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT ends all sessions first; SIGQUIT is a crash, after which the server has to recover."""
        if (self._folder / "data" / "postmaster.pid").exists():
            self._control("stop", "-m", "immediate" if how is signal.SIGQUIT else "fast")

    def _control(self, *what: str) -> None:
        """PostgreSQL's own tool waits until it is so."""
        subprocess.run(
            [self._tools / "pg_ctl", "-D", self._folder / "data", "-w", "-t", str(START_S), *what],
            user=self._user,
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=self._folder,
        )


@contextmanager
def running_server() -> Iterator[Server]:
    """A server that runs, until the block ends. Its folder is not pytest's, which is closed to other users."""
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:
        server = Server(Path(folder))
        try:
            server.start()
            yield server
        finally:
            server.stop()


def make_database(url: str, name: str, template: str = "template0") -> str:
    """Makes an empty database, or a copy of one; gives its URL."""
    with psycopg.connect(f"{url}/postgres", autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"'.encode())
    return f"{url}/{name}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
