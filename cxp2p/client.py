"""The public API for Python users: reach the network and ask it, with no gateway.

async with cxp2p.connect(bootstrap=["/ip4/127.0.0.1/tcp/4001/p2p/12D3…"]) as net:
    answer = await net.chat("smollm2:135m", "Why is the sky blue?")
    print(answer.text, answer.outcome.node)
"""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import trio

from cxp2p.directory import Directory, Entry
from cxp2p.embed import AT_ONCE_MAX, Input
from cxp2p.errors import NoNode
from cxp2p.identity import Identity, new_identity
from cxp2p.known_models import name_of
from cxp2p.net import Network
from cxp2p.net.ask import DEADLINE_S, Asker, Books, Emit, Judge, Outcome, Settlement
from cxp2p.net.claims import Papers
from cxp2p.net.discover import Discovery, offer_sequence
from cxp2p.net.embedding import Embedder, Embeddings, Took
from cxp2p.net.rhythm import Rhythm
from cxp2p.net.scraping import Scraped, Scraper
from cxp2p.net.speaking import Hear, Speaker, Spoken
from cxp2p.net.tasks import background
from cxp2p.receipts import HOURS, Calendar, Delivered
from cxp2p.records import (
    ChatJob,
    Finish,
    Job,
    Message,
    Order,
    PageForm,
    Piece,
    Render,
    Role,
    Sampling,
    ScrapeJob,
    Service,
    service_of,
)
from cxp2p.scrape import AT_ONCE_MAX as SCRAPES_AT_ONCE_MAX
from cxp2p.scrape import MODEL, check_urls

PATIENCE_S = 15.0  # a fresh peer needs seconds to find its first node

__all__ = [
    "Answer",
    "Books",
    "Embeddings",
    "Emit",
    "Hear",
    "Judge",
    "Net",
    "Outcome",
    "Scraped",
    "Settlement",
    "Spoken",
    "Took",
    "connect",
    "wall_ms",
]


def wall_ms() -> int:
    """Wall-clock time in ms since the Unix epoch."""
    return time.time_ns() // 1_000_000


class NoBooks:
    """Keeps nothing: whoever asks directly is owed to by nobody, and the receipt is in the outcome."""

    async def reserve(self, order: Order, envelope: bytes) -> None:
        await trio.lowlevel.checkpoint()

    async def promise(self, order: Order, voucher_envelope: bytes) -> None:
        await trio.lowlevel.checkpoint()

    async def settle(self, settlement: Settlement) -> None:
        await trio.lowlevel.checkpoint()

    async def void(self, order: Order, reason: str, got: Delivered | None = None) -> None:
        await trio.lowlevel.checkpoint()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A finished chat answer. `outcome.settlement` holds the receipt that both sides signed."""

    text: str
    token_ids: tuple[int, ...]
    finish: Finish
    outcome: Outcome


class Net:
    """One peer's view of the network, and its way to ask."""

    def __init__(
        self, network: Network, discovery: Discovery, asker: Asker, wall: Callable[[], int], rng: random.Random
    ) -> None:
        self.network = network
        self.discovery = discovery
        self._asker = asker
        self._embedder = Embedder(asker, discovery, wall)
        self._speaker = Speaker(asker, discovery, wall)
        self._scraper = Scraper(asker, discovery, wall, rng)
        self._wall_ms = wall

    @property
    def peer(self) -> str:
        return self.network.peer

    def offers(self) -> tuple[Entry, ...]:
        """What is known of the network now, in no order."""
        return self.discovery.directory.entries()

    async def chat(
        self,
        model: str,
        messages: str | Sequence[Message],
        *,
        max_tokens: int | None = None,
        stop: Sequence[str] = (),
        sampling: Sampling | None = None,
        on_text: Callable[[str], Awaitable[None]] | None = None,
        deadline_s: float = DEADLINE_S,
        patience_s: float = PATIENCE_S,
    ) -> Answer:
        """Asks the network for a chat completion; a string is one user message. `on_text` gets the text as it comes.

        Waits up to `patience_s` for a first node that offers the model. Raises NoNode, JobRefused, JobFailed,
        PeerUnreachable. Cancelling it stops the node at once.
        """
        turns = (Message(role=Role.USER, content=messages),) if isinstance(messages, str) else tuple(messages)
        job = ChatJob(
            model=model, messages=turns, max_tokens=max_tokens, stop=tuple(stop), sampling=sampling or Sampling()
        )
        texts: list[str] = []
        token_ids: list[int] = []

        async def take(piece: Piece) -> None:
            texts.append(piece.text)
            token_ids.extend(piece.token_ids)
            if on_text is not None:
                await on_text(piece.text)

        await self.find(model, patience_s)
        outcome = await self.run(job, take, NoBooks(), deadline_s=deadline_s)
        finish = outcome.settlement.receipt.finish
        return Answer(text="".join(texts), token_ids=tuple(token_ids), finish=finish, outcome=outcome)

    async def embed(
        self,
        model: str,
        texts: str | Sequence[Input],
        *,
        truncate: bool = True,
        deadline_s: float = DEADLINE_S,
        patience_s: float = PATIENCE_S,
    ) -> Embeddings:
        """Asks the network for a vector of each text, in their order; many are split over nodes. A string is one text.

        `truncate`: a text that is too long for the model is cut; otherwise it fails all. Instead of a text token ids
        of this model can be given. Raises what `chat` raises, and AnswerRefused if nodes sent no vectors.
        """
        await self.find(model, patience_s, Service.EMBED)
        inputs = [texts] if isinstance(texts, str) else texts
        return await self.run_embed(model, inputs, NoBooks(), truncate=truncate, deadline_s=deadline_s)

    async def speak(
        self,
        voice: str,
        text: str,
        hear: Hear,
        *,
        speed: float = 1.0,
        deadline_s: float = DEADLINE_S,
        patience_s: float = PATIENCE_S,
    ) -> Spoken:
        """Has the network read a text aloud: samples go to `hear`, 22,050 a second of one channel, two bytes each.

        A long text is split over nodes, and told in order. Raises what `chat` raises, and AnswerRefused.
        """
        await self.find(voice, patience_s, Service.SPEECH)
        return await self.run_speech(voice, text, NoBooks(), hear, speed=speed, deadline_s=deadline_s)

    async def scrape(
        self,
        urls: str | Sequence[str],
        *,
        form: PageForm = PageForm.MARKDOWN,
        main_only: bool = True,
        links: bool = False,
        timeout_s: int = 30,
        age_s_max: int = 0,
        render: Render = Render.NEVER,
        wait_ms: int = 0,
        model: str = MODEL,
        deadline_s: float = DEADLINE_S,
        patience_s: float = PATIENCE_S,
    ) -> Scraped:
        """Has the network fetch web pages, 1 to 50, and read them: `pages` has one for each URL, in their order.

        A page has content, or a `fault`; a URL for which no node could be had has its error instead. `age_s_max`: a
        copy that a node has will do, if it is no older. `timeout_s` is for each page. Raises what `chat` raises.
        """
        urls = (urls,) if isinstance(urls, str) else tuple(urls)
        check_urls(urls)
        job = ScrapeJob(
            model=model,
            urls=urls,
            form=form,
            main_only=main_only,
            links=links,
            timeout_s=timeout_s,
            age_s_max=age_s_max,
            render=render,
            wait_ms=wait_ms,
        )
        await self.find(model, patience_s, Service.SCRAPE)
        return await self.run_scrape(job, NoBooks(), deadline_s=deadline_s)

    async def run(
        self,
        job: Job,
        emit: Emit,
        books: Books,
        *,
        deadline_s: float = DEADLINE_S,
        judge: Judge | None = None,
        digest: bytes | None = None,
        affinity: bytes = b"",
    ) -> Outcome:
        """One job, its pieces to `emit`, its money to `books`: what a gateway calls. See `cxp2p.net.ask.Asker.run`."""
        name = self._offered_as(service_of(job), job.model)
        job = job if name == job.model else replace(job, model=name)
        return await self._asker.run(
            job, emit, books, deadline_s=deadline_s, judge=judge, digest=digest, affinity=affinity
        )

    async def run_embed(
        self,
        model: str,
        inputs: Sequence[Input],
        books: Books,
        *,
        truncate: bool = True,
        deadline_s: float = DEADLINE_S,
        at_once: int = AT_ONCE_MAX,
        took: Took | None = None,
    ) -> Embeddings:
        """Vectors, their money to `books`: what a gateway calls. See `cxp2p.net.embedding.Embedder.run`."""
        model = self._offered_as(Service.EMBED, model)
        return await self._embedder.run(
            model, inputs, books, truncate=truncate, deadline_s=deadline_s, at_once=at_once, took=took
        )

    async def run_speech(
        self, voice: str, text: str, books: Books, hear: Hear, *, speed: float = 1.0, deadline_s: float = DEADLINE_S
    ) -> Spoken:
        """Speech, its money to `books`: what a gateway calls. See `cxp2p.net.speaking.Speaker.run`."""
        return await self._speaker.run(voice, text, books, hear, speed=speed, deadline_s=deadline_s)

    async def run_scrape(
        self,
        job: ScrapeJob,
        books: Books,
        *,
        deadline_s: float = DEADLINE_S,
        at_once: int = SCRAPES_AT_ONCE_MAX,
        took: Took | None = None,
    ) -> Scraped:
        """Web pages, their money to `books`: what a gateway calls. See `cxp2p.net.scraping.Scraper.run`."""
        return await self._scraper.run(job, books, deadline_s=deadline_s, at_once=at_once, took=took)

    async def find(self, model: str, patience_s: float = PATIENCE_S, service: Service = Service.CHAT) -> None:
        """Waits until a live node offers `model`, or what it is an alias of. Raises NoNode after `patience_s`."""
        names = {name_of(model, service), model}
        for name in names:
            self.discovery.want(service, name)
        with trio.move_on_after(patience_s):
            await self.discovery.until(lambda: any(self._is_offered(service, name) for name in names))
            return
        peers = len(self.network.connected())
        raise NoNode(f"no live node offered {model!r} in {patience_s:g} s ({peers} peers connected)")

    def _offered_as(self, service: Service, model: str) -> str:
        """What nodes call a model: its name where it is an alias, unless one offers just the alias."""
        name = name_of(model, service)
        return model if name == model or self._is_offered(service, model) else name

    def _is_offered(self, service: Service, model: str) -> bool:
        directory = self.discovery.directory
        return bool(directory.candidates(service, model, self._wall_ms(), trio.current_time()))


@asynccontextmanager
async def join(
    identity: Identity,
    network: Network,
    rng: random.Random,
    wall: Callable[[], int] = wall_ms,
    calendar: Calendar = HOURS,
    rhythm: Rhythm | None = None,
    papers: Papers | None = None,
) -> AsyncIterator[Net]:
    """A `Net` over a network that is already open: what `connect`, the gateway and the tests build on.

    `papers`: where orders are kept for claims of their nodes; without, the newest are, in memory.
    """
    directory = Directory()
    discovery = Discovery(network, directory, wall, rng, watching=True, rhythm=rhythm)
    async with background() as nursery:
        nursery.start_soon(discovery.run)
        asker = Asker(identity, network, discovery, wall, rng, calendar, papers)
        yield Net(network, discovery, asker, wall, rng)


@asynccontextmanager
async def connect(
    bootstrap: Sequence[str],
    *,
    identity: Identity | None = None,
    listen: Sequence[str] = ("/ip4/127.0.0.1/tcp/0",),
    calendar: Calendar = HOURS,
) -> AsyncIterator[Net]:
    """Joins the network through `bootstrap`: addresses that end in /p2p/<peer id>. Leaving the block leaves cleanly.

    Without an `identity` a fresh one is used for this visit. `calendar`: the network's, if its epochs are no hours.
    """
    from cxp2p.net.libp2p import open_network  # noqa: PLC0415  # libp2p takes 0.5 s to import; only who connects pays

    identity = identity or new_identity()
    async with (
        open_network(
            identity,
            listen=tuple(listen),
            bootstrap=tuple(bootstrap),
            dht_server=False,
            offer_validator=offer_sequence,
        ) as network,
        join(identity, network, random.SystemRandom(), calendar=calendar) as net,
    ):
        yield net
