"""A real gateway of two workers, on one port and one PostgreSQL."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import trio

from cxp2p.errors import SettingsError
from cxp2p.program import LogForm
from cxp2p_gateway.config import GatewaySettings
from cxp2p_gateway.running import Call, check_workers, of_worker
from processes import WORDS_PER_S, Program, ask_of, echo_node, gateway

POSTGRES = {"database": {"url": "postgresql://nobody@localhost/nothing"}}


def settings_of(**changes: Any) -> GatewaySettings:
    return GatewaySettings.model_validate({"http": {"workers": 2}, **POSTGRES, **changes})


# What workers need.


def test_workers_need_what_they_can_share() -> None:
    """A server for the database, a port each for their peers, a key each."""
    check_workers(settings_of())
    check_workers(settings_of(http={"workers": 1}, database={}))
    for changes, said in (
        ({"database": {}}, "http.workers: several workers need PostgreSQL"),
        ({"peer": {"key_path": "x.key"}}, "peer.key_path: each worker"),
        ({"metrics": {"port": 65_535}}, "metrics.port: the last worker's would be 65536"),
        ({"peer": {"listen": ["/ip4/0.0.0.0/tcp/4001"]}}, "peer.listen: /ip4/0.0.0.0/tcp/4001 is one port"),
    ):
        with pytest.raises(SettingsError, match=said):
            check_workers(settings_of(**changes))


def test_a_worker_has_a_folder_and_a_port_of_its_own() -> None:
    """All else is as it was told."""
    settings = settings_of(data_path="/tmp/cxp2p", metrics={"port": 9464})
    assert [of_worker(settings, number).metrics.port for number in (1, 2)] == [9464, 9465]
    assert of_worker(settings, 2).data_path == Path("/tmp/cxp2p/worker-2")
    assert of_worker(settings, 2).http == settings.http
    assert of_worker(settings_of(metrics={"port": 0}), 2).metrics.port == 0
    assert of_worker(settings_of(), 2).metrics.port is None


def test_a_worker_is_called_as_its_supervisor_was() -> None:
    """With its number and the sockets; secrets are in files and variables, which it inherits."""
    call = Call(config=Path("g.toml"), bootstrap=("/a", "/b"), log_level="debug", log_form=LogForm.JSON, as_json=False)
    words = " ".join(call.worker(2, [5, 6])[1:])

    assert words.startswith("-m cxp2p gateway run --json --worker 2 --log-level debug --log-format json")
    assert words.endswith("--config g.toml --bootstrap /a --bootstrap /b --listen-fd 5 --listen-fd 6")


# Two of them.


@dataclass
class Pair:
    """A gateway of two workers, and a client that opens a connection for each request."""

    running: Program
    headers: dict[str, str]
    url: str

    async def ask(self, words: int = 1) -> httpx.Response:
        async with httpx.AsyncClient(headers=self.headers, timeout=60, trust_env=False) as client:
            return await client.post(f"{self.url}/v1/chat/completions", json=ask_of(words, stream=False))

    async def metrics(self) -> list[str]:
        """Of each worker."""
        async with httpx.AsyncClient(trust_env=False) as client:
            return [(await client.get(url)).text for url in self.running.facts["ready"]["metrics"]]

    def workers(self) -> list[psutil.Process]:
        found: list[psutil.Process] = psutil.Process(self.running.process.pid).children()
        return found


@asynccontextmanager
async def pair(folder: Path, database: str) -> AsyncIterator[Pair]:
    settings = f"[http]\nport = 0\n[metrics]\nport = 0\n[database]\nurl = {json.dumps(database)}"
    async with echo_node(folder) as bootstrap, gateway(folder, bootstrap, settings, "--workers", "2") as running:
        headers = {"Authorization": f"Bearer {running.facts['account']['api_key']}"}
        here = Pair(running, headers, running.facts["ready"]["url"])
        for _ in range(2):  # each finds the node by itself, and waits for it when it is asked
            while (await here.ask()).status_code != 200:
                pass
        yield here


@pytest.mark.slow
async def test_two_workers_are_one_gateway(tmp_path: Path, postgres_url: str) -> None:
    """One account; both answer; one that is killed is replaced, and all drain together."""
    with trio.fail_after(200):
        async with pair(tmp_path, postgres_url) as here:
            assert len(here.running.facts["ready"]["peers"]) == 2
            answers: list[httpx.Response] = []

            async def ask() -> None:
                answers.append(await here.ask(WORDS_PER_S // 4))

            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(ask)
            assert [each.status_code for each in answers] == [200] * 20
            served = [
                'cxp2p_asks_total{end="done",model="echo",service="chat"}' in text for text in await here.metrics()
            ]
            assert served == [True, True]

            first, second = here.workers()
            os.kill(first.pid, signal.SIGKILL)
            first.wait(10)
            assert (await here.ask()).status_code == 200
            while len(here.workers()) < 2:
                assert (await here.ask()).status_code == 200
            assert second in here.workers()

            slow: list[httpx.Response] = []

            async def ask_slowly() -> None:
                slow.append(await here.ask(3 * WORDS_PER_S))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask_slowly)
                await here.ask()
                here.running.signal(signal.SIGTERM)
            assert [each.status_code for each in slow] == [200]
            assert await here.running.process.wait() == 0
            assert not second.is_running()


@pytest.mark.slow
async def test_ctrl_c_ends_all(tmp_path: Path, postgres_url: str) -> None:
    """At once, and nobody is left."""
    with trio.fail_after(200):
        async with pair(tmp_path, postgres_url) as here:
            workers = here.workers()
            here.running.signal(signal.SIGINT)
            with trio.fail_after(5):
                assert await here.running.process.wait() == 130
            _, alive = psutil.wait_procs(workers, timeout=5)
            assert not alive


@pytest.mark.slow
async def test_no_worker_outlives_its_supervisor(tmp_path: Path, postgres_url: str) -> None:
    """Whoever kills it leaves workers that drain, and are gone."""
    with trio.fail_after(200):
        async with pair(tmp_path, postgres_url) as here:
            workers = here.workers()
            here.running.signal(signal.SIGKILL)
            _, alive = psutil.wait_procs(workers, timeout=20)
            assert not alive
