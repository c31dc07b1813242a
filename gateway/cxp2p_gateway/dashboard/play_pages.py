"""The playground's page. What it asks for goes through `guard.Played`."""

from __future__ import annotations

from cxp2p.records import Service
from cxp2p_gateway.dashboard.desk import Desk, Reply
from cxp2p_gateway.dashboard.visits import Visit


async def playground_page(desk: Desk, visit: Visit) -> Reply:
    """One panel for each service, with the models that live nodes offer for it."""
    offered: dict[str, list[str]] = {service.value: [] for service in Service}
    for card in desk.door.models():
        offered[card.service.value].append(card.model)
    return desk.page(visit, "playground.html", offered=offered, wanted=visit.asked("model"))
