"""The gateway's HTTP interface: which path does what, and the app that serves them (ASGI)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import trio
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

import cxp2p
from cxp2p.client import Settlement
from cxp2p.egress import EgressRules, rules_of
from cxp2p.known_models import name_of
from cxp2p.receipts import digest
from cxp2p_gateway import openai
from cxp2p_gateway.asking import Door, ModelCard
from cxp2p_gateway.chat import ChatEndpoint
from cxp2p_gateway.completions import completion_of
from cxp2p_gateway.dashboard.routes import Dashboard
from cxp2p_gateway.embeddings import EmbeddingsEndpoint
from cxp2p_gateway.epoch_answers import envelope_object, standing_object
from cxp2p_gateway.epoch_endpoints import EpochEndpoints, epoch_routes
from cxp2p_gateway.exchange import Exchange, Outside, log_exchange
from cxp2p_gateway.faults import Base, Condition, Fault
from cxp2p_gateway.key_endpoints import key_routes
from cxp2p_gateway.limits import may_use
from cxp2p_gateway.means import Means
from cxp2p_gateway.metrics import Metrics
from cxp2p_gateway.middleware import (
    Accounted,
    Admitted,
    Endpoint,
    Faults,
    Gate,
    Methods,
    send_json,
)
from cxp2p_gateway.openai import EmbedRules
from cxp2p_gateway.openapi import serving
from cxp2p_gateway.origins import CrowdRules, Crowds
from cxp2p_gateway.responses import response_of
from cxp2p_gateway.schemas import Here, Schemas
from cxp2p_gateway.scraping import ScrapeEndpoint
from cxp2p_gateway.speech import Speech, Voices
from cxp2p_gateway.waiting import Patience

BASES: Final = (Base.DOCUMENTED.value, Base.ALIAS.value)


class Front:
    """The HTTP front of one gateway, an ASGI app. `routes` are all there are; `closing` refuses new requests."""

    def __init__(
        self,
        door: Door,
        patience: Patience,
        outside: Outside,
        closing: trio.Event,
        schemas: Schemas,
        embed_rules: EmbedRules,
        egress: EgressRules,
        metrics: Metrics,
        crowds: Crowds,
        dashboard: Dashboard | None,
    ) -> None:
        self._metrics = metrics
        self.routes = _routes(door, patience, outside, schemas, embed_rules, egress, crowds, dashboard)
        self.outside = outside
        self.closing = closing
        self.crowds = crowds
        unknown = _unknown_path if dashboard is None else dashboard.unknown
        self._gate = Gate(Router(self.routes, redirect_slashes=False, default=unknown), closing, crowds)
        self._app: ASGIApp = Accounted(Faults(self._gate), outside, closing, self.ended, door.rates)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    def ended(self, exchange: Exchange, now: float) -> None:
        """Logs and counts a request that has ended."""
        log_exchange(exchange, now)
        self._metrics.requests.ended(exchange, now)

    @property
    def running(self) -> int:
        """Requests that run."""
        return self._gate.running

    def cut(self) -> None:
        """Ends what still runs: an answer that has not begun with 503, a stream with an error event."""
        self._gate.cut()


def make_app(
    door: Door,
    patience: Patience | None = None,
    *,
    outside: Outside | None = None,
    closing: trio.Event | None = None,
    schemas: Schemas | None = None,
    embed_rules: EmbedRules | None = None,
    egress: EgressRules | None = None,
    metrics: Metrics | None = None,
    crowd_rules: CrowdRules | None = None,
    dashboard: Dashboard | None = None,
) -> Front:
    """The HTTP front over `door`. `outside`: clock and chance; `closing`: set it to refuse what comes from then on.

    `schemas`: who checks answers; without it they are checked here, which only a test may want. `egress`: which URLs
    nodes are asked for. `crowd_rules`: how much may go on at once. `dashboard`: the pages for people, if there are any.
    """
    return Front(
        door,
        patience or Patience(),
        outside or Outside(),
        closing or trio.Event(),
        schemas or Here(),
        embed_rules or EmbedRules(),
        egress or rules_of(),
        metrics or Metrics(),
        Crowds(crowd_rules or CrowdRules()),
        dashboard,
    )


def _routes(
    door: Door,
    patience: Patience,
    outside: Outside,
    schemas: Schemas,
    embed_rules: EmbedRules,
    egress: EgressRules,
    crowds: Crowds,
    dashboard: Dashboard | None,
) -> list[Route]:
    def admitted(endpoint: Endpoint) -> Endpoint:
        return Admitted(endpoint, door, crowds.keys)

    means = Means(door, outside, patience)
    chat = ChatEndpoint(means, schemas, completion_of)
    responses = ChatEndpoint(means, schemas, response_of)
    embeddings = EmbeddingsEndpoint(means, embed_rules)
    tts, speech = Speech(means, openai.tts_ask), Speech(means, openai.speech_ask)
    scrape = ScrapeEndpoint(means, egress)
    told, page = serving.endpoints(cxp2p.__version__)
    epochs = EpochEndpoints(door.archive, door.earnings)
    keyless = {
        "/health": Methods(GET=_health),
        "/ready": Methods(GET=_Ready(door)),
        "/openapi.json": Methods(GET=told),
        "/docs": Methods(GET=page),
    }
    served: dict[str, Methods] = {
        "/chat/completions": Methods(POST=admitted(chat)),
        "/responses": Methods(POST=admitted(responses)),
        "/embeddings": Methods(POST=admitted(embeddings)),
        "/tts": Methods(POST=admitted(tts)),
        "/audio/speech": Methods(POST=admitted(speech)),
        "/scrape": Methods(POST=admitted(scrape)),
        "/audio/voices": Methods(GET=admitted(Voices(door))),
        "/models": Methods(GET=admitted(_Models(door, embed_rules))),
        "/models/{model:path}/endpoints": Methods(GET=admitted(_Model(door, embed_rules, openai.model_endpoints))),
        "/models/{model:path}": Methods(GET=admitted(_Model(door, embed_rules, openai.model_object))),
        "/rewards": Methods(GET=admitted(epochs.own)),
        "/receipts/{generation}": Methods(GET=admitted(_Receipt(door))),
        **{path: Methods(**methods) for path, methods in epoch_routes(epochs).items()},
        **{
            path: Methods(**{method: admitted(endpoint) for method, endpoint in methods.items()})
            for path, methods in key_routes(door, means.budget).items()
        },
        **keyless,
    }
    for path, methods in served.items():
        methods.path = path.replace(":path}", "}")
    routes = [Route(path, methods) for path, methods in keyless.items()]
    routes += [Route(base + path, methods) for base in BASES for path, methods in served.items()]
    if dashboard is not None:
        played: dict[str, Endpoint] = {"chat": chat, "embeddings": embeddings, "speech": tts, "scrape": scrape}
        routes += dashboard.routes(played, crowds.keys)
    return routes


async def _unknown_path(scope: Scope, receive: Receive, send: Send) -> None:
    raise Fault(Condition.PATH_UNKNOWN)


async def _health(exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
    await send_json({"status": "ok"}, send)


@dataclass(frozen=True, slots=True)
class _Ready:
    """Whether there is a node to ask."""

    door: Door

    async def __call__(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        if not self.door.ready():
            raise Fault(Condition.NOT_READY)
        await send_json({"status": "ready"}, send)


@dataclass(frozen=True, slots=True)
class _Models:
    """All models that live nodes offer, and that the key may use."""

    door: Door
    embed_rules: EmbedRules

    async def __call__(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        assert exchange.caller is not None
        usable = tuple(card for card in self.door.models() if may_use(exchange.caller, card.service, card.model))
        await send_json(openai.model_list(usable, self.embed_rules), send)


@dataclass(frozen=True, slots=True)
class _Model:
    """One of them, as `told` has it."""

    door: Door
    embed_rules: EmbedRules
    told: Callable[[ModelCard, EmbedRules], object]

    async def __call__(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        wanted = scope["path_params"]["model"]
        cards = {card.model: card for card in self.door.models()}
        card = cards.get(wanted) or cards.get(name_of(wanted))
        assert exchange.caller is not None
        if card is not None and may_use(exchange.caller, card.service, card.model):
            await send_json(self.told(card, self.embed_rules), send)
            return
        raise Fault(Condition.MODEL_NOT_LISTED, "model", {"model": wanted})


@dataclass(frozen=True, slots=True)
class _Receipt:
    """What was signed for one of the caller's own generations: the newest, and in `data` all, oldest first."""

    door: Door

    async def __call__(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        generation = scope["path_params"]["generation"]
        assert exchange.caller is not None
        settled = await self.door.receipts(exchange.caller, generation)
        archive = self.door.archive
        found = await archive.books.proofs([digest(each.receipt_envelope) for each in settled])
        standing = [standing_object(each, archive.calendar) for each in found]
        signed = [{**_signed(each), **stands} for each, stands in zip(settled, standing, strict=True)]
        if not signed:
            raise Fault(Condition.RECEIPT_UNKNOWN)
        await send_json({"id": generation, "object": "receipt", **signed[-1], "data": signed}, send)


def _signed(settlement: Settlement) -> dict[str, object]:
    """The three signed envelopes, base64, each with its fields; ids and digests in hexadecimal."""
    return {
        name: envelope_object(value, envelope)
        for name, value, envelope in (
            ("order", settlement.order, settlement.order_envelope),
            ("receipt", settlement.receipt, settlement.receipt_envelope),
            ("countersign", settlement.countersign, settlement.countersign_envelope),
        )
    }
