"""`cxp2p node`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click
import trio

from cxp2p.checks import check_file, fault, report
from cxp2p.errors import SettingsError
from cxp2p.paths import default_config_path
from cxp2p.program import LOG_LEVELS, LogForm, announce, fail, run, set_up_logging
from cxp2p.settings import load_settings, write_commented
from cxp2p_node.app import Node, fetch_models, open_node
from cxp2p_node.checking import check
from cxp2p_node.config import ModelSettings, NodeSettings
from cxp2p_node.earning_commands import earnings
from cxp2p_node.progress import show_progress
from cxp2p_node.receipt_commands import receipts


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def node() -> None:
    """Serve models from this machine."""


node.add_command(receipts)
node.add_command(earnings)


@node.command("run")
@click.option("--config", type=click.Path(path_type=Path), default=None, help="The settings file (TOML).")
@click.option("-b", "--bootstrap", multiple=True, metavar="ADDRESS", help="A peer to join through; may be repeated.")
@click.option("--model", "models", multiple=True, metavar="NAME", help="Serve this model; may be repeated.")
@click.option("--log-level", type=click.Choice(LOG_LEVELS), default="info", show_default=True)
@click.option(
    "--log-format",
    "log_form",
    type=click.Choice(LogForm, case_sensitive=False),
    default=LogForm.TEXT,
    help="How log lines look.",
)
@click.option("--json", "as_json", is_flag=True, help="Say what happens as lines of JSON.")
def run_(
    config: Path | None,
    bootstrap: tuple[str, ...],
    models: tuple[str, ...],
    log_level: str,
    log_form: LogForm,
    as_json: bool,
) -> None:
    """Run a node until Ctrl-C. SIGTERM lets it finish the jobs that run.

    Settings come from the file, then from CXP2P_NODE_… variables, then from these options. `cxp2p node init` writes a
    file with every setting explained.

    \b
    Examples:
      cxp2p node run -b /ip4/127.0.0.1/tcp/4001/p2p/12D3KooW...
      cxp2p node run --config node.toml --model smollm2:135m
    """
    set_up_logging(log_level, log_form)
    try:
        settings = _settings(config, bootstrap, models)
    except SettingsError as error:
        fail(error)

    async def serve(draining: trio.Event) -> None:
        with show_progress(", ".join(model.name for model in settings.models), as_json=as_json) as progress:
            await fetch_models(settings, progress)
        async with open_node(settings) as running:
            announce(*_ready(running), as_json=as_json)
            await draining.wait()
            await running.drain(settings.work.drain_s)

    run(serve)


def _ready(running: Node) -> tuple[dict[str, object], str]:
    """What is said when a node is ready, for programs and for people. `models` are all that are offered."""
    peer, addresses, faults = running.network.peer, running.network.addresses, running.faults
    offered = [(model, each.loaded) for (_, model), each in running.benches.items() if model not in faults]
    served = [model for model, _ in offered]
    on_demand = [model for model, loaded in offered if not loaded]
    facts: dict[str, object] = {"event": "ready", "peer": peer, "addresses": addresses, "models": served}
    facts |= {"loaded": [model for model, loaded in offered if loaded], "on_demand": on_demand, "failed": faults}
    named = ", ".join(model if loaded else f"{model} (on demand)" for model, loaded in offered)
    without = f", not {', '.join(faults)} (see above)" if faults else ""
    return facts, f"node {peer} serves {named or 'nothing yet'}{without} at {' '.join(addresses)}"


def _settings(config: Path | None, bootstrap: tuple[str, ...], models: tuple[str, ...]) -> NodeSettings:
    path = config or default_config_path("node")
    settings = load_settings(NodeSettings, "node", path, required=config is not None)
    if bootstrap:
        settings = settings.model_copy(update={"peer": settings.peer.model_copy(update={"bootstrap": bootstrap})})
    if models:
        chosen = tuple(ModelSettings(name=name) for name in models)
        settings = settings.model_copy(update={"models": chosen})
    return settings


@node.command()
@click.argument("path", type=click.Path(path_type=Path), required=False)
@click.option("--force", is_flag=True, help="Overwrite a file that is there.")
def init(path: Path | None, force: bool) -> None:
    """Write a settings file with every setting explained, to PATH or where `node run` looks for it.

    \b
    Example:
      cxp2p node init node.toml
    """
    try:
        click.echo(f"wrote {write_commented(NodeSettings, 'node', path, force=force)}")
    except SettingsError as error:
        fail(error)


@node.command("check")
@click.option("--config", type=click.Path(path_type=Path), default=None, help="The settings file (TOML).")
@click.option("-b", "--bootstrap", multiple=True, metavar="ADDRESS", help="A peer to join through; may be repeated.")
@click.option("--model", "models", multiple=True, metavar="NAME", help="A model to serve; may be repeated.")
@click.option("--network", is_flag=True, help="Ask the bootstrap peers whether they are there, too.")
@click.option("--json", "as_json", is_flag=True, help="Say it as lines of JSON.")
def check_(
    config: Path | None, bootstrap: tuple[str, ...], models: tuple[str, ...], network: bool, as_json: bool
) -> None:
    """Tell whether `node run` would start with these settings, and with what; nothing is loaded, made or changed.

    The exit status is 0, or 1 if it would not start.

    \b
    Example:
      cxp2p node check --config node.toml --network
    """
    try:
        settings = _settings(config, bootstrap, models)
        findings = [check_file(config or default_config_path("node"))]
        findings += trio.run(partial(check, settings, network=network))
    except SettingsError as error:
        findings = [fault("settings", error)]
    raise SystemExit(report(findings, as_json=as_json))
