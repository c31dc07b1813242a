"""The library's own commands: `cxp2p bootstrap`, `chat`, `embed`, `scrape`, `offers`. Loaded when one is called."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import trio

import cxp2p
from cxp2p.client import Answer, Net, wall_ms
from cxp2p.directory import Directory, Entry
from cxp2p.errors import CxError, one_line
from cxp2p.identity import load_identity
from cxp2p.net.discover import Discovery
from cxp2p.net.tasks import background
from cxp2p.paths import default_data_path
from cxp2p.peer import PeerSettings, open_peer
from cxp2p.program import LOG_LEVELS, announce, plain, run, set_up_logging
from cxp2p.receipts import Calendar
from cxp2p.records import Message, PageForm, Render, Role, Sampling, ScrapedPage
from cxp2p.scrape import MODEL
from cxp2p.sources import epoch_s_option

PEER_CHARS = 16  # of a peer id in a table, enough to know it by
PIPE_COLUMNS = 400


def _bootstrap_option(command: Callable[..., None]) -> Callable[..., None]:
    return click.option(
        "-b",
        "--bootstrap",
        multiple=True,
        envvar="CXP2P_BOOTSTRAP",
        required=True,
        metavar="ADDRESS",
        help="A peer to join through, ending in /p2p/<peer id>; may be repeated. [env: CXP2P_BOOTSTRAP]",
    )(command)


@click.command()
@click.option(
    "--listen",
    multiple=True,
    default=("/ip4/0.0.0.0/tcp/4001",),
    show_default=True,
    help="Multiaddress to listen on; port 0 takes a free one.",
)
@click.option("--announce", "announced", multiple=True, help="Address that others should dial, if it differs.")
@click.option("-b", "--bootstrap", multiple=True, help="Other bootstrap peers to stay connected to.")
@click.option("--data", type=click.Path(path_type=Path), default=None, help="Where the key file is kept.")
@click.option("--log-level", type=click.Choice(LOG_LEVELS), default="info", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Say when ready as a line of JSON.")
def bootstrap(
    listen: tuple[str, ...],
    announced: tuple[str, ...],
    bootstrap: tuple[str, ...],
    data: Path | None,
    log_level: str,
    as_json: bool,
) -> None:
    """Run a bootstrap peer: a way into the network, which keeps DHT records and passes offers on.

    \b
    Example:
      cxp2p bootstrap --listen /ip4/0.0.0.0/tcp/4001 --announce /ip4/203.0.113.7/tcp/4001
    """
    set_up_logging(log_level)
    settings = PeerSettings(listen=listen, announce=announced, bootstrap=bootstrap)

    async def serve(stopping: trio.Event) -> None:
        async with open_peer(settings, data or default_data_path("bootstrap")) as (identity, network):
            discovery = Discovery(network, Directory(), wall_ms, random.SystemRandom(), watching=False)
            async with background() as nursery:
                nursery.start_soon(discovery.run)
                facts = {"event": "ready", "peer": identity.peer, "addresses": network.addresses}
                announce(facts, f"bootstrap peer ready: {' '.join(network.addresses)}", as_json=as_json)
                await stopping.wait()

    run(serve)


@click.command()
@click.argument("model")
@click.argument("text")
@_bootstrap_option
@click.option("--system", default=None, help="A system message in front.")
@click.option("--max-tokens", type=click.IntRange(1), default=None, help="Stop after so many tokens.")
@click.option("--temperature", type=click.FloatRange(0, 2), default=0.7, show_default=True)
@click.option("--seed", type=int, default=None, help="Makes the answer repeatable on the same node.")
@click.option("--key", type=click.Path(path_type=Path), default=None, help="Ask as this peer (a key file).")
@epoch_s_option
@click.option("--json", "as_json", is_flag=True, help="Print the answer and how it was made as one JSON object.")
@click.option("--log-level", type=click.Choice(LOG_LEVELS), default="warning", show_default=True)
def chat(
    model: str,
    text: str,
    bootstrap: tuple[str, ...],
    system: str | None,
    max_tokens: int | None,
    temperature: float,
    seed: int | None,
    key: Path | None,
    epoch_s: int,
    as_json: bool,
    log_level: str,
) -> None:
    """Ask MODEL for an answer to TEXT, straight over the p2p network, with no gateway.

    TEXT may be "-" to read standard input.

    \b
    Example:
      cxp2p chat smollm2:135m "Why is the sky blue?" -b /ip4/127.0.0.1/tcp/4001/p2p/12D3KooW...
    """
    set_up_logging(log_level)
    words = sys.stdin.read() if text == "-" else text
    turns = [Message(role=Role.SYSTEM, content=system)] if system else []
    turns.append(Message(role=Role.USER, content=words))
    started = time.perf_counter()
    first: list[float] = []

    async def show(piece: str) -> None:
        first.append(time.perf_counter())
        if not as_json:
            click.echo(plain(piece), nl=False)
            sys.stdout.flush()
        await trio.lowlevel.checkpoint()

    async def ask(_: trio.Event) -> None:
        nonlocal started
        async with _visit(bootstrap, key, epoch_s) as net:
            await net.find(model)
            started = time.perf_counter()
            answer = await net.chat(
                model,
                turns,
                max_tokens=max_tokens,
                on_text=show,
                sampling=Sampling(temperature=temperature, seed=seed),
            )
        _print_answer(answer, started, first, as_json)

    run(ask)


def _visit(bootstrap: tuple[str, ...], key: Path | None, epoch_s: int) -> AbstractAsyncContextManager[Net]:
    """The network for one question, as the peer of a key file, or as nobody in particular."""
    identity = load_identity(key) if key else None
    return cxp2p.connect(bootstrap, identity=identity, calendar=Calendar(epoch_ms=epoch_s * 1000))


def _print_answer(answer: Answer, started: float, first: list[float], as_json: bool) -> None:
    receipt = answer.outcome.settlement.receipt
    seconds = time.perf_counter() - started
    first_ms = round(1000 * (first[0] - started)) if first else 0
    facts = {
        "text": answer.text,
        "finish": str(answer.finish),
        "node": answer.outcome.node,
        "attempts": answer.outcome.attempts,
        "in_units": receipt.in_units,
        "out_units": receipt.out_units,
        "charge_ucredits": receipt.charge,
        "first_piece_ms": first_ms,
        "seconds": round(seconds, 3),
        "found_via": answer.outcome.found_via,
        "verdict": str(answer.outcome.settlement.countersign.verdict),
    }
    if as_json:
        click.echo(json.dumps(facts, ensure_ascii=False))
        return
    click.echo()
    rate = receipt.out_units / seconds if seconds else 0.0
    note = (
        f"{receipt.in_units} + {receipt.out_units} tokens, first after {first_ms} ms, {rate:.0f} tokens/s, "
        f"by {answer.outcome.node}; receipt {facts['verdict']}, {receipt.charge} µcredits"
    )
    click.secho(note, dim=True, err=True)


@click.command()
@click.argument("model")
@click.argument("texts", nargs=-1, required=True)
@_bootstrap_option
@click.option("--no-truncate", is_flag=True, help="Fail for a text that is too long for the model, do not cut it.")
@click.option("--key", type=click.Path(path_type=Path), default=None, help="Ask as this peer (a key file).")
@epoch_s_option
@click.option("--log-level", type=click.Choice(LOG_LEVELS), default="warning", show_default=True)
def embed(
    model: str,
    texts: tuple[str, ...],
    bootstrap: tuple[str, ...],
    no_truncate: bool,
    key: Path | None,
    epoch_s: int,
    log_level: str,
) -> None:
    """Print a vector of each of TEXTS as a line of JSON, straight over the p2p network, with no gateway.

    TEXTS may be "-" to read standard input: each line is a text.

    \b
    Example:
      cxp2p embed all-minilm-l6-v2 "A man is eating food." -b /ip4/127.0.0.1/tcp/4001/p2p/12D3KooW...
    """
    set_up_logging(log_level)
    inputs = sys.stdin.read().splitlines() if texts == ("-",) else list(texts)
    if not inputs:
        raise click.UsageError("there is no text: standard input is empty")

    async def ask(_: trio.Event) -> None:
        async with _visit(bootstrap, key, epoch_s) as net:
            got = await net.embed(model, inputs, truncate=not no_truncate)
        for vector in got.vectors:
            click.echo(json.dumps(vector.tolist()))
        nodes = len({outcome.node for outcome in got.outcomes})
        click.secho(f"{got.in_units} tokens, {len(got.outcomes)} receipts of {nodes} nodes", dim=True, err=True)

    run(ask)


@click.command()
@click.argument("urls", nargs=-1, required=True)
@_bootstrap_option
@click.option(
    "--format", "form", type=click.Choice([each.value for each in PageForm]), default="markdown", show_default=True
)
@click.option("--whole", is_flag=True, help="With navigation, footers and the like.")
@click.option("--links", is_flag=True, help="Keep the addresses of links.")
@click.option("--timeout", type=click.IntRange(1, 60), default=30, show_default=True, help="Seconds for each page.")
@click.option(
    "--max-age", type=click.IntRange(0, 30 * 86_400), default=0, help="A node's copy will do if it has so many seconds."
)
@click.option("--render", type=click.Choice([each.value for each in Render]), default="never", show_default=True)
@click.option("--model", default=MODEL, show_default=True, help="What nodes call this service.")
@click.option("--key", type=click.Path(path_type=Path), default=None, help="Ask as this peer (a key file).")
@epoch_s_option
@click.option("--json", "as_json", is_flag=True, help="Print each page and what is known of it as a line of JSON.")
@click.option("--log-level", type=click.Choice(LOG_LEVELS), default="warning", show_default=True)
def scrape(
    urls: tuple[str, ...],
    bootstrap: tuple[str, ...],
    form: str,
    whole: bool,
    links: bool,
    timeout: int,
    max_age: int,
    render: str,
    model: str,
    key: Path | None,
    epoch_s: int,
    as_json: bool,
    log_level: str,
) -> None:
    """Print the web pages at URLS as Markdown, fetched by nodes of the p2p network, with no gateway.

    Several pages have their URL in front. A page that could not be had is told on standard error, and ends the command
    with exit code 1, after the others.

    \b
    Example:
      cxp2p scrape https://example.com/ -b /ip4/127.0.0.1/tcp/4001/p2p/12D3KooW...
    """
    set_up_logging(log_level)

    async def ask(_: trio.Event) -> None:
        async with _visit(bootstrap, key, epoch_s) as net:
            got = await net.scrape(
                urls,
                form=PageForm(form),
                main_only=not whole,
                links=links,
                timeout_s=timeout,
                age_s_max=max_age,
                render=Render(render),
                model=model,
            )
        for url, page in zip(urls, got.pages, strict=True):
            _print_page(url, page, several=len(urls) > 1, as_json=as_json)
        failed = sum(not isinstance(page, ScrapedPage) or page.fault is not None for page in got.pages)
        nodes = len({outcome.node for outcome in got.outcomes})
        note = f"{len(urls) - failed} of {len(urls)} pages, {len(got.outcomes)} receipts of {nodes} nodes"
        click.secho(note, dim=True, err=True)
        if failed:
            raise SystemExit(1)

    run(ask)


def _print_page(url: str, page: ScrapedPage | CxError, *, several: bool, as_json: bool) -> None:
    if as_json:
        facts = {"error": str(page)} if isinstance(page, CxError) else asdict(page)
        click.echo(json.dumps({"url": url} | facts, ensure_ascii=False))
    elif isinstance(page, CxError):
        click.echo(f"{url}: {page}", err=True)
    elif page.fault is not None:
        click.echo(f"{url}: {page.fault} {one_line(page.reason)}", err=True)
    else:
        click.echo(f"<{url}>\n\n{plain(page.content)}\n" if several else plain(page.content))


@click.command()
@_bootstrap_option
@click.option("--seconds", type=click.FloatRange(0.5, 120), default=5.0, show_default=True, help="How long to look.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line for each capability.")
@click.option("--log-level", type=click.Choice(LOG_LEVELS), default="warning", show_default=True)
def offers(bootstrap: tuple[str, ...], seconds: float, as_json: bool, log_level: str) -> None:
    """List what the network offers now: nodes, models, prices, load; with --json all that is known of each.

    \b
    Example:
      cxp2p offers -b /ip4/127.0.0.1/tcp/4001/p2p/12D3KooW... --json
    """
    set_up_logging(log_level)

    async def look(_: trio.Event) -> None:
        async with cxp2p.connect(bootstrap) as net:
            with trio.move_on_after(seconds):
                await net.discovery.until(lambda: _settled(net))
                await trio.sleep(min(1.0, seconds / 4))  # one more exchange: the first node seldom comes alone
        rows = [row for entry in net.offers() for row in _rows(entry)]
        if as_json:
            for row in rows:
                click.echo(json.dumps(row))
        elif not rows:
            click.echo("no offers found; is the bootstrap address right, and does a node run?", err=True)
        else:
            _print_table(rows)

    run(look)


def _settled(net: Net) -> bool:
    now = trio.current_time()
    return bool(net.offers()) and all(entry.alive_until > now for entry in net.offers())


def _rows(entry: Entry) -> list[dict[str, Any]]:
    return [
        {
            "peer": entry.offer.peer,
            "service": str(able.service),
            "model": able.model,
            "running": able.load.running,
            "queued": able.load.queued,
            "slots": able.slots,
            "loading_ms": able.load.loading_ms,
            "context": able.context_units,
            "price_in": able.prices.input,
            "price_out": able.prices.output,
            "units_per_s": able.load.units_per_s,
            "found_via": str(entry.found_via),
            "lookup_ms": entry.lookup_ms,
            "runtime": able.runtime,
        }
        for able in entry.offer.capabilities
    ]


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console  # noqa: PLC0415  # only this command draws
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, header_style="bold")
    for title in ("model", "service", "load", "in memory", "price in/out", "tokens/s", "found", "peer"):
        table.add_column(title, overflow="fold", no_wrap=title == "model")
    for row in rows:
        table.add_row(
            Text(str(row["model"])),
            str(row["service"]),
            f"{row['running']}+{row['queued']}/{row['slots']}",
            f"in {int(row['loading_ms']) / 1000:.1f} s" if row["loading_ms"] else "yes",
            f"{row['price_in']}/{row['price_out']}",
            str(row["units_per_s"] or "?"),
            str(row["found_via"]),
            str(row["peer"])[:PEER_CHARS],
        )
    # Into a file or a pipe each model goes on one line.
    Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS).print(table)
