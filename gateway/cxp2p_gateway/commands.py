"""`cxp2p gateway`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import click
import trio

from cxp2p.checks import check_file, fault, report
from cxp2p.client import wall_ms
from cxp2p.errors import CxError, SettingsError
from cxp2p.net.tasks import sole
from cxp2p.paths import default_config_path
from cxp2p.program import LOG_LEVELS, LogForm, fail, run, set_up_logging
from cxp2p.settings import load_settings, write_commented
from cxp2p_gateway.account_commands import account_commands
from cxp2p_gateway.app import open_books, store_path
from cxp2p_gateway.checking import check
from cxp2p_gateway.config import WORKERS_MAX, GatewaySettings
from cxp2p_gateway.evidence_commands import evidence_command
from cxp2p_gateway.key_commands import NO_ACCOUNT, key_commands
from cxp2p_gateway.running import Call, check_workers, serve, serve_as_worker, supervise
from cxp2p_gateway.store import Store, StoreError, StoreLocked
from cxp2p_gateway.store.moving import move

T = TypeVar("T")

_CONFIG = click.option("--config", type=click.Path(path_type=Path), default=None, help="The gateway's settings file.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Say it as a line of JSON.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def gateway() -> None:
    """OpenAI-compatible HTTP in front of the network."""


@gateway.command("run")
@click.option("--config", type=click.Path(path_type=Path), default=None, help="The settings file (TOML).")
@click.option("-b", "--bootstrap", multiple=True, metavar="ADDRESS", help="A peer to join through; may be repeated.")
@click.option("--port", type=click.IntRange(0, 65_535), default=None, help="Where HTTP listens; 0 takes a free port.")
@click.option("--log-level", type=click.Choice(LOG_LEVELS), default="info", show_default=True)
@click.option(
    "--log-format",
    "log_form",
    type=click.Choice(LogForm, case_sensitive=False),
    default=None,
    help="How log lines look.",
)
@click.option("--workers", type=click.IntRange(1, WORKERS_MAX), default=None, help="Processes that serve the port.")
@click.option("--json", "as_json", is_flag=True, help="Say what happens as lines of JSON.")
@click.option("--worker", type=int, default=None, hidden=True)
@click.option("--listen-fd", "descriptors", type=int, multiple=True, hidden=True)
def run_(
    config: Path | None,
    bootstrap: tuple[str, ...],
    port: int | None,
    log_level: str,
    log_form: LogForm | None,
    workers: int | None,
    as_json: bool,
    worker: int | None,
    descriptors: tuple[int, ...],
) -> None:
    """Run a gateway until Ctrl-C. SIGTERM lets it finish the answers that run; a second one does not.

    The first start makes an account and shows its key once. Settings come from the file, then from CXP2P_GATEWAY_…
    variables, then from these options. `cxp2p gateway init` writes a file with every setting explained.

    \b
    Examples:
      cxp2p gateway run -b /ip4/127.0.0.1/tcp/4001/p2p/12D3KooW...
      cxp2p gateway run --config gateway.toml --port 8000
    """
    set_up_logging(log_level, log_form or LogForm.TEXT)
    try:
        settings = _settings(config, bootstrap, port, workers)
        check_workers(settings)
    except SettingsError as error:
        fail(error)
    form = log_form or settings.log.format
    set_up_logging(log_level, form)
    if worker is not None:
        run(partial(serve_as_worker, settings, worker, descriptors))
    elif settings.http.workers > 1:
        call = Call(config=config, bootstrap=bootstrap, log_level=log_level, log_form=form, as_json=as_json)
        run(partial(supervise, settings, call))
    else:
        run(partial(serve, settings, as_json=as_json))


def _settings(
    config: Path | None, bootstrap: tuple[str, ...] = (), port: int | None = None, workers: int | None = None
) -> GatewaySettings:
    path = config or default_config_path("gateway")
    settings = load_settings(GatewaySettings, "gateway", path, required=config is not None)
    if bootstrap:
        settings = settings.model_copy(update={"peer": settings.peer.model_copy(update={"bootstrap": bootstrap})})
    told = {name: value for name, value in (("port", port), ("workers", workers)) if value is not None}
    return settings.model_copy(update={"http": settings.http.model_copy(update=told)})


@gateway.command()
@click.argument("path", type=click.Path(path_type=Path), required=False)
@click.option("--force", is_flag=True, help="Overwrite a file that is there.")
def init(path: Path | None, force: bool) -> None:
    """Write a settings file with every setting explained, to PATH or where `gateway run` looks for it.

    \b
    Example:
      cxp2p gateway init gateway.toml
    """
    try:
        click.echo(f"wrote {write_commented(GatewaySettings, 'gateway', path, force=force)}")
    except SettingsError as error:
        fail(error)


@gateway.command("check")
@_CONFIG
@click.option("-b", "--bootstrap", multiple=True, metavar="ADDRESS", help="A peer to join through; may be repeated.")
@click.option("--port", type=click.IntRange(0, 65_535), default=None, help="Where HTTP would listen.")
@click.option("--network", is_flag=True, help="Ask the bootstrap peers whether they are there, too.")
@_JSON
def check_(config: Path | None, bootstrap: tuple[str, ...], port: int | None, network: bool, as_json: bool) -> None:
    """Tell whether `gateway run` would start with these settings, and with what; nothing is made or changed.

    The exit status is 0, or 1 if it would not start. While a gateway runs this looks at settings for its next start.

    \b
    Example:
      cxp2p gateway check --config gateway.toml --network
    """
    try:
        settings = _settings(config, bootstrap, port)
        findings = [check_file(config or default_config_path("gateway"))]
        findings += trio.run(partial(check, settings, network=network))
    except SettingsError as error:
        findings = [fault("settings", error)]
    raise SystemExit(report(findings, as_json=as_json))


@gateway.command("move")
@_CONFIG
def move_(config: Path | None) -> None:
    """Copy accounts, keys, credit and receipts from the SQLite file into the empty PostgreSQL of `database.url`.

    All or nothing; the file stays where it is. The gateway must not run.

    \b
    Example:
      CXP2P_GATEWAY_DATABASE__URL=postgresql://gateway@/books cxp2p gateway move
    """

    async def main() -> int:
        settings = _settings(config)
        path, url = store_path(settings), settings.database.url
        if url is None:
            raise SettingsError(
                "database.url: not set; expected where to move to, postgresql://user:password@host/name"
            )
        if not path.exists():
            raise SettingsError(f"there is no {path}: nothing has to be moved")
        return await move(path, url.get_secret_value(), wall_ms)

    click.echo(f"copied {_done(main)} rows; the next start uses PostgreSQL")


def _with_store(config: Path | None, act: Callable[[Store], Awaitable[T]]) -> T:
    """What `act` returns for the gateway's store. Ends the program with the reason if the store cannot be used."""

    async def main() -> T:
        settings = _settings(config, (), None)
        path = store_path(settings)
        if settings.database.url is None and not path.exists():
            raise SettingsError(f"{NO_ACCOUNT} (there is no {path})")
        async with open_books(settings) as store:
            return await act(store)

    return _done(main)


def _done(main: Callable[[], Awaitable[T]]) -> T:
    """What `main` returns. Ends the program with the reason if the store cannot be used."""
    try:
        return trio.run(main)
    except (CxError, BaseExceptionGroup) as error:
        only = sole(error)
        if isinstance(only, StoreLocked):
            only = StoreError(
                f"the gateway runs (process {only.keeper}) and keeps its database for itself: "
                f"stop it (kill {only.keeper}), do this again, and start it anew"
            )
        if isinstance(only, CxError):
            fail(only)
        raise


gateway.add_command(key_commands(_with_store))
gateway.add_command(account_commands(_with_store))
gateway.add_command(evidence_command(_settings, store_path))
