"""Who is there when: peers that come, stay and leave, as peers of IPFS do.

Half of the servers of the IPFS DHT stay for 2 hours or less, four fifths for 8 hours or less (ProbeLab, RFM 2, "Uptime
and Churn", one week from 28 April 2022). A Weibull distribution through both points has the shape 0.61, a form that
Stutzbach and Rejaie ("Understanding Churn in Peer-to-Peer Networks", IMC 2006) found in Gnutella, BitTorrent and Kad.
In the same week 27.1 % of the ids came again and again and 21.3 % once: of those that leave, 56 % come back under
their id.

How long peers stay away is an assumption: as long as they stay, exponentially.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]

MEDIAN_S: Final = 2 * 3600.0
FOUR_FIFTHS_S: Final = 8 * 3600.0
SHAPE: Final = math.log(math.log(5) / math.log(2)) / math.log(FOUR_FIFTHS_S / MEDIAN_S)
SCALE_S: Final = MEDIAN_S / math.log(2) ** (1 / SHAPE)
MEAN_S: Final = SCALE_S * math.gamma(1 + 1 / SHAPE)
RETURN: Final = 27.1 / (27.1 + 21.3)
NEVER: Final = math.inf


@dataclass(slots=True)
class Moves:
    """What happened in a step: who left, and who came, each in order of time."""

    left: Ints
    came: Ints


class Sessions:
    """The sessions of `online` peers on the average, as many away, and new ones for those that do not come back.

    A peer is a number; it is there from `came_at` until before `leaves_at`. At the beginning the network is in its
    middle age: who is there stays as long as those who are met by chance do.
    """

    def __init__(self, online: int, seconds: float, always: int, rng: np.random.Generator) -> None:
        self._rng = rng
        new = seconds / MEAN_S * online * (1 - RETURN)
        count = 2 * online + round(1.2 * new) + 100
        self.count = count
        self.came_at: Floats = np.full(count, NEVER)
        self.leaves_at: Floats = np.full(count, NEVER)
        self._comes_at: Floats = np.full(count, NEVER)
        stays = SCALE_S * rng.gamma(1 + 1 / SHAPE, size=online) ** (1 / SHAPE)  # whom one meets stays longer
        been = rng.random(online) * stays
        self.came_at[:online] = -been
        self.leaves_at[:online] = stays - been
        self.leaves_at[:always] = NEVER
        self._comes_at[online : 2 * online] = rng.exponential(MEAN_S, online)
        self._unused = 2 * online

    def there(self, peers: Ints, time: Floats | float) -> NDArray[np.bool_]:
        """Whether each of these peers is there at a time; within the step that was made last."""
        there: NDArray[np.bool_] = (self.came_at[peers] <= time) & (time < self.leaves_at[peers])
        return there

    def online(self, time: float) -> Ints:
        """All who are there."""
        return np.flatnonzero((self.came_at <= time) & (time < self.leaves_at))

    def step(self, begin: float, end: float) -> Moves:
        """Goes on to the step from `begin` until `end`: who left before it is away, who comes within it has a time."""
        left = np.flatnonzero(self.leaves_at <= begin)
        left = left[np.argsort(self.leaves_at[left], kind="stable")]
        again = self._rng.random(left.size) < RETURN
        fresh = np.arange(self._unused, min(self.count, self._unused + int(np.count_nonzero(~again))))
        self._unused += fresh.size
        returns = np.concatenate((left[again], fresh))
        since = np.concatenate((self.leaves_at[left[again]], self.leaves_at[left[~again]][: fresh.size]))
        self._comes_at[returns] = since + self._rng.exponential(MEAN_S, returns.size)
        self.came_at[left] = NEVER
        self.leaves_at[left] = NEVER
        came = np.flatnonzero(self._comes_at < end)
        came = came[np.argsort(self._comes_at[came], kind="stable")]
        self.came_at[came] = np.maximum(self._comes_at[came], begin)
        self.leaves_at[came] = self.came_at[came] + SCALE_S * self._rng.weibull(SHAPE, came.size)
        self._comes_at[came] = NEVER
        return Moves(left, came)
