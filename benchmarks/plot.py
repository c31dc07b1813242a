"""`python -m benchmarks.plot`: draws what `engine` and `path` measured last into `docs/engine.png`, for the README."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture

RESULTS = Path(__file__).parent / "results"
TARGET = Path(__file__).parent.parent / "docs" / "engine.png"
OURS, PEER = "#0b6e99", "#9a9a9a"
TOKENS = re.compile(r"(\d+) at once, tokens/s")
FIRSTS = re.compile(r"(\d+) at once, median ms to the first token")


@dataclass(frozen=True, slots=True)
class Line:
    """One curve: how many jobs at once, and the least, median and most that was measured."""

    at_once: list[int]
    least: list[float]
    median: list[float]
    most: list[float]


@click.command()
@click.argument("results", type=click.Path(exists=True, path_type=Path), default=RESULTS / "engine.json")
@click.argument("target", type=click.Path(path_type=Path), default=TARGET)
def main(results: Path, target: Path) -> None:
    """Draw RESULTS, a file that `python -m benchmarks engine` wrote, into TARGET."""
    facts = json.loads(results.read_text())
    picture = draw(facts["figures"], f"{facts['machine']['processor']}, {facts['machine']['cores']} cores")
    target.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(target, dpi=160)
    click.echo(f"drew {target}")


def draw(figures: list[dict[str, Any]], machine: str) -> Picture:
    """Tokens a second and time to the first token over jobs at once, ours and the peer's."""
    mpl.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    picture = Picture(figsize=(9, 3.8), layout="constrained")
    speed, wait = picture.subplots(1, 2)
    _panel(speed, figures, TOKENS, "tokens a second, all streams together")
    _panel(wait, figures, FIRSTS, "median time to the first token, ms")
    picture.suptitle(f"SmolLM2-135M Q4_1, 128 new tokens a job, {machine}", fontsize=10, x=0.01, ha="left")
    return picture


def _panel(axes: Axes, figures: list[dict[str, Any]], name: re.Pattern[str], title: str) -> None:
    for side, label, colour in (("peer", "llama.cpp's server", PEER), ("ours", "cxp2p", OURS)):
        line = _line(figures, name, side)
        axes.fill_between(line.at_once, line.least, line.most, color=colour, alpha=0.15, linewidth=0)
        axes.plot(line.at_once, line.median, marker="o", color=colour, linewidth=2, markersize=5)
        if line.at_once:
            place = (line.at_once[-1], line.median[-1])
            axes.annotate(label, place, xytext=(8, 0), textcoords="offset points", color=colour, va="center")
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
    axes.set_xscale("log", base=2)
    counts = _line(figures, name, "ours").at_once
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.set_xlim(min(counts, default=1) * 0.9, max(counts, default=1) * 2.6)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("jobs at once")
    axes.grid(axis="y", color="#e5e5e5", linewidth=0.8)
    axes.set_axisbelow(True)


def _line(figures: list[dict[str, Any]], name: re.Pattern[str], side: str) -> Line:
    found = sorted((int(match[1]), each[side]) for each in figures if (match := name.fullmatch(each["name"])))
    columns = {key: [float(rate[key]) for _, rate in found] for key in ("least", "median", "most")}
    return Line([count for count, _ in found], **columns)


if __name__ == "__main__":
    main()
