"""How a network of programs is laid out: how many there are, how far apart, and what each can do."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from cxp2p.net.memory import Hub
from cxp2p.net.rhythm import Rhythm


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A network of programs. `seed`: of all that is drawn. Ranges are (lowest, highest); the delay is one way.

    `slots`, `queue_max`, `units_per_s`: what each node can do. `books_path`: a folder for SQLite files; None: the books
    are in memory. `rhythm`, `upkeep_s`: how often programs do what they do again and again.
    """

    seed: int = 1
    nodes: int = 50
    gateways: int = 5
    latency_s: tuple[float, float] = (0.005, 0.1)
    slots: int = 2
    queue_max: int = 2
    units_per_s: tuple[float, float] = (20.0, 60.0)
    rhythm: Rhythm = field(default_factory=Rhythm)
    upkeep_s: float = 5.0
    books_path: Path | None = None


class SpreadHub(Hub):
    """A hub whose peers are not equally far from each other."""

    def __init__(self, latency_s: tuple[float, float], seed: int) -> None:
        super().__init__(latency_s[0])
        self._range_s = latency_s
        self._seed = seed
        self._between: dict[tuple[str, str], float] = {}

    def latency_between(self, one: str, other: str) -> float:
        pair = (min(one, other), max(one, other))
        if pair not in self._between:
            self._between[pair] = Random(f"{self._seed} {pair}").uniform(*self._range_s)
        return self._between[pair]
