"""Starts the network's processes and tells when they are ready; stops them all, whatever happens."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from demo.site import HOST, site

EPOCH_S = 3600
EPOCH_S_SHORT = 10  # so that one can be shown that is closed
START_S = 60.0
STOP_S = 5.0
MODEL = "smollm2:135m"
EMBED_MODEL = "all-minilm-l6-v2"
VOICE = "en_US-joe-medium"


class DemoError(Exception):
    """The demo cannot go on. The text says why and what to look at."""


@dataclass(slots=True)
class Program:
    """One running process of the network, and the facts that it told when it was ready."""

    name: str
    process: trio.Process
    log_path: Path
    facts: dict[str, dict[str, object]]

    def fact(self, event: str, name: str) -> str:
        return str(self.facts[event][name])


def write_config(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def node_config(data_path: Path, bootstrap: str, epoch_s: int = EPOCH_S) -> str:
    threads = max(1, (os.cpu_count() or 2) // 2)
    return f"""\
data_path = {json.dumps(str(data_path))}

[peer]
listen = ["/ip4/127.0.0.1/tcp/0"]
bootstrap = [{json.dumps(bootstrap)}]
epoch_s = {epoch_s}

[[models]]
name = "{MODEL}"
slots = 4
threads = {threads}

[[models]]
name = "{EMBED_MODEL}"
threads = {threads}

[[models]]
name = "{VOICE}"
threads = {threads}

[[models]]
name = "web"
engine = "scrape"

[scrape]
allow = ["{HOST}"]
"""


def gateway_config(data_path: Path, bootstrap: str, port: int, epoch_s: int = EPOCH_S) -> str:
    return f"""\
data_path = {json.dumps(str(data_path))}

[peer]
listen = ["/ip4/127.0.0.1/tcp/0"]
bootstrap = [{json.dumps(bootstrap)}]
epoch_s = {epoch_s}

[http]
host = "127.0.0.1"
port = {port}

[scrape]
allow = ["{HOST}"]
"""


@asynccontextmanager
async def start(name: str, arguments: list[str], log_path: Path, until: str = "ready") -> AsyncIterator[Program]:
    """Runs `cxp2p ARGUMENTS --json` until the block ends. Entered when it has told the event `until`."""
    log_path.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "cxp2p", *arguments, "--json"]
    with log_path.open("wb") as log:
        process = await trio.lowlevel.open_process(command, stdout=-1, stderr=log, start_new_session=True)
    program = Program(name, process, log_path, {})
    try:
        with trio.move_on_after(START_S) as patience:
            await _listen(program, until)
        if patience.cancelled_caught:
            raise DemoError(f"{name} was not ready in {START_S:g} s; its log is {log_path}")
        yield program
    finally:
        with trio.CancelScope(shield=True):
            await stop(program)


async def _listen(program: Program, until: str) -> None:
    assert program.process.stdout is not None
    buffer = b""
    while until not in program.facts:
        data = await program.process.stdout.receive_some()
        if not data:
            raise DemoError(f"{program.name} ended before it was ready: {_last_words(program.log_path)}")
        *lines, buffer = (buffer + data).split(b"\n")
        for line in lines:
            facts = json.loads(line)
            program.facts[facts["event"]] = facts


def interrupt(program: Program) -> None:
    """What Ctrl-C does; nothing if the process has ended."""
    if program.process.returncode is None:
        program.process.send_signal(signal.SIGINT)


async def stop(program: Program) -> None:
    """Interrupts the process and waits; kills it if it does not leave."""
    interrupt(program)
    if program.process.returncode is None:
        with trio.move_on_after(STOP_S):
            await program.process.wait()
    if program.process.returncode is None:
        program.process.kill()
        await program.process.wait()
    if program.process.stdout is not None:
        await program.process.stdout.aclose()


def _last_words(log_path: Path) -> str:
    lines = log_path.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"nothing was said; the log is {log_path}"


@dataclass(frozen=True, slots=True)
class Network:
    """The running network and how to reach it. `page`: the URL of one that its nodes may fetch."""

    bootstrap: Program
    nodes: tuple[Program, ...]
    gateway: Program
    credentials: Mapping[str, str]
    page: str

    @property
    def base_url(self) -> str:
        return self.gateway.fact("ready", "url") + "/api/v1"


def stop_leftovers(state: Path) -> int:
    """Ends the processes of an earlier network here whose starter was killed. Returns how many there were."""
    stopped = 0
    for command_line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = command_line.read_bytes().split(b"\0")
        except OSError:  # it has just ended, or is not ours to look at
            continue
        of_here = any(word.startswith(os.fsencode(state) + b"/") for word in words)
        if b"cxp2p" in words and of_here:
            os.kill(int(command_line.parent.name), signal.SIGKILL)
            stopped += 1
    return stopped


@asynccontextmanager
async def network(state: Path, port: int, epoch_s: int = EPOCH_S) -> AsyncIterator[Network]:
    """Bootstrap peer first, then both nodes and the gateway side by side. `state` is absolute, for one network.

    Epochs of one state are always as long.
    """
    with _claimed(state):
        stop_leftovers(state)
        with site() as page:
            async with _network(state, port, page, epoch_s) as running:
                yield running


@contextmanager
def _claimed(state: Path) -> Iterator[None]:
    state.mkdir(parents=True, exist_ok=True)
    with (state / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DemoError(f"a network runs in {state} already; stop it first") from None
        yield


@asynccontextmanager
async def _network(state: Path, port: int, page: str, epoch_s: int) -> AsyncIterator[Network]:
    logs = state / "logs"
    boot_arguments = ["bootstrap", "--listen", "/ip4/127.0.0.1/tcp/0", "--data", str(state / "bootstrap")]
    async with start("bootstrap peer", boot_arguments, logs / "bootstrap.log") as bootstrap:
        addresses = bootstrap.facts["ready"]["addresses"]
        assert isinstance(addresses, list)
        address = addresses[0]
        configs = {
            f"node-{number}": write_config(
                state / f"node-{number}.toml", node_config(state / f"node-{number}", address, epoch_s)
            )
            for number in (1, 2)
        }
        gateway_text = gateway_config(state / "gateway", address, port, epoch_s)
        gateway_file = write_config(state / "gateway.toml", gateway_text)
        async with _side_by_side(
            {
                **{name: ["node", "run", "--config", str(path)] for name, path in configs.items()},
                "gateway": ["gateway", "run", "--config", str(gateway_file)],
            },
            logs,
        ) as programs:
            nodes = tuple(programs[name] for name in configs)
            gateway = programs["gateway"]
            try:
                yield Network(bootstrap, nodes, gateway, credentials(state, gateway), page)
            finally:
                interrupt(bootstrap)  # with the others, not after them


@asynccontextmanager
async def _side_by_side(commands: Mapping[str, list[str]], logs: Path) -> AsyncIterator[dict[str, Program]]:
    """Starts several programs at once: each takes a second or two to import."""
    programs: dict[str, Program] = {}
    leaving = trio.Event()
    all_ready = trio.Event()

    async def keep(name: str, arguments: list[str]) -> None:
        async with start(name, arguments, logs / f"{name}.log") as program:
            programs[name] = program
            if len(programs) == len(commands):
                all_ready.set()
            await leaving.wait()

    async with trio.open_nursery() as nursery:
        for name, arguments in commands.items():
            nursery.start_soon(keep, name, arguments)
        await all_ready.wait()
        try:
            yield programs
        finally:
            leaving.set()


def credentials(state: Path, gateway: Program) -> dict[str, str]:
    """The account that the gateway made at its first start: told once, kept in a private file of the demo."""
    path = state / "credentials.json"
    if "account" in gateway.facts:
        kept = {"api_key": gateway.fact("account", "api_key"), "user_id": gateway.fact("account", "user_id")}
        path.touch(mode=0o600)
        path.write_text(json.dumps(kept))
        return kept
    if not path.exists():
        raise DemoError(f"the key of the demo's account is lost: remove {state} and start again")
    known: dict[str, str] = json.loads(path.read_text())
    return known
