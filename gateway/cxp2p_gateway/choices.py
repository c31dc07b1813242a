"""The jobs of one chat request: one for each choice, at the same time, and each answer looked at before it counts.

The first that fails ends all: an answer with a choice missing is none.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

import trio

from cxp2p.client import Judge, Outcome
from cxp2p.errors import AnswerRefused, CxError, JobFailed
from cxp2p.records import AnswerForm, FailureCode, Finish, Piece
from cxp2p_gateway import openai
from cxp2p_gateway.asking import Door
from cxp2p_gateway.exchange import Exchange
from cxp2p_gateway.faults import Condition, Fault, cut_of, fault_of
from cxp2p_gateway.openai import ChatAsk
from cxp2p_gateway.schemas import CheckerDown, Schemas, Uncheckable
from cxp2p_gateway.waiting import BUSY_RETRY_S

ANSWER_BYTES_MAX: Final = 16 * 1024 * 1024  # held of one request's answers: as much as a request may be
REFUSALS_MAX: Final = 1  # of answers that are not what they must be, before the client is told
NOBODY_ELSE: Final = (Condition.NO_NODE, Condition.OVERLOADED, Condition.UPSTREAM_FAILED)


@dataclass(slots=True)
class Choice:
    """One job on its way, and how it ended. `whole`: what it said, where that is held.

    `refused`: how many answers before it were not what they had to be; `problem`: what was wrong with the last one.
    `unchecked`: why nobody can tell.
    """

    index: int
    whole: openai.Whole | None = None
    pieces: int = 0
    called: bool = False
    reasoning: int = 0
    first_piece_s: float = 0.0
    refused: int = 0
    problem: str = ""
    unchecked: Fault | None = None
    outcome: Outcome | None = None
    reason: str = ""


Take: TypeAlias = Callable[[Choice, Piece], Awaitable[None]]
"""Takes a piece of a choice; waits while the reader does not read."""

Ended: TypeAlias = Callable[[Choice], Awaitable[None]]
"""Is told of a choice that is whole."""


@dataclass(slots=True)
class Work:
    """All jobs of one request: when they must be done, and what went wrong first."""

    ask: ChatAsk
    exchange: Exchange
    generation: str
    created_s: int
    wants_cx: bool
    wait_s: float
    deadline_s: float
    choices: tuple[Choice, ...]
    fault: Fault | None = None
    limit: trio.CancelScope = field(default_factory=trio.CancelScope)

    def fail(self, fault: Fault) -> None:
        """Ends all jobs; what went wrong first is what is told."""
        if self.fault is None:
            self.fault = fault
            self.limit.cancel()

    @property
    def outcomes(self) -> list[Outcome]:
        """How each choice was answered; only for work that is done."""
        return [choice.outcome for choice in self.choices if choice.outcome is not None]

    @property
    def cx(self) -> object:
        """What a client is told of how its answer came about, if it wants to know; of several choices a list."""
        if not self.wants_cx:
            return None
        told = [openai.cx_object(each.outcome, each.refused) for each in self.choices if each.outcome is not None]
        return told if len(self.choices) > 1 else told[0]

    @property
    def usage(self) -> dict[str, object]:
        settlements = [outcome.settlement for outcome in self.outcomes]
        return openai.usage(settlements, sum(choice.reasoning for choice in self.choices))


async def refuse_bad_schemas(ask: ChatAsk, schemas: Schemas) -> None:
    """Raises Fault for a schema against which no answer can be checked, before any job begins."""
    for rule in ask.demand.rules:
        try:
            problem = await schemas.refusal(rule.schema)
        except CheckerDown as error:
            raise _unchecked(error, ask) from None
        if problem:
            raise Fault(Condition.SCHEMA_INVALID, rule.param, {"problem": problem})


def _unchecked(error: Uncheckable | CheckerDown, ask: ChatAsk) -> Fault:
    """What the client is told of an answer that nobody can check: it is its schema, or this gateway is too busy."""
    if isinstance(error, CheckerDown):
        return Fault(Condition.OVERLOADED, None, {"model": ask.job.model}, BUSY_RETRY_S)
    param = next((rule.param for rule in ask.demand.rules), ask.form_param)
    return Fault(Condition.SCHEMA_INVALID, param, {"problem": str(error)})


async def run_choices(work: Work, door: Door, schemas: Schemas, take: Take, ended: Ended) -> None:
    """Does all jobs, and leaves in `work` how they ended; no fault and no outcome there: time ran out."""
    started_at = trio.current_time()
    with work.limit:
        work.limit.deadline = started_at + work.wait_s
        async with trio.open_nursery() as nursery:
            for choice in work.choices:
                nursery.start_soon(_Run(work, choice, door, schemas, take, started_at).until_whole, ended)


@dataclass(frozen=True, slots=True)
class _Run:
    """One choice being made."""

    work: Work
    choice: Choice
    door: Door
    schemas: Schemas
    take: Take
    started_at: float

    async def until_whole(self, ended: Ended) -> None:
        """Until the choice is whole and right, or has failed."""
        try:
            while not await self._is_right():
                pass
        except CxError as error:
            self.work.fail(self._fault_of(error))
        if self.choice.reason:
            await ended(self.choice)

    async def _is_right(self) -> bool:
        """Does the job once. False: the answer was not what it must be, and another may be asked for."""
        work, choice = self.work, self.choice
        try:
            self._end(await self._once())
        except AnswerRefused as error:
            choice.problem = str(error)
            if work.ask.stream or choice.refused == REFUSALS_MAX:
                raise
            choice.refused += 1
            choice.whole, choice.called, choice.reasoning = openai.Whole(), False, 0
            return False
        return True

    async def _once(self) -> Outcome:
        caller = self.work.exchange.caller
        assert caller is not None
        return await self.door.run(
            replace(caller, affinity=self.work.ask.affinity),
            self.work.generation,
            self.work.ask.job_of(self.choice.index),
            self._piece,
            deadline_s=self.work.deadline_s,
            judge=self._judge() if self.work.ask.demand else None,
        )

    async def _piece(self, piece: Piece) -> None:
        work, choice = self.work, self.choice
        if not any(each.pieces for each in work.choices):
            work.limit.deadline = self.started_at + work.deadline_s
        if not choice.pieces:
            choice.first_piece_s = trio.current_time() - self.started_at
        choice.pieces += 1
        choice.called = choice.called or bool(piece.calls)
        choice.reasoning += openai.reasoning_units(piece)
        if choice.whole is not None:
            choice.whole.take(piece)
            if sum(each.whole.size for each in work.choices if each.whole is not None) > ANSWER_BYTES_MAX:
                raise JobFailed(FailureCode.INTERNAL, "the answer is larger than the gateway holds")
        await self.take(choice, piece)

    def _judge(self) -> Judge:
        async def judge(finish: Finish) -> str:
            """An answer that had no room to end is not judged: that it is cut off is told as it is."""
            whole = self.choice.whole
            if finish is not Finish.STOP or whole is None:
                return ""
            for claim in self.work.ask.demand.claims(whole.text, whole.calls):
                try:
                    problem = claim if isinstance(claim, str) else await self.schemas.breach(*claim)
                except (Uncheckable, CheckerDown) as error:  # which is not the node's fault: it is paid
                    self.choice.unchecked = _unchecked(error, self.work.ask)
                    return ""
                if problem:
                    return problem
            return ""

        return judge

    def _fault_of(self, error: CxError) -> Fault:
        """What the client is told; raises the error if it is our own fault."""
        exchange, choice, model = self.work.exchange, self.choice, self.work.ask.job.model
        if exchange.streaming and choice.pieces:
            fault = cut_of(error)
        else:
            fault = fault_of(error, model, self.door.knows(model))
        if fault is None:
            raise error
        if isinstance(error, AnswerRefused) or (choice.refused and fault.condition in NOBODY_ELSE):
            return Fault(Condition.SCHEMA_VIOLATED, None, {"problem": choice.problem})
        if fault.condition is Condition.SCHEMA_INVALID:
            only_tools = self.work.ask.job.form is AnswerForm.TEXT  # there is no other schema
            return Fault(fault.condition, "tools" if only_tools else self.work.ask.form_param, fault.words)
        if fault.condition is Condition.CONTEXT_EXCEEDED:
            return Fault(fault.condition, self.work.ask.input_param, fault.words)
        return fault

    def _end(self, outcome: Outcome) -> None:
        work, choice = self.work, self.choice
        reason = openai.finish_reason(outcome.settlement, called=choice.called, older_calls=work.ask.older_calls)
        if choice.unchecked is not None:
            work.fail(choice.unchecked)
        elif reason is None:
            streaming = work.exchange.streaming
            work.fail(Fault(Condition.UPSTREAM_CUT if streaming else Condition.UPSTREAM_FAILED))
        else:
            choice.outcome, choice.reason = outcome, reason
