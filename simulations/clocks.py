"""Each peer's own clocks: a wall clock that is off, and a monotonic one that runs a little too fast or too slow."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from simulations.world import World

BEGIN_MS = 1_800_000_000_000  # the wall time at which every world begins: 15 January 2027
SKEW_MS_SIGMA = 300.0  # an assumption: most machines run NTP, and some do not; the protocol allows 30 s
DRIFT_PPM_SIGMA = 20.0  # quartz is specified to within ±20 to ±100 millionths


@dataclass(frozen=True, slots=True)
class Clock:
    """One peer's time. `skew_ms`: how far its wall clock is ahead; `drift`: by how much a second is too long."""

    world: World
    skew_ms: float = 0.0
    drift: float = 0.0

    def now(self) -> float:
        """Monotonic seconds, as this peer counts them."""
        return self.world.now * (1.0 + self.drift)

    def wall_ms(self) -> int:
        """Milliseconds since the Unix epoch, as this peer believes."""
        return BEGIN_MS + round(self.world.now * (1.0 + self.drift) * 1000.0 + self.skew_ms)


def drawn_clock(world: World, rng: Random) -> Clock:
    """A clock as one finds them, never further off than the protocol allows."""
    skew_ms = max(-14_000.0, min(14_000.0, rng.gauss(0.0, SKEW_MS_SIGMA)))
    return Clock(world, skew_ms, rng.gauss(0.0, DRIFT_PPM_SIGMA) * 1e-6)
