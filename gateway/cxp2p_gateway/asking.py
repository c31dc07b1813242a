"""The seam between the HTTP front and what is behind it: who may come in, what there is, and the work itself.

The app implements `Door` over keys, accounts, dispatch and the network; tests implement it in memory. The front knows
nothing else of them, and they know nothing of HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from cxp2p.client import Embeddings, Emit, Hear, Judge, Outcome, Scraped, Settlement, Spoken, Took
from cxp2p.embed import Input
from cxp2p.errors import CxError
from cxp2p.records import Capability, Job, Prices, ScrapeJob, Service
from cxp2p_gateway.keys import Kind
from cxp2p_gateway.rates import Counted, Rate

if TYPE_CHECKING:
    from cxp2p_gateway.archive import EpochArchive
    from cxp2p_gateway.earnings import Earnings
    from cxp2p_gateway.key_ring import KeyRing
    from cxp2p_gateway.statements import Statements

__all__ = [
    "Caller",
    "Door",
    "Embeddings",
    "Emit",
    "Hear",
    "Input",
    "Judge",
    "KeyEnded",
    "KeyForbids",
    "Limit",
    "ModelCard",
    "NodeCard",
    "Outcome",
    "Overloaded",
    "RateLimited",
    "Scraped",
    "Settlement",
    "Spoken",
    "Took",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks: the ids of an account and of the key that was shown. Never the key itself.

    `services`, `models`: what the key is for; empty: all. `app`, `origin`: what the client calls itself, and where it
    says that it is from. `streamed`: the answer is. `rpm`, `tpm`: its rates, None: none. `affinity`: what the client
    calls requests that begin alike.
    """

    account: str
    key: str
    kind: Kind = Kind.BASE
    services: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    app: str = ""
    origin: str = ""
    streamed: bool = False
    affinity: str = ""
    rpm: int | None = None
    tpm: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCard:
    """What one live node offers for a model: its peer id, and what it says that it serves the model with."""

    node: str
    capability: Capability


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What the live nodes offer together for one model. `_p50`: medians over nodes that measured themselves, 0: none.

    `since_s`: wall-clock seconds since when this gateway knows the model. `context_units`, `output_units_max`: the
    largest that any live node offers. `prices`: the lowest. `offered`: by each node, in the order of their ids.
    """

    model: str
    service: Service
    since_s: int
    context_units: int
    output_units_max: int
    prices: Prices
    nodes: int
    first_piece_ms_p50: int
    units_per_s_p50: int
    offered: tuple[NodeCard, ...] = ()


class Limit(Enum):
    """What a virtual key may be kept from."""

    SERVICE = "service"
    MODEL = "model"


class KeyForbids(CxError):
    """This key may not use this service, or this model."""

    def __init__(self, limit: Limit) -> None:
        super().__init__(f"the key forbids this {limit.value}")
        self.limit = limit


class KeyEnded(CxError):
    """This key was good when the request came, and is no longer."""


class RateLimited(CxError):
    """The key's limit is used up for now. `limit`: in words, e.g. "60 requests per minute".

    `rates`: where all of its rates stand, as far as that was looked at.
    """

    def __init__(self, limit: str, retry_after_s: float, rates: Mapping[Counted, Rate] | None = None) -> None:
        super().__init__(f"rate limit reached: {limit}")
        self.limit = limit
        self.retry_after_s = retry_after_s
        self.rates: Mapping[Counted, Rate] = rates or {}


class Overloaded(CxError):
    """There is no room for this job right now; come back after `retry_after_s`."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__("no capacity right now")
        self.retry_after_s = retry_after_s


class Door(Protocol):
    """All that the HTTP front may ask of the gateway."""

    async def authenticate(self, token: str, user_id: str | None) -> Caller | None:
        """Who holds this key. None if the key is unknown, revoked or expired, or `user_id` is not its owner's.

        `token` is what stood after `Bearer`, of any length up to the header limit, with any characters.
        """

    def models(self) -> tuple[ModelCard, ...]:
        """The models that live nodes offer now, by name."""

    def knows(self, model: str) -> bool:
        """Whether the catalogue or the network has ever named this model, with a live node or without."""

    def ready(self) -> bool:
        """Whether at least one live node is known."""

    @property
    def ring(self) -> KeyRing:
        """The keys of all accounts, for their owners."""

    @property
    def statements(self) -> Statements:
        """What accounts and keys have, have spent and have used."""

    @property
    def archive(self) -> EpochArchive:
        """The epochs that were published here."""

    @property
    def earnings(self) -> Earnings:
        """What was earned in them."""

    def rates(self, caller: Caller) -> Mapping[Counted, Rate]:
        """Where the rates of the caller's key stand; nothing for a key without any."""

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
        """Does one job for `caller`: pieces go to `emit` in order, then the signed outcome is returned.

        Until the first piece a failure moves on to another node unseen. Cancelling the call stops the node at once and
        settles what was delivered. The outcome is kept under `generation`, so that `receipts` finds it. An answer in
        which `judge` finds a fault costs nothing. Raises NoNode, JobRefused (every node said no), JobFailed,
        PeerUnreachable, InsufficientCredit, AnswerRefused (by `judge`), KeyForbids, RateLimited, Overloaded.
        JobFailed(TIMEOUT) after `deadline_s`.
        """

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
        """Vectors of all inputs for `caller`, which may take several jobs; all their outcomes are kept.

        A failure moves on to another node unseen, and so does one in the middle. `took` is told the size of all that
        comes, and may raise a CxError to end the call. `truncate`: inputs that are too long are cut; otherwise they
        are an error. Raises what `run` raises.
        """

    async def speak(
        self, caller: Caller, generation: str, voice: str, text: str, hear: Hear, *, speed: float, deadline_s: float
    ) -> Spoken:
        """Reads `text` for `caller`: samples go to `hear` in order, 22,050 a second, two bytes each.

        It may take several jobs; all their outcomes are kept. A node that fails is not heard. Raises what `run` raises,
        and what `hear` raises.
        """

    async def scrape(
        self, caller: Caller, generation: str, job: ScrapeJob, *, took: Took, deadline_s: float
    ) -> Scraped:
        """The pages of all URLs for `caller`, which may take several jobs; all their outcomes are kept.

        A failure moves on to another node unseen. A URL for which no node could be had, or that was not there after
        `deadline_s`, has that error instead of a page; if all have, it is raised. `took` as in `embed`. Raises what
        `run` raises.
        """

    async def receipts(self, caller: Caller, generation: str) -> tuple[Settlement, ...]:
        """What was signed for one of the caller's own generations, oldest first; empty for others' and unknown ones.

        There are several if the request was several jobs, or if an answer was refused.
        """
