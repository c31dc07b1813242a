"""A real node and a real gateway, as processes, with the `echo` engine: 200 words a second."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

START_S = 60.0
WORDS_PER_S = 200


@dataclass
class Program:
    """A program that runs, and the facts that it told so far, by event."""

    process: trio.Process
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    said: bytes = b""

    async def until(self, event: str) -> dict[str, Any]:
        """The facts of an event, once it was told."""
        assert self.process.stdout is not None
        with trio.fail_after(START_S):
            while event not in self.facts:
                part = await self.process.stdout.receive_some()
                assert part, f"it ended with {await self.process.wait()} before {event}"
                *lines, self.said = (self.said + part).split(b"\n")
                for line in lines:
                    facts = json.loads(line)
                    self.facts[facts["event"]] = facts
        return self.facts[event]

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


@asynccontextmanager
async def program(folder: Path, *arguments: str) -> AsyncIterator[Program]:
    """`cxp2p ARGUMENTS --json`; it is killed at the end of the block if it still runs. Its log is in `folder`."""
    command = [sys.executable, "-m", "cxp2p", *arguments, "--json"]
    with (folder / f"{arguments[0]}.log").open("ab") as log:
        process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, stderr=log)
    try:
        yield Program(process)
    finally:
        with trio.CancelScope(shield=True):
            if process.poll() is None:
                process.kill()
            await process.wait()
            assert process.stdout is not None
            await process.stdout.aclose()


@asynccontextmanager
async def echo_node(folder: Path) -> AsyncIterator[str]:
    """A node that serves `echo`; its address."""
    config = folder / "node.toml"
    config.write_text(
        f"data_path = {json.dumps(str(folder / 'node'))}\n"
        '[peer]\nlisten = ["/ip4/127.0.0.1/tcp/0"]\n[[models]]\nname = "echo"\nengine = "echo"\n'
    )
    async with program(folder, "node", "run", "--config", str(config)) as node:
        yield (await node.until("ready"))["addresses"][0]


@asynccontextmanager
async def gateway(folder: Path, bootstrap: str, settings: str, *options: str) -> AsyncIterator[Program]:
    """A gateway with these settings; its first request may wait for the node."""
    config = folder / "gateway.toml"
    config.write_text(f"data_path = {json.dumps(str(folder / 'gateway'))}\n{settings}\n")
    async with program(folder, "gateway", "run", "--config", str(config), "-b", bootstrap, *options) as running:
        await running.until("ready")
        yield running


def ask_of(words: int, *, stream: bool = True) -> dict[str, Any]:
    """A chat request whose answer takes `words` / 200 seconds."""
    content = " ".join(f"w{number}" for number in range(words))
    return {"model": "echo", "stream": stream, "messages": [{"role": "user", "content": content}]}
