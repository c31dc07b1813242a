"""Draws results: curves of all policies together, or bars where there are none. Needs matplotlib."""

from __future__ import annotations

import io
from itertools import cycle
from pathlib import Path
from textwrap import wrap
from typing import Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture
from matplotlib.ticker import FuncFormatter

from simulations.scenario import Result, all_scenarios

COLOURS: Final = ("#0b6e99", "#d1495b", "#edae49", "#66a182", "#8d6a9f", "#6b6b6b")
STROKES: Final = tuple((colour, stroke) for stroke in ("-", "--", ":") for colour in COLOURS)  # one for each policy
PANEL_INCHES: Final = (6.2, 3.6)
COLUMNS_MAX: Final = 3
TITLE_CHARS: Final = 44
BARS_MAX: Final = 6  # figures that are drawn where a scenario has no curves


def save(result: Result, path: Path) -> None:
    """Draws a result into a file; its ending says which format."""
    draw(result).savefig(path, dpi=140, metadata=_undated(path.suffix))


def svg(result: Result, columns_max: int = COLUMNS_MAX) -> str:
    """The same picture as text to put into a page."""
    buffer = io.StringIO()
    draw(result, columns_max).savefig(buffer, format="svg", metadata=_undated(".svg"))
    return buffer.getvalue()[buffer.getvalue().index("<svg") :]


def _undated(suffix: str) -> dict[str, None]:
    """The same result gives the same bytes on every day."""
    return {"Date": None} if suffix == ".svg" else {}


def draw(result: Result, columns_max: int = COLUMNS_MAX) -> Picture:
    """One panel for each name of a curve; bars, if there is none."""
    mpl.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": result.name, "font.family": "sans-serif"})
    names = list(dict.fromkeys(name for each in result.played.values() for name in each.curves))
    columns = max(1, min(columns_max, len(names)))
    rows = max(1, -(-len(names) // columns))
    scale = 1.0 if columns == 1 else 0.75
    size = (PANEL_INCHES[0] * columns * scale, PANEL_INCHES[1] * rows * scale)
    picture = Picture(figsize=size, layout="constrained")
    panels = picture.subplots(rows, columns, squeeze=False).flatten()
    if not names:
        _bars(panels[0], result)
    for panel, name in zip(panels, names, strict=False):
        _curves(panel, result, name)
    for panel in panels[max(1, len(names)) :]:
        panel.set_visible(False)
    lines = {str(line.get_label()): line for panel in panels for line in panel.get_lines()}
    if len(lines) > 1:
        picture.legend(
            lines.values(), lines.keys(), loc="outside upper left", ncols=min(6, len(lines)), frameon=False, fontsize=9
        )
    return picture


def _curves(axes: Axes, result: Result, name: str) -> None:
    scenario, _ = all_scenarios()[result.name]
    x_label, y_label = scenario.axes.get(name, ("", name))
    for (policy, played), (colour, stroke) in zip(result.played.items(), cycle(STROKES), strict=False):
        curve = played.curves.get(name)
        if curve is not None:
            axes.plot(curve.x, curve.y, color=colour, linestyle=stroke, linewidth=1.8, label=policy)
    axes.set_title("\n".join(wrap(name, TITLE_CHARS)), loc="left", fontsize=10, fontweight="bold")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_ylim(bottom=0)
    if name in scenario.log_x:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(color="#e5e5e5", linewidth=0.8)
    axes.set_axisbelow(True)


def _bars(axes: Axes, result: Result) -> None:
    first = next(iter(result.played.values()))
    names = [name for name in first.figures if name != "jobs"][:BARS_MAX]
    width = 0.8 / len(result.played)
    for index, ((policy, played), colour) in enumerate(zip(result.played.items(), cycle(COLOURS), strict=False)):
        most = [max(abs(each.figures.get(name, 0.0)) for each in result.played.values()) or 1.0 for name in names]
        heights = [played.figures.get(name, 0.0) / top for name, top in zip(names, most, strict=True)]
        axes.bar([place + index * width for place in range(len(names))], heights, width, color=colour, label=policy)
    axes.set_xticks([place + 0.4 for place in range(len(names))], [name.replace("_", "\n") for name in names])
    axes.set_ylabel("part of the largest")
    axes.legend(frameon=False, fontsize=8)
