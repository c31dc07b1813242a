"""A real PostgreSQL server for tests: started in a folder of its own, on loopback, and stopped with the tests."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

START_S = 60
NOBODY_LOSES = ("fsync=off", "full_page_writes=off", "synchronous_commit=off")  # a test's data may go with the machine


def programs() -> Path | None:
    """Where Debian's packages put the server; None if there is none here."""
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        if (folder / "initdb").exists():
            return folder
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found else None


@contextmanager
def running_server(folder: Path) -> Iterator[str]:
    """Runs a server; gives its URL without a database's name. It refuses to be root, and is `postgres` then."""
    tools = programs()
    assert tools is not None
    user = "postgres" if os.getuid() == 0 else None
    data = folder / "data"
    if user is not None:
        shutil.chown(folder, user)
    subprocess.run(
        [tools / "initdb", "-D", data, "-U", "tests", "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C"],
        user=user,
        check=True,
        capture_output=True,
        cwd=folder,
    )
    port = _free_port()
    options = [option for each in NOBODY_LOSES for option in ("-c", each)]
    listening = ["-c", "listen_addresses=127.0.0.1", "-c", f"port={port}", "-c", f"unix_socket_directories={folder}"]
    with open(folder / "server.log", "wb") as log:
        server = subprocess.Popen(
            [tools / "postgres", "-D", data, *listening, *options], user=user, stdout=log, stderr=log, cwd=folder
        )
        try:
            subprocess.run(
                [tools / "pg_isready", "-h", "127.0.0.1", "-p", str(port), "-t", str(START_S)],
                check=False,
                capture_output=True,
            )
            url = f"postgresql://tests@127.0.0.1:{port}"
            _await(url, server)
            yield url
        finally:
            server.terminate()
            server.wait()


def make_database(url: str, name: str, template: str = "template0") -> str:
    """Makes an empty database, or a copy of one; gives its URL."""
    with psycopg.connect(f"{url}/postgres", autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"'.encode())
    return f"{url}/{name}"


def _await(url: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(START_S * 10):
        if server.poll() is not None:
            raise RuntimeError("PostgreSQL did not start: see its server.log")
        try:
            psycopg.connect(f"{url}/postgres").close()
        except psycopg.OperationalError:
            subprocess.run([sys.executable, "-c", "import time; time.sleep(0.1)"], check=True)
        else:
            return
    raise RuntimeError("PostgreSQL took too long to start")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
