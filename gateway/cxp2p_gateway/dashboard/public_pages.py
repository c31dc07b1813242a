"""What anybody may see: the front page, the models, and the network's numbers."""

from __future__ import annotations

import json
from dataclasses import dataclass

from cxp2p.known_models import KNOWN_MODELS, KnownModel, name_of, size_class
from cxp2p.records import Service
from cxp2p_gateway.asking import ModelCard
from cxp2p_gateway.dashboard.desk import SAFE, Desk, Reply
from cxp2p_gateway.dashboard.refusals import no_page
from cxp2p_gateway.dashboard.rendering import ASSETS
from cxp2p_gateway.dashboard.snippets import Snippet, snippets
from cxp2p_gateway.dashboard.visits import Visit

SERVICES = {
    Service.CHAT: "Chat",
    Service.EMBED: "Embeddings",
    Service.SPEECH: "Speech",
    Service.SCRAPE: "Scraping",
}
UNITS = {
    Service.CHAT: "tokens",
    Service.EMBED: "tokens",
    Service.SPEECH: "characters",
    Service.SCRAPE: "pages",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A model in the catalogue. `card`: what live nodes offer; None if none does now."""

    name: str
    service: Service
    card: ModelCard | None
    size: str = ""


def catalogue(desk: Desk) -> tuple[Listed, ...]:
    """All that the network offers now, then all else that is known by name."""
    cards = desk.door.models()
    sizes = {known.name: _size(known) for known in KNOWN_MODELS}
    live = [Listed(name=each.model, service=each.service, card=each, size=sizes.get(each.model, "")) for each in cards]
    names = {each.name for each in live}
    known = [
        Listed(name=each.name, service=each.service, card=None, size=_size(each))
        for each in KNOWN_MODELS
        if each.name not in names
    ]
    return (*live, *known)


def _size(known: KnownModel) -> str:
    if known.service not in (Service.CHAT, Service.EMBED):
        return ""
    return size_class(known.parameters).value.replace("-", " ")


def chat_snippets(desk: Desk, visit: Visit, user_id: str) -> tuple[Snippet, ...]:
    """How a chat model is called: one that is on offer now, if there is any."""
    model = next((card.model for card in desk.door.models() if card.service is Service.CHAT), "llama3.1:8b")
    return snippets(Service.CHAT, model, f"{visit.own}/api/v1", user_id)


async def front_page(desk: Desk, visit: Visit) -> Reply:
    """What this is, and how the network is."""
    live = desk.network()
    code = chat_snippets(desk, visit, "YOUR_USER_ID")
    return desk.page(visit, "front.html", live=live, snippets=code, models=desk.door.models()[:12], services=SERVICES)


async def live_numbers(desk: Desk, visit: Visit) -> Reply:
    """The network's numbers, for the script that keeps them fresh."""
    return Reply(
        body=json.dumps(desk.network().told(), separators=(",", ":")).encode(),
        kind="application/json",
        headers=(*SAFE, ("cache-control", "public, max-age=2")),
    )


async def models_page(desk: Desk, visit: Visit) -> Reply:
    """The catalogue, all of it or of one service."""
    wanted = visit.asked("service")
    listed = [each for each in catalogue(desk) if wanted in ("", each.service.value)]
    return desk.page(visit, "models.html", listed=listed, services=SERVICES, units=UNITS, wanted=wanted)


async def model_page(desk: Desk, visit: Visit) -> Reply:
    """One model, and how to call it."""
    name = visit.params["model"]
    known = {each.name: each for each in reversed(catalogue(desk))}
    model = known.get(name) or known.get(name_of(name))
    if model is None:
        raise no_page()
    user_id = "YOUR_USER_ID" if visit.user is None else visit.user.id
    return desk.page(
        visit,
        "model.html",
        model=model,
        service=SERVICES[model.service],
        unit=UNITS[model.service],
        snippets=snippets(model.service, model.name, f"{visit.own}/api/v1", user_id),
    )


async def asset(desk: Desk, visit: Visit) -> Reply:
    """The style sheet or a script, under a name that it keeps for ever."""
    found = ASSETS.files.get(visit.params["name"])
    if found is None:
        raise no_page()
    kind, data = found
    kept = ("cache-control", "public, max-age=31536000, immutable")
    return Reply(body=data, kind=kind, headers=(*SAFE, kept))
