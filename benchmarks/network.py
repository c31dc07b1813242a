"""Real processes to measure: bootstrap peer, node and gateway on this machine, and other programs beside them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import click
import trio

from demo.network import credentials, gateway_config, start, write_config

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Front:
    """Where a running network is asked: the gateway's base URL, the headers to send, the bootstrap peer's address."""

    base_url: str
    headers: dict[str, str]
    bootstrap: str
    gateway_pid: int


@asynccontextmanager
async def open_network(state: Path, models: str, nodes: int = 1) -> AsyncIterator[Front]:
    """Bootstrap peer, nodes of `models` (their settings in TOML), gateway."""
    logs = state / "logs"
    async with AsyncExitStack() as stack:
        boot = ["bootstrap", "--listen", "/ip4/127.0.0.1/tcp/0", "--data", str(state / "bootstrap")]
        bootstrap = await stack.enter_async_context(start("bootstrap peer", boot, logs / "bootstrap.log"))
        addresses = bootstrap.facts["ready"]["addresses"]
        assert isinstance(addresses, list)
        gateway_file = write_config(state / "gateway.toml", gateway_config(state / "gateway", addresses[0], 0))
        for number in range(nodes):
            name = f"node-{number + 1}"
            file = write_config(state / f"{name}.toml", _node_config(state / name, addresses[0]) + models)
            await stack.enter_async_context(start(name, ["node", "run", "--config", str(file)], logs / f"{name}.log"))
        gateway = await stack.enter_async_context(
            start("gateway", ["gateway", "run", "--config", str(gateway_file)], logs / "gateway.log")
        )
        known = credentials(state, gateway)
        headers = {"Authorization": f"Bearer {known['api_key']}", "X-User-Id": known["user_id"]}
        yield Front(gateway.fact("ready", "url") + "/api/v1", headers, addresses[0], gateway.process.pid)


def _node_config(data_path: Path, bootstrap: str) -> str:
    return f"""\
data_path = {json.dumps(str(data_path))}

[peer]
listen = ["/ip4/127.0.0.1/tcp/0"]
bootstrap = [{json.dumps(bootstrap)}]

"""


@asynccontextmanager
async def open_program(arguments: list[str]) -> AsyncIterator[dict[str, object]]:
    """Runs a Python program of this folder; gives the first line of JSON that it prints."""
    env = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    process = await trio.lowlevel.open_process(
        [sys.executable, *arguments], stdin=-1, stdout=-1, stderr=-3, env=env, start_new_session=True
    )
    assert process.stdout is not None
    line = b""
    try:
        while not line.endswith(b"\n"):
            data = await process.stdout.receive_some()
            if not data:
                raise click.ClickException(f"{arguments[0]} ended with exit code {await process.wait()}")
            line += data
        yield json.loads(line)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
