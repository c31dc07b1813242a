"""Parts of wholes that may be empty."""

from __future__ import annotations

import math


def percent(part: float, whole: float) -> float:
    """How many percent of the whole; NaN of nothing."""
    return 100.0 * part / whole if whole else math.nan
