"""Where a key's rates stand, as headers of its answers: those that OpenAI's clients read. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cxp2p_gateway.rates import Counted, Rate

SECOND_US: Final = 1_000_000


def rate_headers(rates: Mapping[Counted, Rate]) -> list[tuple[str, str]]:
    """`x-ratelimit-limit-…`, `-remaining-…` and `-reset-…` of each rate; none for a key without rates."""
    return [
        (f"x-ratelimit-{what}-{counted.value}", told)
        for counted, rate in rates.items()
        for what, told in (
            ("limit", str(rate.limit)),
            ("remaining", str(rate.remaining)),
            ("reset", duration(rate.reset_us)),
        )
    ]


def duration(us: int) -> str:
    """A time as these headers have it, in whole seconds, rounded up: `0s`, `59s`, `6m0s`, `1h0m5s`."""
    minutes, seconds = divmod(-(-us // SECOND_US), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{seconds}s"
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"
