"""`cxp2p node` and `cxp2p models`."""

from __future__ import annotations

import json
from pathlib import Path

import click
import trio

from cxp2p.errors import CxError, SettingsError
from cxp2p.peer import default_config_path, default_data_path
from cxp2p.program import LOG_LEVELS, announce, fail, run, set_up_logging
from cxp2p.settings import load_settings, write_commented
from cxp2p_node import catalog
from cxp2p_node.app import fetch_models, open_node
from cxp2p_node.catalog import CatalogEntry, look_up
from cxp2p_node.config import ModelSettings, NodeSettings
from cxp2p_node.models import Store
from cxp2p_node.progress import show_progress


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def node() -> None:
    """Serve models from this machine."""


@node.command("run")
@click.option("--config", type=click.Path(path_type=Path), default=None, help="The settings file (TOML).")
@click.option("-b", "--bootstrap", multiple=True, metavar="ADDRESS", help="A peer to join through; may be repeated.")
@click.option("--model", "models", multiple=True, metavar="NAME", help="Serve this model; may be repeated.")
@click.option("--log-level", type=click.Choice(LOG_LEVELS), default="info", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Say what happens as lines of JSON.")
def run_(
    config: Path | None, bootstrap: tuple[str, ...], models: tuple[str, ...], log_level: str, as_json: bool
) -> None:
    """Run a node until Ctrl-C. SIGTERM lets it finish the jobs that run.

    Settings come from the file, then from CXP2P_NODE_… variables, then from these options. `cxp2p node init` writes a
    file with every setting explained.

    \b
    Examples:
      cxp2p node run -b /ip4/127.0.0.1/tcp/4001/p2p/12D3KooW...
      cxp2p node run --config node.toml --model smollm2:135m
    """
    set_up_logging(log_level)
    try:
        settings = _settings(config, bootstrap, models)
    except SettingsError as error:
        fail(error)

    async def serve(draining: trio.Event) -> None:
        with show_progress(", ".join(model.name for model in settings.models), as_json=as_json) as progress:
            await fetch_models(settings, progress)
        async with open_node(settings) as running:
            peer, addresses = running.network.peer, running.network.addresses
            served = list(running.benches)
            facts = {"event": "ready", "peer": peer, "addresses": addresses, "models": served}
            announce(facts, f"node {peer} serves {', '.join(served)} at {' '.join(addresses)}", as_json=as_json)
            await draining.wait()
            await running.drain(settings.work.drain_s)

    run(serve)


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


_store_option = click.option(
    "--models-path",
    type=click.Path(path_type=Path),
    envvar="CXP2P_NODE_MODELS_PATH",
    default=None,
    help="Where model files are kept. [env: CXP2P_NODE_MODELS_PATH]",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def models() -> None:
    """Fetch, list and remove model files."""


@models.command()
@click.argument("names", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Progress and result as lines of JSON.")
@_store_option
def pull(names: tuple[str, ...], as_json: bool, models_path: Path | None) -> None:
    """Fetch models of the catalogue. An interrupted fetch goes on where it stopped.

    \b
    Example:
      cxp2p models pull smollm2:135m
    """
    store = Store(models_path or default_data_path("models"))
    try:
        for name in names:
            entry = look_up(name)
            here = store.has(entry)
            with show_progress(entry.name, as_json=as_json) as progress:
                file = store.pull(entry, progress)
            facts = {"event": "pulled", "model": entry.name, "path": str(file), "fetched": not here}
            announce(facts, f"{entry.name} is {'already ' if here else ''}at {file}", as_json=as_json)
    except CxError as error:
        fail(error)
    except KeyboardInterrupt:
        click.echo("interrupted; the next pull goes on from here", err=True)
        raise SystemExit(130) from None


@models.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line for each model.")
@_store_option
def list_(as_json: bool, models_path: Path | None) -> None:
    """List the models of the catalogue, and which of them are on this machine."""
    store = Store(models_path or default_data_path("models"))
    for entry in catalog.CATALOG:
        here = store.has(entry)
        facts = {
            "model": entry.name,
            "service": str(entry.service),
            "installed": here,
            "path": str(store.file(entry)) if here else None,
            "bytes": entry.size_bytes,
            "licence": entry.licence,
            "context": entry.context_units,
        }
        click.echo(json.dumps(facts) if as_json else _row(entry, here))


def _row(entry: CatalogEntry, here: bool) -> str:
    mark = click.style("installed", fg="green") if here else "         "
    return f"{entry.name:<16} {mark}  {entry.size_bytes / 1e6:>7.0f} MB  {entry.licence:<12} {entry.about}"


@models.command()
@click.argument("names", nargs=-1, required=True)
@_store_option
def rm(names: tuple[str, ...], models_path: Path | None) -> None:
    """Remove model files, and what interrupted fetches of them left."""
    store = Store(models_path or default_data_path("models"))
    try:
        entries = [look_up(name) for name in names]
        for entry in entries:
            click.echo(f"{entry.name} {'removed' if store.remove(entry) else 'was not on this machine'}")
    except CxError as error:
        fail(error)
