"""`python -m simulations`: asks a scenario its question."""

from __future__ import annotations

import importlib
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from simulations.replay import commit
from simulations.scenario import Advance, Result, Scenario, ScenarioFailed, Setting, all_scenarios, run_scenario
from simulations.signing import KEYS
from simulations.words import number, words

WIDTH_MIN = 100
SEED = 1


@click.command()
@click.argument("scenario", required=False)
@click.option("--peers", type=click.IntRange(2), help="How many; the scenario's own modest number if not set.")
@click.option("--seed", type=int, default=SEED, show_default=True, help="What all chance is drawn from.")
@click.option("--hours", type=click.FloatRange(0, min_open=True), help="Simulated; the scenario's own if not set.")
@click.option("--policy", "policies", multiple=True, help="Only this one; may be given again. All if not set.")
@click.option(
    "--keys", type=click.Choice(sorted(KEYS)), default="quick", show_default=True, help="real signs with Ed25519."
)
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw it into this PNG or SVG file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--report", type=click.Path(dir_okay=False, path_type=Path), help="Run all scenarios, and write this HTML page."
)
@click.option(
    "--at-once", type=click.IntRange(1), default=os.cpu_count() or 1, help="With --report: processes; one a core."
)
def main(
    scenario: str | None,
    peers: int | None,
    seed: int,
    hours: float | None,
    policies: tuple[str, ...],
    keys: str,
    plot: Path | None,
    as_json: bool,
    report: Path | None,
    at_once: int,
) -> None:
    """Run SCENARIO: all its policies, each in its own world of the same seed. Without SCENARIO: list them."""
    if report is not None:
        if scenario or peers or hours or policies or plot or as_json:
            raise click.UsageError("--report runs all scenarios as they are: only --seed and --at-once go with it")
        _report(report, seed, at_once)
        return
    if scenario is None:
        if peers or hours or policies or plot:
            raise click.UsageError("SCENARIO is missing: without one they are listed")
        _list(as_json)
        return
    found = _found(scenario, policies)
    if plot is not None:
        _check_plot(plot)
    setting = Setting(peers=peers or found.peers, seed=seed, hours=hours or found.hours, keys=keys)
    started = time.perf_counter()
    try:
        with _progress(scenario) as advance:
            result = run_scenario(scenario, setting, policies, advance)
    except ScenarioFailed as error:
        raise click.ClickException(f"{error}\nat commit {commit()}") from error
    took_s = time.perf_counter() - started
    if as_json:
        click.echo(json.dumps(_as_json(result, took_s), indent=2))
    else:
        _print(result, took_s)
    if plot is not None:
        _plot(result, plot)


def _found(scenario: str, policies: tuple[str, ...]) -> Scenario:
    known = all_scenarios()
    if scenario not in known:
        raise click.BadParameter(f"{scenario!r} is none of {', '.join(known)}", param_hint="SCENARIO")
    found, _ = known[scenario]
    for policy in policies:
        if policy not in found.policies:
            raise click.BadParameter(f"{policy!r} is none of {', '.join(found.policies)}", param_hint="--policy")
    return found


def _list(as_json: bool) -> None:
    known = all_scenarios()
    if as_json:
        rows = [
            {"scenario": name, "question": question, "policies": dict(scenario.policies)}
            for name, (scenario, question) in known.items()
        ]
        click.echo(json.dumps(rows, indent=2))
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("scenario", no_wrap=True)
    table.add_column("question")
    for name, (_, question) in known.items():
        table.add_row(name, question)
    _console().print(table)


@contextmanager
def _progress(name: str) -> Iterator[Advance]:
    """A bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda part: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=1.0)
        yield lambda part: bar.update(task, completed=part)


def _as_json(result: Result, took_s: float) -> dict[str, Any]:
    facts = {**asdict(result), "commit": commit(), "took_s": round(took_s, 3)}
    for each in facts["played"].values():
        each["figures"] = {name: None if math.isnan(value) else value for name, value in each["figures"].items()}
    return facts


def _print(result: Result, took_s: float) -> None:
    setting = result.setting
    console = _console()
    console.print(result.question, style="bold", highlight=False)
    console.print(
        f"{setting.peers} peers, {setting.hours:g} hours, seed {setting.seed}, commit {commit()}; "
        f"{result.events:,} events in {took_s:.1f} s",
        highlight=False,
    )
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("")
    for policy in result.played:
        table.add_column(policy, justify="right")
    names = list(dict.fromkeys(name for each in result.played.values() for name in each.figures))
    for name in names:
        table.add_row(words(name), *(number(each.figures.get(name)) for each in result.played.values()))
    console.print(table)
    if result.conclusion:
        console.print(result.conclusion, highlight=False)


def _check_plot(path: Path) -> None:
    """Before a long run: whether a picture could be drawn there."""
    if path.suffix not in (".png", ".svg"):
        raise click.BadParameter(f"{path.name!r} must end in .png or .svg", param_hint="--plot")
    if not path.absolute().parent.is_dir():
        raise click.BadParameter(f"there is no folder {str(path.parent)!r}", param_hint="--plot")
    with _needs_matplotlib("--plot"):
        importlib.import_module("simulations.plots")


def _plot(result: Result, path: Path) -> None:
    from simulations.plots import save  # noqa: PLC0415  # matplotlib is an extra of its own

    try:
        save(result, path)
    except OSError as error:
        raise click.ClickException(f"{path} cannot be written: {error.strerror}") from error
    click.echo(f"drew {path}", err=True)


def _report(path: Path, seed: int, at_once: int) -> None:
    with _needs_matplotlib("--report"):
        from simulations.report import Told, page, tell_all  # noqa: PLC0415  # matplotlib is an extra of its own
    count, told = len(all_scenarios()), list[Told]()
    with _progress(f"{count} scenarios") as advance:
        for each in tell_all(seed, at_once):
            told.append(each)
            advance(len(told) / count)
            click.echo(f"{each.name}: {each.result.conclusion if each.result else each.fault}", err=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page(told, commit()))
    except OSError as error:
        raise click.ClickException(f"{path} cannot be written: {error.strerror}") from error
    click.echo(f"wrote {path}")
    failed = [each.name for each in told if each.result is None]
    if failed:
        raise click.ClickException(f"{len(failed)} of {count} scenarios failed: {', '.join(failed)}")


@contextmanager
def _needs_matplotlib(option: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{option} needs matplotlib: pip install -e '.[simulate]'") from error


def _console() -> Console:
    return Console(width=max(WIDTH_MIN, Console().width))


if __name__ == "__main__":
    main(prog_name="python -m simulations")
