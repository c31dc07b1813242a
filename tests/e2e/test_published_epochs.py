"""A gateway with short epochs, a node and a stranger: what was worked is published, proven, the same for all."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from telling import program

pytestmark = pytest.mark.slow

EPOCH_S = 4
JOBS = 5
WAIT_S = 60.0
MODEL = "echo"


@dataclass(frozen=True)
class Running:
    """How to reach it: by HTTP, by the network, through a bootstrap peer; and the node's settings."""

    url: str
    headers: dict[str, str]
    address: str
    bootstrap: str
    node_config: Path

    def get(self, path: str) -> Any:
        return httpx.get(f"{self.url}/v1{path}", headers=self.headers, timeout=30).raise_for_status().json()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    state = tmp_path_factory.mktemp("epochs")
    listen = "/ip4/127.0.0.1/tcp/0"
    with ExitStack() as programs:
        boot_words = ("bootstrap", "--listen", listen, "--data", str(state / "boot"))
        boot = programs.enter_context(program(*boot_words, log_path=state / "boot.log"))
        address = boot["ready"]["addresses"][0]
        peer = f'[peer]\nlisten = ["{listen}"]\nbootstrap = ["{address}"]\nepoch_s = {EPOCH_S}\n'
        settings = {
            "gateway": '[http]\nhost = "127.0.0.1"\nport = 0\n',
            "node": f'[[models]]\nname = "{MODEL}"\nengine = "echo"\nprice_in = 9000000\nprice_out = 9000000\n',
        }
        facts = {}
        for name, rest in settings.items():
            (state / f"{name}.toml").write_text(f'data_path = "{state / name}"\n{peer}{rest}')
            words = (name, "run", "--config", str(state / f"{name}.toml"))
            facts[name] = programs.enter_context(program(*words, log_path=state / f"{name}.log"))
        ready = facts["gateway"]["ready"]
        headers = {"Authorization": f"Bearer {facts['gateway']['account']['api_key']}"}
        yield Running(ready["url"], headers, ready["addresses"][0], address, state / "node.toml")


def cxp2p(*words: object) -> str:
    """What a process says that has never heard of this network."""
    command = [sys.executable, "-m", "cxp2p", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def until(running: Running, path: str, wanted: Any) -> Any:
    """What a path answers, once it is as wanted."""
    deadline = time.monotonic() + WAIT_S
    while not wanted(told := running.get(path)):
        assert time.monotonic() < deadline, told
        time.sleep(0.2)
    return told


def test_what_was_worked_is_published_and_the_same_for_everybody(running: Running) -> None:
    """Each receipt stands under a root; whoever fetches it, and however, computes the same; the node has its proofs."""
    until(running, "/models", lambda told: any(each["id"] == MODEL for each in told["data"]))
    body = {"model": MODEL, "messages": [{"role": "user", "content": "one two three"}]}
    made = []
    for _ in range(JOBS):
        answer = httpx.post(f"{running.url}/v1/chat/completions", json=body, headers=running.headers, timeout=30)
        assert answer.raise_for_status().headers["x-cx-receipt"]
        made.append(answer.headers["x-cx-generation-id"])
    receipts = [until(running, f"/receipts/{each}", lambda told: told["counts"]["state"] == "counted") for each in made]
    epochs = {each["counts"]["epoch"] for each in receipts}
    roots = [root for epoch in epochs for root in running.get(f"/epochs/{epoch}")["data"]]
    assert sum(root["receipts"] for root in roots) == JOBS

    for epoch in epochs:
        over_http = ("--epoch", epoch, "--gateway", running.url)
        over_network = ("--epoch", epoch, "--gateway", running.address, "-b", running.bootstrap)
        assert cxp2p("epoch", "verify", *over_http) == cxp2p("epoch", "verify", *over_network)
        computed = json.loads(cxp2p("rewards", "compute", *over_network, "--json"))
        assert running.get(f"/epochs/{epoch}/rewards")["rewards"].items() <= computed.items()

    told = until_proven(running)
    assert sum(each["receipts"] for each in told["why"].values()) == JOBS
    assert told["earned"] == sum(root["charge"] for root in roots) > 0
    assert told["evidence"] == []


def until_proven(running: Running) -> Any:
    """What the node says that it earned, once it has a proof of each receipt."""
    deadline = time.monotonic() + WAIT_S
    while True:
        told = json.loads(cxp2p("node", "earnings", "--config", running.node_config, "--json"))
        if told["why"].keys() <= {"held", "released"}:
            return told
        assert time.monotonic() < deadline, told
