"""What the books take: jobs a second that are held and settled, in SQLite and in PostgreSQL, by how many come at once.

PostgreSQL is a server of Debian's packages, started here with its settings as they are installed. Both keep their files
on the same disk, and each commit is on it before it is answered.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import trio

from benchmarks.figures import ROUNDS, Figure, Rate
from cxp2p.client import wall_ms
from cxp2p_gateway.keys import Key
from cxp2p_gateway.limits import Demand
from cxp2p_gateway.store import Generation, Store, postgres, sqlite
from cxp2p_gateway.store.rows import User

AT_ONCE = (1, 16, 64)
START_S = 60.0
PEER_IS = "the same in PostgreSQL"
USER = User(id="user_1", created_at_ms=0)
KEY = Key(id="abcdefgh", account=USER.id, digest=b"", created_at_ms=0, spend_limit=2**60, rpm=10**9)


def measure(seconds: float) -> list[Figure]:
    """Jobs with a key that has a spend limit and a rate. Nothing is measured where there is no PostgreSQL."""
    tools = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
    if tools is None:
        click.echo("ledger: there is no PostgreSQL here to compare with: apt-get install postgresql", err=True)
        return []
    with tempfile.TemporaryDirectory(prefix="cxp2p-ledger-", dir="/var/tmp") as name:
        folder = Path(name)
        with _server(tools, folder) as url:
            return trio.run(_measure, folder / "sqlite" / "books.sqlite", url, seconds)


async def _measure(path: Path, url: str, seconds: float) -> list[Figure]:
    share_s = seconds / (len(AT_ONCE) * ROUNDS * 2)
    figures = []
    async with sqlite.open_store(path, wall_ms) as ours, postgres.open_store(url, wall_ms) as peer:
        for store in (ours, peer):
            await store.found(USER, KEY, 2**60)
            await _rounds(store, "warm", 16, share_s)
        for at_once in AT_ONCE:
            rates: dict[Store, list[float]] = {ours: [], peer: []}
            cpu_ms: dict[Store, list[float]] = {ours: [], peer: []}
            for number in range(ROUNDS):
                for store in (ours, peer):
                    rate, cpu = await _rounds(store, f"{at_once}-{number}", at_once, share_s)
                    rates[store].append(rate)
                    cpu_ms[store].append(cpu)
            for name, seen in (("jobs/s held and settled", rates), ("ms of CPU a job, the gateway's", cpu_ms)):
                mine, theirs = Rate.of(seen[ours]), Rate.of(seen[peer])
                figures.append(Figure(name=f"{name}, {at_once} at once", ours=mine, peer=theirs, peer_is=PEER_IS))
    return figures


async def _rounds(store: Store, name: str, at_once: int, share_s: float) -> tuple[float, float]:
    """Jobs a second, and milliseconds of CPU for each: those are the same on a machine that has other work."""
    began_s, cpu_s = time.perf_counter(), time.process_time()
    done = await _work(store, name, at_once, share_s)
    return done / (time.perf_counter() - began_s), (time.process_time() - cpu_s) / done * 1000


async def _work(store: Store, name: str, at_once: int, share_s: float) -> int:
    """How many jobs are done by so many tasks, each of which does one after the other."""
    done = 0
    ends_at = time.perf_counter() + share_s

    async def work(task: int) -> None:
        nonlocal done
        number = 0
        while time.perf_counter() < ends_at:
            number += 1
            await _job(store, f"{name}-{task}-{number}")
            done += 1

    async with trio.open_nursery() as nursery:
        for task in range(at_once):
            nursery.start_soon(work, task)
    return done


async def _job(store: Store, order_id: str) -> None:
    demand = Demand(key=KEY.id, request=order_id, tokens=0, first=True)
    await store.reserve(order_id, USER.id, 1000, 2**60, demand)
    await store.settle(
        Generation(
            order_id=order_id,
            id=f"chatcmpl-{order_id}",
            account=USER.id,
            key=KEY.id,
            model="smollm2:135m",
            node="peer",
            charge=500,
            in_units=100,
            out_units=200,
            finish="stop",
            created_at_ms=wall_ms(),
            order_envelope=b"o" * 600,
            receipt_envelope=b"r" * 600,
            countersign_envelope=b"c" * 300,
        )
    )


@contextmanager
def _server(tools: Path, folder: Path) -> Iterator[str]:
    """A server of its own; gives the URL of a database in it. It refuses to be root, and is `postgres` then."""
    user = "postgres" if os.getuid() == 0 else None
    data = folder / "postgres"
    data.mkdir()
    folder.chmod(0o711)
    if user is not None:
        shutil.chown(data, user)
    init: list[str | Path] = [tools / "initdb", "-D", data, "-U", "bench", "--auth=trust", "-E", "UTF8", "--locale=C"]
    subprocess.run(init, user=user, check=True, capture_output=True, cwd=data)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    options = ["-c", "listen_addresses=127.0.0.1", "-c", f"port={port}", "-c", f"unix_socket_directories={data}"]
    server = subprocess.Popen(
        [tools / "postgres", "-D", data, *options], user=user, stderr=subprocess.DEVNULL, cwd=data
    )
    try:
        _await(tools, port)
        yield f"postgresql://bench@127.0.0.1:{port}/postgres"
    finally:
        server.terminate()
        server.wait()


def _await(tools: Path, port: int) -> None:
    until = time.monotonic() + START_S
    asked: list[str | Path] = [tools / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
    while subprocess.run(asked).returncode:
        if time.monotonic() > until:
            raise click.ClickException("PostgreSQL did not start")
        time.sleep(0.1)
