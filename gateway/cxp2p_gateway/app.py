"""Puts a gateway together and runs it. The only place in this program that constructs."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import trio

import cxp2p
from cxp2p.client import (
    Embeddings,
    Emit,
    Hear,
    Judge,
    Net,
    Outcome,
    Scraped,
    Settlement,
    Spoken,
    Took,
    join,
    wall_ms,
)
from cxp2p.egress import EgressRules, rules_of
from cxp2p.embed import Input
from cxp2p.errors import SettingsError
from cxp2p.identity import Identity
from cxp2p.known_models import KNOWN_MODELS
from cxp2p.net.tasks import background
from cxp2p.paths import default_data_path
from cxp2p.peer import open_peer
from cxp2p.records import Job, ScrapeJob
from cxp2p.rewards import DEFAULT_RULES, rules_hash
from cxp2p_gateway.accounts import Accounts, FirstAccount, found_account
from cxp2p_gateway.archive import EpochArchive
from cxp2p_gateway.asking import Caller, ModelCard
from cxp2p_gateway.claims import GatewayPapers
from cxp2p_gateway.closing import open_epochs
from cxp2p_gateway.config import EmbeddingSettings, GatewaySettings, HttpSettings, MetricsSettings, ScrapeSettings
from cxp2p_gateway.dashboard.opening import open_dashboard, open_people
from cxp2p_gateway.dispatch import Dispatch, DispatchOptions, open_dispatch
from cxp2p_gateway.earnings import Earnings
from cxp2p_gateway.http import Front, make_app
from cxp2p_gateway.key_ring import KeyRing
from cxp2p_gateway.listener import serve_http
from cxp2p_gateway.metrics import Metrics
from cxp2p_gateway.metrics.network import NetworkCollector
from cxp2p_gateway.metrics.serving import MetricsServer
from cxp2p_gateway.openai import EmbedRules
from cxp2p_gateway.openai.cl100k import load_cl100k
from cxp2p_gateway.origins import CrowdRules
from cxp2p_gateway.people import People
from cxp2p_gateway.ports import listen, port_of, shown
from cxp2p_gateway.rates import Counted, Rate
from cxp2p_gateway.salts import CacheSalts
from cxp2p_gateway.schemas.apart import open_schemas
from cxp2p_gateway.statements import Statements
from cxp2p_gateway.store import Store, postgres, sqlite
from cxp2p_gateway.waiting import Patience

RULES: Final = rules_hash(DEFAULT_RULES)
CATALOGUE: Final = tuple(known.name for known in KNOWN_MODELS)


class GatewayDoor:
    """The `Door` of a running gateway: its accounts and its dispatch."""

    def __init__(
        self,
        accounts: Accounts,
        dispatch: Dispatch,
        salts: CacheSalts | None,
        ring: KeyRing,
        statements: Statements,
        archive: EpochArchive,
        earnings: Earnings,
    ) -> None:
        self._accounts = accounts
        self._dispatch = dispatch
        self._salts = salts
        self.ring = ring
        self.statements = statements
        self.archive = archive
        self.earnings = earnings

    async def authenticate(self, token: str, user_id: str | None) -> Caller | None:
        return await self._accounts.authenticate(token, user_id)

    def models(self) -> tuple[ModelCard, ...]:
        return self._dispatch.models()

    def knows(self, model: str) -> bool:
        return self._dispatch.knows(model)

    def ready(self) -> bool:
        return self._dispatch.ready()

    def rates(self, caller: Caller) -> Mapping[Counted, Rate]:
        return self._dispatch.rates(caller)

    async def run(
        self,
        caller: Caller,
        generation: str,
        job: Job,
        emit: Emit,
        *,
        deadline_s: float,
        judge: Judge | None = None,
    ) -> Outcome:
        if self._salts is not None:
            job = self._salts.salted(job, caller.account)
        return await self._dispatch.run(caller, generation, job, emit, deadline_s=deadline_s, judge=judge)

    async def embed(
        self,
        caller: Caller,
        generation: str,
        model: str,
        inputs: Sequence[Input],
        *,
        truncate: bool,
        took: Took,
        deadline_s: float,
    ) -> Embeddings:
        return await self._dispatch.embed(
            caller, generation, model, inputs, truncate=truncate, took=took, deadline_s=deadline_s
        )

    async def speak(
        self, caller: Caller, generation: str, voice: str, text: str, hear: Hear, *, speed: float, deadline_s: float
    ) -> Spoken:
        return await self._dispatch.speak(caller, generation, voice, text, hear, speed=speed, deadline_s=deadline_s)

    async def scrape(
        self, caller: Caller, generation: str, job: ScrapeJob, *, took: Took, deadline_s: float
    ) -> Scraped:
        return await self._dispatch.scrape(caller, generation, job, took=took, deadline_s=deadline_s)

    async def receipts(self, caller: Caller, generation: str) -> tuple[Settlement, ...]:
        return await self.statements.receipts(caller, generation)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """A running gateway. `first`: the account that this start made, the only time its key is known.

    `claim_url`: where the first account gets its password, once; None if it has one. `metrics_url`: where they are
    told, None if they are not.
    """

    peer: str
    url: str
    metrics_url: str | None
    first: FirstAccount | None
    claim_url: str | None
    net: Net
    store: Store
    front: Front

    def stop(self) -> None:
        """Takes no more requests; those that run may end."""
        self.front.closing.set()


@asynccontextmanager
async def open_gateway(
    settings: GatewaySettings, listeners: Sequence[trio.SocketListener] = ()
) -> AsyncIterator[Gateway]:
    """A whole gateway from its settings: books first, then the network, then HTTP.

    `listeners`: where HTTP is served, if it is not opened here.
    Leaving the block waits until the last answer is out if `stop` was called, and cuts them otherwise. Raises CxError:
    SettingsError, StoreError, IdentityError, PeerUnreachable.
    """
    rng = random.SystemRandom()
    metrics = Metrics(CATALOGUE)
    egress = _egress(settings.scrape)
    embed_rules = _embed_rules(settings.embeddings)
    async with (
        open_books(settings) as store,
        open_peer(settings.peer, data_path_of(settings)) as (identity, network),
        open_epochs(identity, network, store, settings.peer.calendar, RULES, wall_ms) as archive,
        join(identity, network, rng, calendar=settings.peer.calendar, papers=_papers(settings, store, metrics)) as net,
        open_dispatch(net, store, wall_ms, _options(settings), CATALOGUE, metrics) as dispatch,
        open_schemas() as schemas,
        _metrics_told(settings.metrics, metrics) as metrics_url,
    ):
        first = await found_account(store, settings.accounts.credit, wall_ms(), rng)
        is_alone = settings.database.url is None
        accounts = Accounts(store, wall_ms, settings.accounts.user_id, is_alone=is_alone)
        ring, statements = KeyRing(accounts, store, wall_ms, rng), Statements(store, wall_ms)
        earnings = Earnings(archive, store, DEFAULT_RULES, wall_ms)
        door = GatewayDoor(accounts, dispatch, _salts(settings, identity), ring, statements, archive, earnings)
        people = open_people(settings, store, accounts, wall_ms, rng)

        def state() -> dict[str, str]:
            return _state(identity.peer, is_alone, front.running, dispatch.running, settings.jobs.jobs_max)

        front = make_app(
            door,
            _patience(settings.http),
            schemas=schemas,
            embed_rules=embed_rules,
            egress=egress,
            crowd_rules=_crowd_rules(settings.http),
            metrics=metrics,
            dashboard=open_dashboard(settings, people, ring, store, door, net, state, wall_ms, rng),
        )
        _watch(metrics, net, front, dispatch)
        async with trio.open_nursery() as nursery:
            ours = listeners or await listen(settings.http.host, settings.http.port)
            port = await nursery.start(partial(serve_http, front, ours, grace_s=settings.http.grace_s))
            url = f"http://{shown(settings.http.host)}:{port}"
            yield Gateway(
                peer=identity.peer,
                url=url,
                metrics_url=metrics_url,
                first=first,
                claim_url=await _claim_url(people, settings, url),
                net=net,
                store=store,
                front=front,
            )
            if not front.closing.is_set():
                nursery.cancel_scope.cancel()


@asynccontextmanager
async def _metrics_told(settings: MetricsSettings, metrics: Metrics) -> AsyncIterator[str | None]:
    """The metrics on their port for as long as the block runs, so that a drain can be watched; yields their URL."""
    if settings.port is None:
        yield None
        return
    listeners = await listen(settings.host, settings.port)
    async with background() as nursery:
        nursery.start_soon(trio.serve_listeners, MetricsServer(metrics.text).serve, listeners)
        yield f"http://{shown(settings.host)}:{port_of(listeners)}/metrics"


def _watch(metrics: Metrics, net: Net, front: Front, dispatch: Dispatch) -> None:
    metrics.registry.register(NetworkCollector(net, wall_ms, trio.current_time))
    metrics.watch("cxp2p_http_requests_running", "Requests that run", lambda: front.running)
    metrics.watch("cxp2p_jobs_running", "Jobs that run, of at most jobs.jobs_max", lambda: dispatch.running)


def open_books(settings: GatewaySettings) -> AbstractAsyncContextManager[Store]:
    """The gateway's store, in PostgreSQL if `database.url` says so. Opening it raises StoreError."""
    if settings.database.url is not None:
        return postgres.open_store(settings.database.url.get_secret_value(), wall_ms)
    return sqlite.open_store(store_path(settings), wall_ms)


def store_path(settings: GatewaySettings) -> Path:
    """Where the gateway's database is, or will be, if it is a file."""
    return data_path_of(settings) / "gateway.sqlite"


async def _claim_url(people: People, settings: GatewaySettings, url: str) -> str | None:
    link = await people.first_link() if settings.dashboard.enabled else None
    if link is None:
        return None
    return f"{str(settings.dashboard.public_url or url).rstrip('/')}/claim?link={link}"


def _state(peer: str, is_alone: bool, requests: int, jobs: int, jobs_max: int) -> dict[str, str]:
    return {
        "Version": cxp2p.__version__,
        "Peer": peer,
        "Database": "SQLite" if is_alone else "PostgreSQL",
        "Requests that run": str(requests),
        "Jobs that run": f"{jobs} of at most {jobs_max}",
    }


def check_parts(settings: GatewaySettings) -> None:
    """Reads what settings name and a start would read. Raises SettingsError."""
    _egress(settings.scrape)
    _embed_rules(settings.embeddings)


def data_path_of(settings: GatewaySettings) -> Path:
    """Where the gateway keeps its state."""
    return settings.data_path or default_data_path("gateway")


def _options(settings: GatewaySettings) -> DispatchOptions:
    receipts = settings.receipts
    return DispatchOptions(jobs_max=settings.jobs.jobs_max, kept_days=receipts.days, kept_max=receipts.kept_max)


def _papers(settings: GatewaySettings, store: Store, metrics: Metrics) -> GatewayPapers:
    return GatewayPapers(store, wall_ms, metrics.claims, settings.receipts.late_credit_max)


def _salts(settings: GatewaySettings, identity: Identity) -> CacheSalts | None:
    shared = settings.jobs.share_prefix_cache_between_accounts
    return None if shared else CacheSalts(identity.secret("cache-salt"))


def _patience(http: HttpSettings) -> Patience:
    return Patience(hold_s=http.hold_s, keep_alive_s=http.keep_alive_s, deadline_s=http.deadline_s)


def _crowd_rules(http: HttpSettings) -> CrowdRules:
    return CrowdRules(
        connections_max=http.connections_max,
        connections_per_address_max=http.connections_per_address_max,
        requests_per_key_max=http.requests_per_key_max,
        trusted_proxies=http.trusted_proxies,
    )


def _embed_rules(embeddings: EmbeddingSettings) -> EmbedRules:
    path = embeddings.cl100k_path
    return EmbedRules(
        token_input=embeddings.token_input,
        native=embeddings.native,
        cl100k=None if path is None else load_cl100k(path),
        matryoshka=embeddings.matryoshka,
    )


def _egress(scrape: ScrapeSettings) -> EgressRules:
    try:
        return rules_of(scrape.ports, scrape.allow)
    except SettingsError as error:
        raise SettingsError(f"scrape.{error}") from None
