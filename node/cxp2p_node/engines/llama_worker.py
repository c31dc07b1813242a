"""The process that holds a llama.cpp model: jobs in on standard input, pieces out on standard output.

Run by `engines.llama`, never by a person. It ends when standard input closes, whatever it is doing: an orphan must not
keep a model in memory.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

import jinja2
import llama_cpp

from cxp2p.errors import one_line
from cxp2p.records import FailureCode, Finish, Logprob, ToolMode
from cxp2p_node.engines.constraints import Constraint, GrammarError
from cxp2p_node.engines.frames import (
    Alive,
    Counted,
    Credit,
    Done,
    Frames,
    Loaded,
    Made,
    Message,
    Start,
    Stop,
    Unfit,
    pack,
)
from cxp2p_node.engines.llama_model import LoadError, Model, Sampler
from cxp2p_node.engines.output import Output
from cxp2p_node.engines.prepare import Desk, Prepared, Starts, failed
from cxp2p_node.engines.prompt import CHATML, ChatTemplate
from cxp2p_node.engines.segments import ToolFormat
from cxp2p_node.engines.slots import Phase, Slots

BATCH_MAX = 512
COALESCE_S = 0.02  # with several streams, so that frames do not grow with load
EXIT_UNFIT = 3
BEAT_S = 5.0


Inbox: TypeAlias = "queue.SimpleQueue[Message | Prepared]"


@dataclass(slots=True, eq=False)
class Job:
    """One job in a slot, or waiting for one."""

    start: Start
    prompt: tuple[int, ...]
    sampler: Sampler
    output: Output
    constraint: Constraint | None
    logprobs: int | None
    credit: int
    slot: int = -1
    sent_at: float = 0.0


class Worker:
    """Steps the model over all running jobs, and listens between the steps."""

    def __init__(self, model: Model, tools: ToolFormat, slots: int, inbox: Inbox, out: BinaryIO) -> None:
        self._model = model
        self._tools = tools
        self._slots = Slots(slots, model.context_units, BATCH_MAX)
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
            self._listen()
            self._seat()
            self._step()
            self._beat()
            self._flush()

    # Listening.

    def _listen(self) -> None:
        """Takes in what was said meanwhile; waits for something if there is nothing to do."""
        idle = not self._slots.plan() and not (self._waiting and self._slots.free())
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
        tools = self._tools if chat.tools and chat.tool_mode is not ToolMode.NONE else None
        job = Job(
            start=ready.start,
            prompt=ready.prompt,
            sampler=self._model.sampler(chat.sampling, ready.start.seed),
            output=Output(chat.stop, tools, thinking=ready.thinking),
            constraint=ready.constraint,
            logprobs=chat.logprobs,
            credit=ready.start.credit,
        )
        self._jobs[ready.start.job] = job
        self._waiting.append(job)

    def _seat(self) -> None:
        while self._waiting and self._slots.free():
            job = self._waiting.pop(0)
            job.slot, reused = self._slots.admit(job.start.job, job.prompt)
            self._model.forget(job.slot, reused)
            self._say(Counted(job=job.start.job, in_units=len(job.prompt), cached_units=reused))

    # Working.

    def _step(self) -> None:
        batch = self._slots.plan()
        if not batch:
            return
        begun = time.monotonic()
        self._model.decode(batch)
        outputs = [(self._jobs[self._slots.slots[take.slot].job], at) for at, take in enumerate(batch) if take.output]
        tokens: list[tuple[Job, int, Logprob | None]] = []
        lost: list[tuple[Job, GrammarError]] = []
        for job, at in outputs:
            try:
                tokens.append((job, *self._draw(job, at)))
            except GrammarError as error:
                lost.append((job, error))
        now = time.monotonic()
        self._slots.done(batch, now - begun)
        for job, fault in lost:
            self._say(failed(job.start, FailureCode.SCHEMA_INVALID, str(fault)))
            self._end(job, None)
        crowded = sum(slot.phase is not Phase.FREE for slot in self._slots.slots) > 1
        for job, token, logprob in tokens:
            self._take(job, token, logprob, now, crowded)

    def _draw(self, job: Job, at: int) -> tuple[int, Logprob | None]:
        """The next token of a job, and how likely it was if that was asked for."""
        if job.constraint is None and job.logprobs is None:
            return job.sampler.sample(at), None
        logits = self._model.logits(at)
        before = logits.copy() if job.logprobs is not None else None
        if job.constraint is not None:
            job.constraint.apply(logits)
        token = job.sampler.sample(at)
        if job.constraint is not None:
            token = job.constraint.steer(token, self._left(job))
            job.constraint.take(token)
        if before is None or job.logprobs is None or self._model.ends(token):
            return token, None
        return token, self._model.logprob(before, token, job.logprobs)

    def _left(self, job: Job) -> int:
        """How many more tokens the job may have, by its order and by its context."""
        cached = len(self._slots.slots[job.slot].cached)
        return min(job.start.max_out - job.output.made, self._slots.context_units - cached - 1)

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


def keep_preparing(starts: Starts, inbox: Inbox, desk: Desk) -> None:
    try:
        while True:
            inbox.put(desk.prepare(starts.get()))
    finally:
        os._exit(1)  # an error here is a bug, and it has been printed: the node starts a fresh worker


def listen(source: BinaryIO, starts: Starts, inbox: Inbox) -> None:
    """Reads commands until standard input closes, then ends the process, also in the middle of a decode."""
    frames = Frames()
    try:
        while data := os.read(source.fileno(), 1 << 16):
            for message in frames.feed(data):
                if isinstance(message, Start):
                    starts.put(message)
                    continue
                if isinstance(message, Stop):
                    starts.stop(message.job)
                inbox.put(message)
    finally:
        os._exit(0)


def warm_up(model: Model) -> None:
    """The first decode is slow: have it before the first job."""
    slots = Slots(1, model.context_units, BATCH_MAX)
    slots.admit(0, model.tokenize("Hello")[:8] or [0])
    model.decode(slots.plan())
    model.forget(0, 0)


def main() -> None:
    """`python -m cxp2p_node.engines.llama_worker '{"path": …, "slots": …, "context_units": …, …}'`."""
    settings = json.loads(sys.argv[1])
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # llama.cpp prints to standard output now and then; frames must stay alone
    inbox: Inbox = queue.SimpleQueue()
    starts = Starts()
    threading.Thread(target=listen, args=(sys.stdin.buffer, starts, inbox), daemon=True).start()
    try:
        model = Model(
            Path(settings["path"]),
            slots=settings["slots"],
            context_units=settings["context_units"],
            threads=settings["threads"],
            gpu_layers=settings["gpu_layers"],
            batch_max=BATCH_MAX,
        )
        source = model.template() or CHATML
        template = ChatTemplate(source, bos=model.bos(), eos=model.eos(), wall_s=time.time())
        warm_up(model)
    except (LoadError, jinja2.TemplateError) as error:
        out.write(pack(Unfit(reason=str(error)[:512])))
        out.flush()
        raise SystemExit(EXIT_UNFIT) from None
    runtime = f"llama.cpp {llama_cpp.__version__} {model.description()}"
    out.write(pack(Loaded(runtime=one_line(runtime, 128), context_units=model.context_units)))
    out.flush()
    threading.Thread(target=keep_preparing, args=(starts, inbox, Desk(model, template)), daemon=True).start()
    Worker(model, template.tool_format, settings["slots"], inbox, out).run()


if __name__ == "__main__":
    main()
