"""Small towns for tests."""

from __future__ import annotations

from collections.abc import Sequence

from simulations.clocks import Clock
from simulations.demands import Demand, Outcome
from simulations.engines import Speed, make_capability
from simulations.gateways import GatewayModel
from simulations.links import Place
from simulations.nodes import NodeModel
from simulations.rules import REAL, Rules
from simulations.signing import Signing
from simulations.town import Town
from simulations.world import World

HERE = Place("London")
FOUND_S = 11.0  # by then everybody knows everybody


class SmallTown(Town):
    """One gateway and some nodes in one city, with clocks that are right."""

    def __init__(
        self,
        nodes: int = 2,
        seed: int = 1,
        rules: Rules = REAL,
        signing: Signing | None = None,
        speed: Speed | None = None,
        **offered: object,
    ) -> None:
        world = World(seed)
        super().__init__(world, signing)
        self.gateway: GatewayModel = self.add_gateway(HERE, rules=rules, clock=Clock(world))
        self.all: Sequence[NodeModel] = [
            self.add_node(make_capability(**offered), speed, HERE, clock=Clock(world), rules=rules)  # type: ignore[arg-type]
            for _ in range(nodes)
        ]
        world.run(FOUND_S)

    def ask(self, count: int = 1, **changes: object) -> None:
        """So many demands now, of 100 tokens in and out."""
        first = len(self.outcomes) + len(self.gateway.runs) + 1
        for number in range(first, first + count):
            fields: dict[str, object] = {
                "number": number,
                "user": "alice",
                "model": "m",
                "in_units": 100,
                "out_units": 100,
            }
            self.gateway.submit(Demand(**{**fields, **changes}))  # type: ignore[arg-type]

    def finish(self) -> list[Outcome]:
        """Everything that runs ends; what became of all demands."""
        self.settle()
        return self.outcomes
