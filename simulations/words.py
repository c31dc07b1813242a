"""Figures and their names, for people."""

from __future__ import annotations

import math

UNITS = {"percent": "%", "ms": "ms", "s": "s", "credits": "credits", "mb": "MB"}


def words(name: str) -> str:
    """`first_piece_p50_ms` as `first piece p50, ms`."""
    head, _, last = name.rpartition("_")
    return f"{head.replace('_', ' ')}, {UNITS[last]}" if head and last in UNITS else name.replace("_", " ")


def number(value: float | None) -> str:
    """A figure in as many digits as help; - if there is none."""
    if value is None or math.isnan(value):
        return "-"
    if abs(value) >= 1e6:
        return f"{value / 1e6:,.3g} million" if abs(value) < 1e9 else f"{value / 1e9:,.4g} billion"
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.001 else "≈ 0"
