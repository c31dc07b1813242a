"""What an engine is in a world: so many tokens a second, and what it is offered as."""

from __future__ import annotations

from dataclasses import dataclass

from cxp2p.receipts import digest
from cxp2p.records import Capability, Load, Prices, Service


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """What an engine does: tokens a second of a prompt and of an answer, alone; each more job at once slows all.

    `crowding` 0.15: with four jobs each is at 1 / 1.45 of its speed alone, all together at 2.76 times.
    """

    prompt_units_s: float = 800.0
    output_units_s: float = 40.0
    crowding: float = 0.15


def make_capability(model: str = "m", **changes: object) -> Capability:
    """What a usual node offers, at the usual price; `changes` are fields of the record."""
    fields: dict[str, object] = {
        "service": Service.CHAT,
        "model": model,
        "model_digest": digest(model.encode()),
        "runtime": "simulated",
        "context_units": 8192,
        "output_units_max": 4096,
        "prices": Prices(input=20_000, output=60_000),
        "slots": 4,
        "queue_max": 32,
        "load": Load(running=0, queued=0, first_piece_ms=0, units_per_s=0, loading_ms=0),
    }
    return Capability(**{**fields, **changes})  # type: ignore[arg-type]
