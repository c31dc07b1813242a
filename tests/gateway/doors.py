"""What stands behind and before the HTTP front in its tests: a Door in memory, and a client that speaks ASGI."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
import trio
from starlette.types import ASGIApp, Message

from cxp2p.client import Embeddings, Emit, Hear, Judge, Outcome, Scraped, Settlement, Spoken, Took
from cxp2p.embed import Input
from cxp2p.errors import AnswerRefused, NoNode
from cxp2p.receipts import digest
from cxp2p.records import (
    ChatJob,
    Countersign,
    Finish,
    Job,
    Order,
    Piece,
    Prices,
    Receipt,
    ScrapeJob,
    Service,
    Verdict,
)
from cxp2p_gateway.asking import Caller, ModelCard
from cxp2p_gateway.exchange import Outside
from cxp2p_gateway.faults import Base, Fault, row_of, text_of
from cxp2p_gateway.http import Front, make_app
from cxp2p_gateway.metrics import Metrics
from cxp2p_gateway.openai import chat_ask
from cxp2p_gateway.origins import CrowdRules
from cxp2p_gateway.schemas import Schemas
from cxp2p_gateway.waiting import Patience
from ledgers import WALL_MS as WALL_MS
from ledgers import MemoryBooks

KEY = "sk-cx-0001 with spaces"
OTHER_KEY = "sk-cx-0002"
USER = "user-1"
NODE = "12D3KooWAbCdEfGhIjKlMnOpQrStUvWxYz"
PRICES = Prices(input=150_000, output=600_000)

Work = Callable[[ChatJob, Emit], Awaitable[Finish]]
"""What a node does with a job: emits pieces, raises an error, or waits."""


def piece(text: str) -> Piece:
    return Piece(text=text, token_ids=tuple(range(len(text))))


def says(*texts: str, pause_s: float = 0.0, finish: Finish = Finish.STOP) -> Work:
    """A node that says these texts, with a pause before each."""

    async def work(job: ChatJob, emit: Emit) -> Finish:
        for text in texts:
            await trio.sleep(pause_s)
            await emit(piece(text))
        return finish

    return work


def fails(error: Exception, *texts: str, after_s: float = 0.0) -> Work:
    """A node that says these texts and then fails."""

    async def work(job: ChatJob, emit: Emit) -> Finish:
        for text in texts:
            await emit(piece(text))
        await trio.sleep(after_s)
        raise error

    return work


async def hangs(job: ChatJob, emit: Emit) -> Finish:
    """A node that says nothing, ever."""
    await trio.sleep_forever()


@dataclass
class Run:
    """One call of `Door.run`, and when and how it ended."""

    caller: Caller
    generation: str
    job: ChatJob
    deadline_s: float
    ended_at: float | None = None
    cancelled: bool = False


@dataclass
class MemoryDoor(MemoryBooks):
    """A Door that keeps everything in memory and does each job with `work`."""

    work: Work = field(default_factory=lambda: says("Hello", " there"))
    keys: dict[str, tuple[Caller, str]] = field(
        default_factory=lambda: {
            KEY: (Caller(account="account-1", key="key-1"), USER),
            OTHER_KEY: (Caller(account="account-2", key="key-2"), "user-2"),
        }
    )
    cards: tuple[ModelCard, ...] = ()
    known: set[str] = field(default_factory=lambda: {"smollm2:135m", "asleep:1b"})
    runs: list[Run] = field(default_factory=list)
    kept: dict[str, list[tuple[str, Settlement]]] = field(default_factory=dict)

    async def authenticate(self, token: str, user_id: str | None) -> Caller | None:
        await trio.lowlevel.checkpoint()
        caller, owner = self.keys.get(token, (None, None))
        return caller if user_id in (None, owner) else None

    def models(self) -> tuple[ModelCard, ...]:
        return self.cards

    def knows(self, model: str) -> bool:
        return model in self.known

    def ready(self) -> bool:
        return bool(self.cards)

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
        assert isinstance(job, ChatJob)
        run = Run(caller, generation, job, deadline_s)
        self.runs.append(run)
        try:
            if job.model != "smollm2:135m":
                raise NoNode(job.model)
            finish = await self.work(job, emit)
        except trio.Cancelled:
            run.cancelled = True
            raise
        finally:
            run.ended_at = trio.current_time()
        fault = await judge(finish) if judge is not None else ""
        outcome = outcome_of(finish)
        self.kept.setdefault(generation, []).append((caller.account, outcome.settlement))
        if fault:
            raise AnswerRefused(fault)
        return outcome

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
        raise NoNode(model)

    async def speak(
        self, caller: Caller, generation: str, voice: str, text: str, hear: Hear, *, speed: float, deadline_s: float
    ) -> Spoken:
        raise NoNode(voice)

    async def scrape(
        self, caller: Caller, generation: str, job: ScrapeJob, *, took: Took, deadline_s: float
    ) -> Scraped:
        raise NoNode(job.model)

    async def receipts(self, caller: Caller, generation: str) -> tuple[Settlement, ...]:
        await trio.lowlevel.checkpoint()
        kept = self.kept.get(generation, [])
        return tuple(settlement for account, settlement in kept if account == caller.account)


RECEIPT = digest(b"receipt envelope").hex()  # how that of `settlement_of` is named


def outcome_of(finish: Finish = Finish.STOP) -> Outcome:
    return Outcome(
        node=NODE, attempts=2, queued_ms=3, found_via="dht", lookup_ms=41, settlement=settlement_of(finish=finish)
    )


def settlement_of(finish: Finish = Finish.STOP) -> Settlement:
    order = Order(
        order_id=b"o" * 16,
        gateway="12D3KooWGateway",
        node=NODE,
        lane=b"l" * 16,
        seq=1,
        epoch=2,
        service=Service.CHAT,
        model="smollm2:135m",
        model_digest=b"m" * 32,
        request_commit=b"r" * 32,
        max_in=100,
        max_out=200,
        prices=PRICES,
        max_charge=1000,
        expires_at_ms=WALL_MS,
        seed=2**62 + 1,
        prev_receipt=None,
        cum_authorised=1000,
        resume_of=None,
        offset=None,
    )
    receipt = Receipt(
        order_hash=b"h" * 32,
        gateway=order.gateway,
        node=NODE,
        owner="",
        lane=order.lane,
        seq=1,
        epoch=2,
        service=Service.CHAT,
        model_digest=order.model_digest,
        runtime="echo",
        in_units=10,
        cached_units=4,
        out_units=20,
        t_accept_ms=1,
        t_first_ms=2,
        t_end_ms=3,
        finish=finish,
        request_commit=order.request_commit,
        output_commit=b"c" * 32,
        seed=order.seed,
        resume_of=None,
        offset=None,
        charge=14,
        cum_charge=14,
        prev_receipt=None,
    )
    countersign = Countersign(
        receipt_hash=b"H" * 32, verdict=Verdict.ACCEPTED, reason="", in_units=10, out_units=20, charge=14
    )
    return Settlement(
        order=order,
        order_envelope=b"order envelope",
        receipt=receipt,
        receipt_envelope=b"receipt envelope",
        countersign=countersign,
        countersign_envelope=b"countersign envelope",
    )


def card(model: str = "smollm2:135m", **changes: Any) -> ModelCard:
    fields: dict[str, Any] = {
        "model": model,
        "service": Service.CHAT,
        "since_s": 1_690_000_000,
        "context_units": 2048,
        "output_units_max": 1024,
        "prices": PRICES,
        "nodes": 2,
        "first_piece_ms_p50": 120,
        "units_per_s_p50": 35,
    }
    return ModelCard(**{**fields, **changes})


def front(
    door: MemoryDoor,
    patience: Patience | None = None,
    seed: int = 1,
    schemas: Schemas | None = None,
    crowd_rules: CrowdRules | None = None,
    metrics: Metrics | None = None,
) -> Front:
    """The real front over `door`, with a wall clock that stands still and ids from a seed."""
    outside = Outside(wall_ms=lambda: WALL_MS, rng=Random(seed))
    return make_app(door, patience, outside=outside, schemas=schemas, crowd_rules=crowd_rules, metrics=metrics)


@dataclass
class Answer:
    """What an ASGI client got: `parts` with the time of each, `complete` once the body ended."""

    status: int = 0
    raw_headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    parts: list[tuple[float, bytes]] = field(default_factory=list)
    complete: bool = False

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.raw_headers}

    @property
    def body(self) -> bytes:
        return b"".join(data for _, data in self.parts)

    def json(self) -> Any:
        return json.loads(self.body)

    def events(self) -> list[Any]:
        """The stream's events, comments and names left out; [DONE] as the string it is."""
        datas = [line[6:] for line in self.body.decode().split("\n") if line.startswith("data: ")]
        return [data if data == "[DONE]" else json.loads(data) for data in datas]


async def ask(
    app: ASGIApp,
    method: str,
    path: str,
    *,
    headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
    body: bytes | Mapping[str, Any] = b"",
    parts: Sequence[tuple[float, bytes]] | None = None,
    leave_after_s: float | None = None,
    key: str | None = KEY,
    read_pause_s: float = 0.0,
) -> Answer:
    """One request, in memory.

    `parts`: the body in pieces with a pause before each. `leave_after_s`: the client is gone then. `read_pause_s`: it
    takes that long to take each part of the answer.
    """
    pairs = list(headers.items() if isinstance(headers, Mapping) else headers)
    names = {name.lower() for name, _ in pairs}
    if key is not None and "authorization" not in names:
        pairs.append(("authorization", f"Bearer {key}"))
    if isinstance(body, Mapping):
        body = json.dumps(body).encode()
        if "content-type" not in names:
            pairs.append(("content-type", "application/json"))
    pending = list(parts) if parts is not None else [(0.0, body)]
    answer = Answer()
    leaving = trio.current_time() + leave_after_s if leave_after_s is not None else float("inf")

    async def receive() -> Message:
        if pending:
            pause_s, data = pending.pop(0)
            with trio.move_on_at(leaving):
                await trio.sleep(pause_s)
                return {"type": "http.request", "body": data, "more_body": bool(pending)}
        await trio.sleep_until(leaving)
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        await trio.sleep(read_pause_s)
        if message["type"] == "http.response.start":
            assert answer.status == 0
            answer.status, answer.raw_headers = message["status"], list(message["headers"])
        else:
            assert answer.status
            assert not answer.complete
            answer.parts.append((trio.current_time(), message.get("body", b"")))
            answer.complete = not message.get("more_body", False)

    raw_path, _, query = path.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": raw_path,
        "raw_path": raw_path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in pairs],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    await app(scope, receive, send)
    return answer


CHAT = "/api/v1/chat/completions"


def chat_body(**changes: Any) -> dict[str, Any]:
    """A chat request where only what matters to a test is said."""
    return {"model": "smollm2:135m", "messages": [{"role": "user", "content": "Hi"}], **changes}


def refusal(body: dict[str, Any]) -> tuple[str, str | None, str]:
    """Code, param and text that a body is refused with."""
    with pytest.raises(Fault) as caught:
        chat_ask(body)
    fault = caught.value
    return row_of(fault, Base.ALIAS).code, fault.param, text_of(fault, Base.ALIAS)
