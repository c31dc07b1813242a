"""A PostgreSQL server for the tests that want one, and databases in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from cxp2p_gateway.store.postgres import open_store
from postgres import Server, make_database, programs, running_server
from shops import Shop

TEMPLATE = "as_opened"


@pytest.fixture(scope="session")
def postgres_programs() -> None:
    """Skips where no server can be started."""
    if programs() is None:
        pytest.skip("there is no PostgreSQL server here: apt-get install postgresql")


@pytest.fixture(scope="session")
def postgres_server(postgres_programs: None) -> Iterator[str]:
    """The URL of a running server, without a database's name."""
    with running_server() as server:
        yield server.url


@pytest.fixture
def own_server(postgres_programs: None) -> Iterator[Server]:
    """A server that a test may stop and start."""
    with running_server() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_databases(postgres_server: str) -> Callable[[], str]:
    """Makes databases with all tables and nothing in them, and gives their URLs."""
    opened = make_database(postgres_server, TEMPLATE)

    async def open_once() -> None:
        async with open_store(opened, lambda: 0):
            pass

    trio.run(open_once)
    numbers = count(1)
    return lambda: make_database(postgres_server, f"test_{next(numbers)}", TEMPLATE)


@pytest.fixture(scope="session")
def postgres_empty(postgres_server: str) -> Callable[[], str]:
    """Makes databases with nothing in them at all, and gives their URLs."""
    numbers = count(1)
    return lambda: make_database(postgres_server, f"empty_{next(numbers)}")


@pytest.fixture
def postgres_url(postgres_databases: Callable[[], str]) -> str:
    """A database of the test's own."""
    return postgres_databases()


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str | None:
    """A file's path, a server's URL, or neither: where a store is, of each of the three."""
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_url"))
    return tmp_path / "data" / "gateway.db" if request.param == "sqlite" else None


@pytest.fixture
async def shop(autojump_clock: MockClock) -> Shop:
    """A front whose account has a base key."""
    return await Shop().open()
