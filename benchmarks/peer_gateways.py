"""Other gateways, each installed in a folder of its own and run beside ours: LiteLLM's proxy and Portkey's gateway."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import click
import httpx
import trio

from benchmarks.peer_backend import MODEL
from cxp2p.paths import default_data_path

LITELLM = "litellm[proxy]==1.108.7"
PORTKEY = "@portkey-ai/gateway@1.15.2"
KEY = "sk-benchmark"
START_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A gateway that runs: where its chat completions are, what to send along, and its process."""

    name: str
    url: str
    headers: dict[str, str]
    pid: int


@asynccontextmanager
async def litellm(backend: str, folder: Path) -> AsyncIterator[Peer]:
    """LiteLLM's proxy, one worker, with a master key; no database behind it."""
    program = await trio.to_thread.run_sync(_litellm_program)
    served = {"model": f"openai/{MODEL}", "api_base": backend, "api_key": "none"}
    config = {"model_list": [{"model_name": MODEL, "litellm_params": served}], "general_settings": {"master_key": KEY}}
    path = folder / "litellm.yaml"
    path.write_text(json.dumps(config))  # YAML takes JSON
    port = _free_port()
    env = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False", "LITELLM_LOG": "ERROR"}
    arguments = [str(program), "--config", str(path), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    async with _running(arguments, env) as process:
        url = f"http://127.0.0.1:{port}"
        await _until_up(f"{url}/health/liveliness", process)
        headers = {"Authorization": f"Bearer {KEY}"}
        yield Peer(name="LiteLLM proxy", url=f"{url}/v1/chat/completions", headers=headers, pid=process.pid)


@asynccontextmanager
async def portkey(backend: str, folder: Path) -> AsyncIterator[Peer]:
    """Portkey's gateway, which has no keys of its own: it hands on to the server that the headers name."""
    program = await trio.to_thread.run_sync(_portkey_program)
    port = _free_port()
    env = {**os.environ, "TRUSTED_CUSTOM_HOSTS": "127.0.0.1"}
    async with _running(["node", str(program), f"--port={port}", "--headless"], env) as process:
        url = f"http://127.0.0.1:{port}"
        await _until_up(url, process)
        headers = {"Authorization": f"Bearer {KEY}", "x-portkey-provider": "openai", "x-portkey-custom-host": backend}
        yield Peer(name="Portkey gateway", url=f"{url}/v1/chat/completions", headers=headers, pid=process.pid)


def _litellm_program() -> Path:
    venv = default_data_path("peers") / "litellm"
    program = venv / "bin" / "litellm"
    if not program.exists():
        click.echo(f"installing {LITELLM}, which takes minutes the first time", err=True)
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        subprocess.run([venv / "bin" / "pip", "install", "--quiet", LITELLM], check=True)
    return program


def _portkey_program() -> Path:
    if shutil.which("npm") is None:
        raise click.ClickException("Portkey's gateway needs Node.js and npm, which are not here")
    place = default_data_path("peers") / "portkey"
    program = place / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
    if not program.exists():
        click.echo(f"installing {PORTKEY}", err=True)
        place.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "install", "--silent", "--prefix", str(place), PORTKEY], check=True)
    return program


@asynccontextmanager
async def _running(arguments: list[str], env: dict[str, str]) -> AsyncIterator[trio.Process]:
    process = await trio.lowlevel.open_process(
        arguments, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield process
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def _until_up(url: str, process: trio.Process) -> None:
    with trio.fail_after(START_S):
        async with httpx.AsyncClient() as client:
            while process.poll() is None:
                try:
                    (await client.get(url)).raise_for_status()
                except httpx.HTTPError:
                    await trio.sleep(0.3)
                else:
                    return
    raise click.ClickException(f"{process.args!r} ended with exit code {process.returncode}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
