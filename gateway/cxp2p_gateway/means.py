"""What an endpoint that has work done in the network needs, whatever the work is."""

from __future__ import annotations

from dataclasses import dataclass, field

from cxp2p_gateway.asking import Door
from cxp2p_gateway.exchange import Outside
from cxp2p_gateway.reading import BodyBudget
from cxp2p_gateway.waiting import Patience, Places


@dataclass(frozen=True, slots=True)
class Means:
    """What all endpoints of one front share: whom they ask, and what may be in hand at once."""

    door: Door
    outside: Outside
    patience: Patience
    budget: BodyBudget = field(default_factory=BodyBudget)
    places: Places = field(default_factory=Places)


class JobEndpoint:
    """An endpoint of jobs: the means, at hand under short names."""

    def __init__(self, means: Means) -> None:
        self._door = means.door
        self._outside = means.outside
        self._patience = means.patience
        self._budget = means.budget
        self._places = means.places
