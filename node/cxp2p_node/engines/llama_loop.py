"""What a worker does all day: steps the model over all running jobs, and listens between the steps."""

from __future__ import annotations

import queue
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO, TypeAlias

from cxp2p.records import FailureCode, Finish, Logprob, ToolMode
from cxp2p_node.engines.constraints import Constraint, GrammarError
from cxp2p_node.engines.frames import Alive, Counted, Credit, Done, Made, Message, Start, Stop, pack
from cxp2p_node.engines.llama_model import Decoded, Model
from cxp2p_node.engines.llama_sampler import Sampler
from cxp2p_node.engines.marks import ToolFormat
from cxp2p_node.engines.output import Output
from cxp2p_node.engines.pace import Pace
from cxp2p_node.engines.prepare import Prepared, failed
from cxp2p_node.engines.slots import Part, Slots

COALESCE_S = 0.02  # with several streams, so that frames do not grow with load
BEAT_S = 5.0

Inbox: TypeAlias = "queue.SimpleQueue[Message | Prepared]"


@dataclass(slots=True, eq=False)
class Job:
    """One job in a slot, or waiting for one."""

    start: Start
    prompt: tuple[int, ...]
    salt: bytes
    sampler: Sampler
    output: Output
    constraint: Constraint | None
    logprobs: int | None
    credit: int
    slot: int = -1
    counted: bool = False
    sent_at: float = 0.0


class Loop:
    """All jobs of one model. `run` never returns."""

    def __init__(self, model: Model, pace: Pace, tools: ToolFormat, slots: int, inbox: Inbox, out: BinaryIO) -> None:
        self._model = model
        self._pace = pace
        self._tools = tools
        self._slots = Slots(slots, model.context_units, cuts=model.cuts)
        self._inbox = inbox
        self._out = out
        self._jobs: dict[int, Job] = {}
        self._waiting: list[Job] = []
        self._gone: set[int] = set()  # stopped while their prompts were being read
        self._newest = -1  # job numbers rise, and prompts are read in order
        self._outbox: list[bytes] = []
        self._beat_at = time.monotonic()

    def run(self) -> None:
        while True:
            self.turn()

    def turn(self) -> None:
        """One token for each who generates, a batch of prompts, and what was said meanwhile."""
        self._listen()
        self._copy()
        self._seat()
        self._copy()
        self._step()
        self._flush()  # what was drawn does not wait for the prompts
        self._read()
        self._beat()
        self._flush()

    # Listening.

    def _listen(self) -> None:
        """Takes in what was said meanwhile; waits for something if there is nothing to do."""
        idle = not self._slots.runnable() and not (self._waiting and self._slots.free())
        try:
            while True:
                self._hear(self._inbox.get(block=idle, timeout=BEAT_S))
                idle = False
        except queue.Empty:
            return

    def _hear(self, message: Message | Prepared) -> None:
        match message:
            case Prepared():
                self._newest = message.start.job
                self._enter(message)
                self._gone = {number for number in self._gone if number > self._newest}
            case Credit(job=number, pieces=pieces) if number in self._jobs:
                self._jobs[number].credit += pieces
                self._send_pending(self._jobs[number])
            case Stop(job=number) if number in self._jobs:
                self._end(self._jobs[number], None)
            case Stop(job=number) if number > self._newest:
                self._gone.add(number)

    def _enter(self, ready: Prepared) -> None:
        if ready.start.job in self._gone:
            self._gone.discard(ready.start.job)
            return
        if ready.chat is None:
            assert ready.fault is not None
            self._say(ready.fault)
            return
        chat = ready.chat
        calls = bool(chat.tools) and chat.tool_mode is not ToolMode.NONE
        job = Job(
            start=ready.start,
            prompt=ready.prompt,
            salt=chat.cache_salt,
            sampler=self._model.sampler(chat.sampling, ready.start.seed),
            output=Output(chat.stop, self._tools, calls=calls, thinking=ready.thinking),
            constraint=ready.constraint,
            logprobs=chat.logprobs,
            credit=ready.start.credit,
        )
        self._jobs[ready.start.job] = job
        self._waiting.append(job)

    def _seat(self) -> None:
        while self._waiting and self._slots.free():
            job = self._waiting.pop(0)
            job.slot, kept = self._slots.admit(job.start.job, job.prompt, job.salt)
            if not self._model.forget(job.slot, kept):
                self._slots.emptied(job.slot)

    def _copy(self) -> None:
        """Gives prompts the beginnings that others have computed."""
        copies = self._slots.copies()
        worked = self._model.copy(copies) if copies else []
        for copy in copies:
            if copy in worked:
                self._slots.copied(copy)
            else:
                self._slots.emptied(copy.target)

    # Working.

    def _step(self) -> None:
        """One token for each generating sequence."""
        parts = self._slots.steps()
        if parts:
            begun = time.monotonic()
            if self._run(parts):
                self._pace.stepped(len(parts), time.monotonic() - begun)

    def _read(self) -> None:
        """A batch of prompts."""
        generating = len(self._slots.generating())
        parts = self._slots.prompts(self._pace.prompt_tokens(generating))
        if not parts:
            return
        for part in parts:
            self._count(self._job_of(part))
        begun = time.monotonic()
        if self._run(parts):
            tokens = sum(len(part.tokens) for part in parts)
            self._pace.prompted(tokens, generating, time.monotonic() - begun)

    def _count(self, job: Job) -> None:
        if not job.counted:
            job.counted = True
            reused = self._slots.slots[job.slot].reused
            self._say(Counted(job=job.start.job, in_units=len(job.prompt), cached_units=reused))

    def _job_of(self, part: Part) -> Job:
        return self._jobs[self._slots.slots[part.slot].job]

    def _run(self, parts: Sequence[Part]) -> bool:
        """Decodes a batch and draws what comes next. False if it was not decoded as a whole."""
        self._model.brake.watch([self._slots.slots[part.slot].job for part in parts])
        match self._model.decode(parts):
            case Decoded.STOPPED:
                return False  # its jobs' ends are in the inbox
            case Decoded.NO_ROOM:
                self._find_room(parts)
                return False
        self._slots.done(parts)
        drawn: list[tuple[Job, int, Logprob | None]] = []
        for output, part in enumerate(part for part in parts if part.output):
            job = self._job_of(part)
            try:
                drawn.append((job, *self._draw(job, output)))
            except GrammarError as error:
                self._say(failed(job.start, FailureCode.SCHEMA_INVALID, str(error)))
                self._end(job, None)
        now = time.monotonic()
        crowded = self._slots.busy() > 1
        for job, token, logprob in drawn:
            self._take(job, token, logprob, now, crowded)
        return True

    def _find_room(self, parts: Sequence[Part]) -> None:
        """One sequence after the other; the job of one that has no room even then is at its end."""
        if len(parts) > 1:
            for part in parts:
                self._run([part])
            return
        job = self._job_of(parts[0])
        if job.output.made:
            self._end(job, Finish.LENGTH)
        else:
            self._say(failed(job.start, FailureCode.INTERNAL, "llama.cpp has no room for the prompt"))
            self._end(job, None)

    def _draw(self, job: Job, output: int) -> tuple[int, Logprob | None]:
        """The next token of a job, and how likely it was if that was asked for."""
        if job.constraint is None and job.logprobs is None:
            return self._model.sample(job.sampler, output), None
        logits = self._model.logits(output)
        before = logits.copy() if job.logprobs is not None else None
        if job.constraint is not None:
            job.constraint.apply(logits)
        token = self._model.sample(job.sampler, output)
        if job.constraint is not None:
            token = job.constraint.steer(token, self._left(job))
            job.constraint.take(token)
        if before is None or job.logprobs is None or self._model.ends(token):
            return token, None
        return token, self._model.logprob(before, token, job.logprobs)

    def _left(self, job: Job) -> int:
        """How many more tokens the job may have, by its order and by its context."""
        held = self._slots.slots[job.slot].held
        return min(job.start.max_out - job.output.made, self._slots.context_units - held - 1)

    def _take(self, job: Job, token: int, logprob: Logprob | None, now: float, crowded: bool) -> None:
        if self._model.ends(token):
            job.output.end_mark(token)
            self._end(job, Finish.STOP)
            return
        job.output.take(token, self._model.piece(token), logprob)
        if job.output.stopped or (job.constraint is not None and job.constraint.complete):
            self._end(job, Finish.STOP)
        elif job.output.made >= job.start.max_out or not self._slots.sampled(job.slot, token):
            self._end(job, Finish.LENGTH)
        else:
            soon = crowded and job.sent_at and now - job.sent_at < COALESCE_S
            if not soon:
                self._send_pending(job)
            self._slots.slots[job.slot].paused = job.credit <= 0

    def _send_pending(self, job: Job, *, last: bool = False) -> None:
        """Sends what is whole. Without credit it waits, and the slot with it: a slow reader holds up only itself."""
        if last or (job.credit > 0 and job.output.ready):
            piece = job.output.piece()
            if piece is not None:
                self._say(Made(job=job.start.job, piece=piece))
                job.credit -= 1
                job.sent_at = time.monotonic()
        if job.slot >= 0:
            self._slots.slots[job.slot].paused = job.credit <= 0

    def _end(self, job: Job, finish: Finish | None) -> None:
        """Ends a job: with its last piece and how it finished, or silently if it was stopped."""
        if finish is not None:
            job.output.end()
            self._send_pending(job, last=True)
            self._say(Done(job=job.start.job, finish=finish))
        if job.slot >= 0:
            self._slots.release(job.slot)
        else:
            self._waiting.remove(job)
        job.sampler.close()
        del self._jobs[job.start.job]

    # Speaking.

    def _say(self, message: Message) -> None:
        self._outbox.append(pack(message))

    def _beat(self) -> None:
        now = time.monotonic()
        if now - self._beat_at >= BEAT_S:
            self._beat_at = now
            self._say(Alive())

    def _flush(self) -> None:
        if self._outbox:
            self._out.write(b"".join(self._outbox))
            self._out.flush()
            self._outbox.clear()
