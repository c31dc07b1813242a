"""A day of a network of programs: callers ask all day long, and programs drain, crash and come back under them."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from random import Random
from typing import Final

import trio

from cxp2p.net.rhythm import Rhythm
from simulations.calling import Answer
from simulations.layout import Layout
from simulations.programs import GatewayProgram, NodeProgram, Programs, run_programs

CALM_RHYTHM: Final = Rhythm(
    beat_s=600.0, exchange_s=600.0, peers_asked=1, lookup_s_max=600.0, turn_s=600.0, claim_s=600.0, tidy_s=600.0
)
CALM_LAYOUT: Final = Layout(rhythm=CALM_RHYTHM, upkeep_s=300.0)
AWAY_S: Final = (60.0, 600.0)  # how long a program that ended stays away
SETTLED_S: Final = 700.0  # after the day, until the last beat and exchange of the calm rhythm are over
HOURS_OF_DAY: Final = 24
WORDS_MAX: Final = 12
QUIETEST: Final = 0.3  # of the busiest hour's requests, in the hour opposite to it
BUSIEST_HOUR: Final = 15.0


class End(StrEnum):
    """How a request ended for its caller. `WRONG` is what must never be: neither an answer nor a clear error."""

    ANSWERED = "answered"
    REFUSED = "refused"  # a status and a reason
    BROKEN = "broken"  # a stream that ends with an error event
    LEFT = "left"  # the caller did
    CUT = "cut"  # its gateway died
    WRONG = "wrong"


class Trouble(StrEnum):
    """What befalls a program; afterwards it comes back, unless the day is over."""

    NODE_DRAINS = "node drains"
    NODE_CRASHES = "node crashes"
    GATEWAY_DRAINS = "gateway drains"
    GATEWAY_CRASHES = "gateway crashes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request: when, through which gateway, of how many words; and after how long its caller leaves, if it does."""

    at_s: float
    gateway: int
    words: int
    streamed: bool
    leave_after_s: float | None

    @property
    def text(self) -> str:
        """What is asked, and is to come back."""
        return " ".join(f"word-{number}" for number in range(self.words))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A day. `crowd`: so many requests come within half a second, at noon. `troubles`: so many of each kind."""

    layout: Layout = CALM_LAYOUT
    hours: float = 24.0
    requests: int = 1000
    crowd: int = 300
    troubles: int = 3


@dataclass(slots=True)
class Day:
    """What came of a day. `ends`: how requests ended; `statuses`: of those refused; `booked`: how orders ended.

    `tasks`: how many ran before and after it. `digest`: of all that callers got and when, for comparing two days.
    """

    ends: Counter[End] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    troubles: Counter[Trouble] = field(default_factory=Counter)
    booked: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    tasks: tuple[int, int] = (0, 0)
    ended_at_s: float = 0.0
    digest: str = ""


def traffic(plan: Plan) -> list[Request]:
    """The requests of a day, in order: more by day than by night, one in three streamed, one in ten left early."""
    rng = Random(f"{plan.layout.seed} traffic")
    times = sorted(_moment(rng, plan.hours) for _ in range(plan.requests))
    noon_s = plan.hours * 1800
    times += [noon_s + rng.uniform(0, 0.5) for _ in range(plan.crowd)]
    return [
        Request(
            at_s=at_s,
            gateway=rng.randrange(plan.layout.gateways),
            words=rng.randint(1, WORDS_MAX),
            streamed=rng.random() < 1 / 3,
            leave_after_s=rng.uniform(0.05, 0.6) if rng.random() < 0.1 else None,
        )
        for at_s in sorted(times)
    ]


def _moment(rng: Random, hours: float) -> float:
    while True:
        at_h = rng.uniform(0, hours)
        wave = (1 + math.cos((at_h - BUSIEST_HOUR) / HOURS_OF_DAY * 2 * math.pi)) / 2
        if rng.random() < QUIETEST + (1 - QUIETEST) * wave:
            return at_h * 3600


def live(plan: Plan) -> Day:
    """Lives through a day, and says what came of it; the same plan gives the same day."""
    return run_programs(plan.layout, _Living(plan).run)


class _Living:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.day = Day()
        self._told: list[str] = []
        self._rng = Random(f"{plan.layout.seed} troubles")

    async def run(self, programs: Programs) -> Day:
        """The whole day: requests and troubles side by side, then rest, then the accounts of it."""
        day = self.day
        await trio.sleep(SETTLED_S)
        before = trio.lowlevel.current_statistics().tasks_living
        async with trio.open_nursery() as nursery:
            for trouble in Trouble:
                for _ in range(self.plan.troubles):
                    at_s = self._rng.uniform(0.02, 0.95) * self.plan.hours * 3600
                    nursery.start_soon(self._trouble, programs, trouble, programs.now + at_s)
            began = programs.now
            for request in traffic(self.plan):
                await trio.sleep(max(0.0, began + request.at_s - programs.now))
                nursery.start_soon(self._request, programs.gateways[request.gateway], request)
        await programs.calm()
        await programs.settled()
        await trio.sleep(SETTLED_S)
        day.faults = await programs.faults()
        day.tasks = (before, trio.lowlevel.current_statistics().tasks_living)
        day.booked = await programs.booked()
        day.ended_at_s = programs.now
        day.digest = sha256("\n".join(self._told).encode()).hexdigest()
        return day

    async def _request(self, gateway: GatewayProgram, request: Request) -> None:
        answer = await gateway.ask(request.text, streamed=request.streamed, leave_after_s=request.leave_after_s)
        end = end_of(request, answer)
        self.day.ends[end] += 1
        if end is End.REFUSED:
            self.day.statuses[answer.status] += 1
        if end is End.WRONG:
            self.day.wrong.append(f"{request}: {answer.status} {answer.body[:300]!r}")
        self._told.append(f"{trio.current_time():.6f} {request.at_s} {end} {answer.status} {answer.parts}")

    async def _trouble(self, programs: Programs, trouble: Trouble, at_s: float) -> None:
        await trio.sleep(at_s - programs.now)
        of_nodes = trouble in (Trouble.NODE_DRAINS, Trouble.NODE_CRASHES)
        program = self._victim(programs.nodes if of_nodes else programs.gateways)
        if program is None:
            return
        self.day.troubles[trouble] += 1
        if trouble in (Trouble.NODE_DRAINS, Trouble.GATEWAY_DRAINS):
            await program.stop()
        else:
            await program.crash()
        await trio.sleep(self._rng.uniform(*AWAY_S))
        await program.start()

    def _victim(
        self, programs: tuple[NodeProgram, ...] | tuple[GatewayProgram, ...]
    ) -> NodeProgram | GatewayProgram | None:
        """One of those with the most work: trouble comes in the middle of it."""
        up = [program for program in programs if program.is_up and not program.is_leaving]
        busiest = max((program.running for program in up), default=0)
        return self._rng.choice([program for program in up if program.running == busiest]) if up else None


def end_of(request: Request, answer: Answer) -> End:
    """What a caller has in hand."""
    if answer.cut:
        return End.CUT
    if answer.left:
        return End.LEFT
    if not answer.complete:
        return End.WRONG
    if request.streamed and answer.status == 200:
        return _end_of_stream(request, answer.events())
    body = answer.json()
    if answer.status == 200:
        return End.ANSWERED if body["choices"][0]["message"]["content"] == request.text else End.WRONG
    is_clear = isinstance(body, dict) and bool(body.get("error"))
    return End.REFUSED if answer.status in CLEAR_STATUSES and is_clear else End.WRONG


CLEAR_STATUSES: Final = frozenset({429, 502, 503, 504})  # nothing here is the caller's own fault


def _end_of_stream(request: Request, events: list[object]) -> End:
    told = [event for event in events if isinstance(event, dict)]
    if any("error" in event for event in told):
        return End.BROKEN
    choices = [choice for event in told for choice in event["choices"]]
    text = "".join(choice["delta"].get("content") or "" for choice in choices)
    return End.ANSWERED if text == request.text and events[-1] == "[DONE]" else End.WRONG
