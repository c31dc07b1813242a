"""Charts as the coordinates of their shapes; the templates draw them as SVG. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

from cxp2p_gateway.store.rows import UseSum

WIDTH: Final = 720
HEIGHT: Final = 160
GAP: Final = 0.28  # of a column's place


@dataclass(frozen=True, slots=True)
class Column:
    """One column, in the chart's own units."""

    label: str
    value: int
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Chart:
    """Columns side by side. `most`: the largest value, which reaches the top."""

    columns: tuple[Column, ...]
    most: int
    total: int
    width: int = WIDTH
    height: int = HEIGHT


@dataclass(frozen=True, slots=True)
class Used:
    """What was used under one name, of all services together. `percent`: of the largest in its list."""

    name: str
    requests: int
    units: int
    charge: int
    percent: float


def days_back(last: str, count: int) -> list[str]:
    """`count` days up to `last`, which is ISO 8601."""
    end = date.fromisoformat(last)
    return [(end - timedelta(days=back)).isoformat() for back in reversed(range(count))]


def columns(values: Sequence[tuple[str, int]]) -> Chart:
    """A chart of these values, in order."""
    most = max((value for _, value in values), default=0)
    place = WIDTH / max(1, len(values))
    drawn = []
    for index, (label, value) in enumerate(values):
        height = round(HEIGHT * value / most, 2) if most else 0.0
        if value:
            height = max(height, 2.0)
        x = round(index * place + place * GAP / 2, 2)
        drawn.append(Column(label, value, x, round(HEIGHT - height, 2), round(place * (1 - GAP), 2), height))
    return Chart(tuple(drawn), most, sum(value for _, value in values))


def used(sums: Iterable[UseSum]) -> tuple[Used, ...]:
    """Sums of all services together, the dearest first; those of no charge by their requests."""
    found: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for each in sums:
        counts = found[each.group]
        counts[0] += each.requests
        counts[1] += each.in_units + each.out_units
        counts[2] += each.charge
    ordered = sorted(found.items(), key=lambda pair: (-pair[1][2], -pair[1][0], pair[0]))
    by_charge = any(charge for _, (_, _, charge) in ordered)
    most = max((counts[2] if by_charge else counts[0] for _, counts in ordered), default=0) or 1
    return tuple(
        Used(name, requests, units, charge, round(100 * (charge if by_charge else requests) / most, 1))
        for name, (requests, units, charge) in ordered
    )
