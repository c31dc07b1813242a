"""`python -m simulations.economy_plots FILE`: what each cheat of a week gains under each set of rules, for some seeds.

Needs matplotlib.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import click
import matplotlib as mpl
from matplotlib.figure import Figure as Picture

from simulations.plots import COLOURS
from simulations.scenario import Figures, Setting, all_scenarios, run_scenario
from simulations.scenarios.cheats import CHEATS, POLICIES

SEEDS = (1, 2, 3)
LINEAR_PERCENT = 100.0  # beyond it the scale is logarithmic, on both sides


@click.command()
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--hours", type=click.FloatRange(1), help="The scenario's own week if not set.")
def main(path: Path, hours: float | None) -> None:
    """Draw the cheats into FILE, and print their means."""
    scenario, _ = all_scenarios()["cheats"]
    played = []
    for seed in SEEDS:
        setting = Setting(peers=scenario.peers, seed=seed, hours=hours or scenario.hours)
        result = run_scenario("cheats", setting)
        played.append({policy: each.figures for policy, each in result.played.items()})
    for cheat in CHEATS:
        means = (fmean(figures[policy][f"{cheat}_percent"] for figures in played) for policy in POLICIES)
        click.echo(f"| {cheat.replace('_', ' ')} | {' | '.join(f'{mean:,.0f}' for mean in means)} |")
    draw(played).savefig(path, dpi=140)
    click.echo(f"drew {path}")


def draw(played: Sequence[Mapping[str, Figures]]) -> Picture:
    """A dot for each cheat, set of rules and seed; right of the line cheating pays."""
    mpl.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    picture = Picture(figsize=(8.6, 5.4), layout="constrained")
    axes = picture.subplots()
    for index, (policy, colour) in enumerate(zip(POLICIES, COLOURS, strict=False)):
        shift = (index - (len(POLICIES) - 1) / 2) * 0.15
        for row, cheat in enumerate(CHEATS):
            gains = [figures[policy][f"{cheat}_percent"] for figures in played]
            label = policy if row == 0 else None
            axes.scatter(gains, [row + shift] * len(gains), s=20, color=colour, label=label, zorder=3)
    axes.set_xscale("symlog", linthresh=LINEAR_PERCENT)
    axes.axvline(100, color="#333333", linewidth=1.2)
    axes.annotate(" as honest", (100, -0.55), ha="left", va="center", fontsize=8, color="#333333")
    ticks = {-1e3: "-1,000", -100: "-100", 0: "0", 100: "100", 1e3: "1,000", 1e5: "10⁵", 1e7: "10⁷", 1e9: "10⁹"}
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.set_yticks(range(len(CHEATS)), [cheat.replace("_", " ") for cheat in CHEATS])
    axes.set_ylim(len(CHEATS) - 0.4, -1.0)
    axes.set_xlabel("gain in a week, percent of an honest peer's")
    axes.grid(axis="x", color="#e5e5e5", linewidth=0.8)
    axes.set_axisbelow(True)
    picture.legend(loc="outside upper left", ncols=len(POLICIES), frameon=False)
    return picture


if __name__ == "__main__":
    main()
