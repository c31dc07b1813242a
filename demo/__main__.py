"""`python -m demo` asks a fresh network and ends; `python -m demo up` leaves it running."""

from __future__ import annotations

import json
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TypeAlias, TypeVar

import click
import trio

from cxp2p.net.tasks import sole
from demo.asking import ask_plain, ask_streamed, wait_until_ready
from demo.closing import close_and_check
from demo.network import EMBED_MODEL, EPOCH_S_SHORT, MODEL, VOICE, DemoError, Network, network
from demo.scraping import scrape
from demo.speaking import speak

STATE = Path(".state/up").resolve()
STATE_SHORT = Path(".state/demo").resolve()  # of the network with short epochs
PORT = 8080

T = TypeVar("T")
Main: TypeAlias = Callable[..., Awaitable[None]]


@click.group(invoke_without_command=True)
@click.pass_context
def main(ctx: click.Context) -> None:
    """Start a whole network on this machine, ask it, print the answers, the verified receipts and epochs."""
    if ctx.invoked_subcommand is None:
        _run(_demo)


@main.command()
@click.option("--port", default=PORT, show_default=True, help="Where the gateway listens; 0 takes a free port.")
@click.option(
    "--state",
    type=click.Path(path_type=Path, resolve_path=True),
    default=STATE,
    show_default=True,
    help="Keys, books, logs.",
)
@click.option("--json", "as_json", is_flag=True, help="Say how to reach it as one line of JSON.")
def up(port: int, state: Path, as_json: bool) -> None:
    """Start such a network, with epochs of an hour, and leave it running until Ctrl-C."""
    _run(_up, port, state, as_json)


async def _demo() -> None:
    await _pull()
    started = time.monotonic()
    click.echo("starting one bootstrap peer, two nodes and a gateway ...")
    async with network(STATE_SHORT, port=0, epoch_s=EPOCH_S_SHORT) as running:
        await _in_thread(wait_until_ready, running, 2)
        for node in running.nodes:
            click.echo(f"  {node.name} is {node.fact('ready', 'peer')}")
        click.echo(f"  gateway found both after {time.monotonic() - started:.1f} s: {running.base_url}")
        generations = [
            await _in_thread(ask_streamed, running),
            await _in_thread(ask_plain, running),
            await _in_thread(scrape, running, running.page),
            await _in_thread(speak, running),
        ]
        await _in_thread(close_and_check, running, generations)
    click.echo(
        "\nNext: `make up` leaves such a network running, with epochs of an hour, and prints a key to use it with."
    )


async def _up(port: int, state: Path, as_json: bool) -> None:
    await _pull()
    click.echo("starting one bootstrap peer, two nodes and a gateway ...", err=as_json)
    async with network(state, port=_free(port)) as running:
        await _in_thread(wait_until_ready, running, 2)
        if as_json:
            click.echo(json.dumps(_access(running)))
        else:
            _print_access(_access(running), state)
        sys.stdout.flush()
        async with trio.open_nursery() as nursery:
            for program in (running.bootstrap, *running.nodes, running.gateway):
                nursery.start_soon(_tell_end, program.name, program.process)


def _access(running: Network) -> dict[str, object]:
    """All that somebody needs to use the network, and to look at its processes."""
    addresses = running.bootstrap.facts["ready"]["addresses"]
    assert isinstance(addresses, list)
    return {
        "base_url": running.base_url,
        **running.credentials,
        "bootstrap": addresses[0],
        "page": running.page,
        "dashboard": _dashboard(running),
        "nodes": [{"peer": node.fact("ready", "peer"), "pid": node.process.pid} for node in running.nodes],
        "gateway_pid": running.gateway.process.pid,
    }


def _dashboard(running: Network) -> str:
    """Where its first account gets a password, or where it logs in, if it has one."""
    if "claim" in running.gateway.facts:
        return running.gateway.fact("claim", "url")
    return running.base_url.removesuffix("/api/v1") + "/login"


def _print_access(access: Mapping[str, object], state: Path) -> None:
    click.echo(f"""
base URL   {access["base_url"]}
API key    {access["api_key"]}
user id    {access["user_id"]}
bootstrap  {access["bootstrap"]}
page       {access["page"]}
dashboard  {access["dashboard"]}

curl -N {access["base_url"]}/chat/completions \\
  -H "Authorization: Bearer {access["api_key"]}" \\
  -H "X-User-Id: {access["user_id"]}" \\
  -H "Content-Type: application/json" \\
  -d '{{"model": "{MODEL}", "messages": [{{"role": "user", "content": "Hello!"}}], "stream": true}}'

Ctrl-C stops it. Logs are in {state / "logs"}.""")


async def _in_thread(work: Callable[..., T], *arguments: object) -> T:
    """Runs what blocks; a cancel leaves it behind, and the end of this process ends it."""
    return await trio.to_thread.run_sync(work, *arguments, abandon_on_cancel=True)  # type: ignore[call-arg]


async def _tell_end(name: str, process: trio.Process) -> None:
    await process.wait()
    click.echo(f"{name} ended with exit code {process.returncode}", err=True)


async def _pull() -> None:
    """Fetches the models with the node's own command: a progress bar on a terminal, a second start does nothing."""
    for model in (MODEL, EMBED_MODEL, VOICE):
        await _pull_one(model)


async def _pull_one(model: str) -> None:
    done = await trio.run_process([sys.executable, "-m", "cxp2p", "models", "pull", model], stdout=2, check=False)
    if done.returncode:
        raise DemoError(f"the model {model} could not be fetched")


def _free(port: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            click.echo(f"port {port} is taken; the gateway gets a free one")
            return 0
    return port


async def _until_signal(main_: Main, arguments: tuple[object, ...]) -> bool:
    """Runs `main_`, and cancels it at SIGINT or SIGTERM: whoever ends this, nothing is left running. True if so."""
    interrupted = False
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def heed() -> None:
                nonlocal interrupted
                async for _ in signals:
                    interrupted = True
                    nursery.cancel_scope.cancel()

            nursery.start_soon(heed)
            await main_(*arguments)
            nursery.cancel_scope.cancel()
    return interrupted


def _run(main_: Main, *arguments: object) -> None:
    try:
        if trio.run(_until_signal, main_, arguments):
            raise SystemExit(130)
    except (Exception, BaseExceptionGroup) as error:
        only = sole(error)
        if isinstance(only, (DemoError, TimeoutError, ValueError)):
            click.echo(f"error: {only}", err=True)
            raise SystemExit(1) from None
        raise


if __name__ == "__main__":
    main()
