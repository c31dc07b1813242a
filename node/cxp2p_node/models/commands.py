"""`cxp2p models`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from cxp2p.errors import CxError
from cxp2p.paths import default_data_path
from cxp2p.program import announce, fail
from cxp2p_node import catalog
from cxp2p_node.catalog import CatalogEntry, look_up
from cxp2p_node.models import Store
from cxp2p_node.progress import show_progress

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
