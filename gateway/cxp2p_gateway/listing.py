"""What the live nodes offer together: model cards, and the models that were ever named here. Pure.

A node is live while it beats and does not drain. One that failed lately is still listed, although jobs avoid it for
some seconds: a list that flickers with every fault helps nobody. A gateway hears the beats of at most 64 nodes with 60
capabilities each; that bounds the cards.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from statistics import median
from typing import Final

from cxp2p.directory import Entry
from cxp2p.known_models import name_of
from cxp2p.records import Capability, Prices, Service
from cxp2p_gateway.asking import ModelCard, NodeCard

MODELS_KNOWN_MAX: Final = 4096  # more than all live nodes can offer at once; names of 128 characters at most


def live(entries: Iterable[Entry], wall_ms: int, now: float) -> tuple[Entry, ...]:
    """The entries of live nodes. `now` is monotonic seconds."""
    return tuple(
        entry
        for entry in entries
        if entry.alive_until > now and entry.offer.expires_at_ms > wall_ms and not entry.offer.draining
    )


def cards(entries: Iterable[Entry], since_s: Callable[[str], int]) -> tuple[ModelCard, ...]:
    """A card for each service and model that these nodes offer, by name."""
    offered: dict[tuple[str, Service], dict[str, Capability]] = defaultdict(dict)
    for entry in entries:
        for capability in entry.offer.capabilities:
            offered[capability.model, capability.service][entry.offer.peer] = capability
    return tuple(
        _card(model, service, by_node, since_s(model)) for (model, service), by_node in sorted(offered.items())
    )


def _card(model: str, service: Service, by_node: Mapping[str, Capability], since_s: int) -> ModelCard:
    capabilities = tuple(by_node.values())
    return ModelCard(
        model=model,
        service=service,
        since_s=since_s,
        context_units=max(each.context_units for each in capabilities),
        output_units_max=max(each.output_units_max for each in capabilities),
        prices=Prices(
            input=min(each.prices.input for each in capabilities),
            output=min(each.prices.output for each in capabilities),
        ),
        nodes=len(capabilities),
        first_piece_ms_p50=_p50(each.load.first_piece_ms for each in capabilities),
        units_per_s_p50=_p50(each.load.units_per_s for each in capabilities),
        offered=tuple(NodeCard(node=node, capability=capability) for node, capability in sorted(by_node.items())),
    )


def _p50(measured: Iterable[int]) -> int:
    known = [value for value in measured if value]
    return round(median(known)) if known else 0


class KnownModels:
    """Models that live nodes have offered, with the wall-clock time when each was first seen.

    Bounded: when full, the one that was not seen for longest is forgotten. Those of `catalogue` are always known.
    """

    def __init__(self, catalogue: Collection[str] = ()) -> None:
        self._catalogue = frozenset(catalogue)
        self._since_ms: OrderedDict[str, int] = OrderedDict()

    def __contains__(self, model: str) -> bool:
        return model in self._since_ms or name_of(model) in self._catalogue

    def see(self, entries: Iterable[Entry], wall_ms: int) -> None:
        """Notes what live nodes offer now."""
        for entry in entries:
            for capability in entry.offer.capabilities:
                self._since_ms.setdefault(capability.model, wall_ms)
                self._since_ms.move_to_end(capability.model)
        while len(self._since_ms) > MODELS_KNOWN_MAX:
            self._since_ms.popitem(last=False)

    def since_s(self, model: str) -> int:
        """Seconds since the Unix epoch when a model that was seen was first seen."""
        return self._since_ms[model] // 1000
