"""`python -m benchmarks [NAME ...]`: prints a table, and writes each result to `benchmarks/results/NAME.json`."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Final

import click
from rich.console import Console
from rich.table import Table

from benchmarks import embed, engine, extraction, gateway, ledger, path, receipts, scrape, simulate, speech, wire
from benchmarks.figures import Figure
from cxp2p.paths import default_data_path
from cxp2p_node.catalog import look_up
from cxp2p_node.models import Store

BENCHMARKS: Final[Mapping[str, Callable[[float], list[Figure]]]] = MappingProxyType(
    {
        "embed": embed.measure,
        "engine": engine.measure,
        "extraction": extraction.measure,
        "ledger": ledger.measure,
        "gateway": gateway.measure,
        "path": path.measure,
        "receipts": receipts.measure,
        "scrape": scrape.measure,
        "simulate": simulate.measure,
        "speech": speech.measure,
        "wire": wire.measure,
    }
)
PACKAGES = ("cbor2", "cryptography", "libp2p", "llama-cpp-python", "piper-tts", "pydantic", "selectolax", "xllamacpp")
MODELS = (engine.MODEL, embed.MODEL, speech.VOICE)
WIDTH_MIN = 140  # names and numbers stay on one line, also in a file
RESULTS = Path(__file__).parent / "results"


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(sorted(BENCHMARKS)))
@click.option("--seconds", type=click.FloatRange(0.1), default=12.0, show_default=True, help="For each benchmark.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def main(names: tuple[str, ...], seconds: float, as_json: bool) -> None:
    """Measure on this machine, side by side with something known. All benchmarks if no NAME is given."""
    results = {name: BENCHMARKS[name](seconds) for name in names or sorted(BENCHMARKS)}
    RESULTS.mkdir(exist_ok=True)
    for name, figures in results.items():
        facts = {"benchmark": name, "taken_on": date.today().isoformat(), "machine": _machine(), "models": _models()}
        text = json.dumps({**facts, "figures": [_row(figure) for figure in figures]}, indent=2)
        (RESULTS / f"{name}.json").write_text(text + "\n")
        if as_json:
            click.echo(text)
        else:
            _print(name, figures)


def _row(figure: Figure) -> dict[str, object]:
    return {**asdict(figure), "ratio": figure.ratio, "goal": _goal(figure), "met": figure.met}


def _goal(figure: Figure) -> str | None:
    return None if figure.goal is None else str(figure.goal)


def _machine() -> dict[str, object]:
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES if _is_there(name)},
    }


def _is_there(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def _models() -> dict[str, str]:
    """SHA-256 of the files that are measured, of those that are here."""
    store = Store(default_data_path("models"))
    entries = [look_up(name) for name in MODELS]
    return {entry.name: store.digest(entry).hex() for entry in entries if store.has(entry)}


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def _print(name: str, figures: list[Figure]) -> None:
    machine = _machine()
    title = f"{name}: {machine['processor']}, Python {machine['python']}, load {machine['load']}"
    table = Table(title=title, box=None, header_style="bold", title_justify="left")
    table.add_column("figure", no_wrap=True)
    for heading in ("ours", "least", "most", "peer", "ratio"):
        table.add_column(heading, justify="right")
    for heading in ("goal", "", "peer is"):
        table.add_column(heading)
    for figure in figures:
        ours, peer = figure.ours, figure.peer
        numbers = (_number(rate) for rate in (ours.median, ours.least, ours.most, peer.median))
        met = {None: "", True: "met", False: "missed"}[figure.met]
        table.add_row(figure.name, *numbers, f"{figure.ratio:.2f}", _goal(figure) or "", met, figure.peer_is)
    Console(width=max(WIDTH_MIN, Console().width)).print(table)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    main()
