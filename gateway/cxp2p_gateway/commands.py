"""`cxp2p gateway`."""

from __future__ import annotations

from pathlib import Path

import click
import trio

from cxp2p.errors import SettingsError
from cxp2p.paths import default_config_path
from cxp2p.program import LOG_LEVELS, announce, fail, run, set_up_logging
from cxp2p.settings import load_settings, write_commented
from cxp2p_gateway.app import Gateway, open_gateway
from cxp2p_gateway.config import GatewaySettings


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def gateway() -> None:
    """OpenAI-compatible HTTP in front of the network."""


@gateway.command("run")
@click.option("--config", type=click.Path(path_type=Path), default=None, help="The settings file (TOML).")
@click.option("-b", "--bootstrap", multiple=True, metavar="ADDRESS", help="A peer to join through; may be repeated.")
@click.option("--port", type=click.IntRange(0, 65_535), default=None, help="Where HTTP listens; 0 takes a free port.")
@click.option("--log-level", type=click.Choice(LOG_LEVELS), default="info", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Say what happens as lines of JSON.")
def run_(config: Path | None, bootstrap: tuple[str, ...], port: int | None, log_level: str, as_json: bool) -> None:
    """Run a gateway until Ctrl-C. SIGTERM lets it finish the answers that run.

    The first start makes an account and shows its key once. Settings come from the file, then from CXP2P_GATEWAY_…
    variables, then from these options. `cxp2p gateway init` writes a file with every setting explained.

    \b
    Examples:
      cxp2p gateway run -b /ip4/127.0.0.1/tcp/4001/p2p/12D3KooW...
      cxp2p gateway run --config gateway.toml --port 8000
    """
    set_up_logging(log_level)
    try:
        settings = _settings(config, bootstrap, port)
    except SettingsError as error:
        fail(error)

    async def serve(stopping: trio.Event) -> None:
        async with open_gateway(settings) as running:
            _tell(running, as_json)
            await stopping.wait()
            running.stop()

    run(serve)


def _settings(config: Path | None, bootstrap: tuple[str, ...], port: int | None) -> GatewaySettings:
    path = config or default_config_path("gateway")
    settings = load_settings(GatewaySettings, "gateway", path, required=config is not None)
    if bootstrap:
        settings = settings.model_copy(update={"peer": settings.peer.model_copy(update={"bootstrap": bootstrap})})
    if port is not None:
        settings = settings.model_copy(update={"http": settings.http.model_copy(update={"port": port})})
    return settings


def _tell(running: Gateway, as_json: bool) -> None:
    if running.first is not None:
        facts = {"event": "account", "user_id": running.first.user_id, "api_key": running.first.key}
        text = f"first account {running.first.user_id}\nits API key, shown only now: {running.first.key}"
        announce(facts, text, as_json=as_json)
    facts = {"event": "ready", "peer": running.peer, "url": running.url}
    announce(facts, f"gateway {running.peer} at {running.url}/api/v1 (also /v1)", as_json=as_json)


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
