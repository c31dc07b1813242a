"""Which tokens the next decode takes, for several sequences at once: continuous batching. Pure.

Every step decodes one token for each generating sequence first, and fills the rest of the batch with prompts in order
of arrival. A finished slot keeps what it computed, and a new job takes the slot that shares the longest beginning with
its prompt (see Orca, OSDI 2022, for iteration-level scheduling).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

STEP_S_GOAL = 0.05  # a cancel takes effect between steps, and generating sequences wait while prompts are read
PROMPT_STEP_MIN = 16
WEIGHT = 0.3


class Phase(Enum):
    FREE = "free"
    PROMPT = "prompt"
    GENERATING = "generating"


class Take(NamedTuple):
    """One token of a batch: `output` asks for logits, to sample the next token of this sequence."""

    slot: int
    token: int
    position: int
    output: bool


@dataclass(slots=True)
class Slot:
    """One sequence of the context. `cached` are the tokens whose state the engine holds; `todo` are to be decoded."""

    index: int
    phase: Phase = Phase.FREE
    job: int = -1
    arrival: int = 0
    cached: list[int] = field(default_factory=list)
    todo: list[int] = field(default_factory=list)
    paused: bool = False


class Admission(NamedTuple):
    """Where a new job goes: what the slot holds beyond `reused` tokens must be removed before the next decode."""

    slot: int
    reused: int


class Slots:
    """The sequences of one context of `slots` times `context_units` tokens; a batch holds `batch_max` tokens."""

    def __init__(self, slots: int, context_units: int, batch_max: int) -> None:
        self.slots = [Slot(index) for index in range(slots)]
        self.context_units = context_units
        self.batch_max = batch_max
        self.prompt_step = batch_max // 4
        self._arrivals = 0

    def free(self) -> bool:
        return any(slot.phase is Phase.FREE for slot in self.slots)

    def admit(self, job: int, prompt: Sequence[int]) -> Admission:
        """Gives a job the free slot that shares most of its prompt; the last token is always decoded anew."""
        if not 0 < len(prompt) < self.context_units:
            raise ValueError(f"a prompt must have 1 to {self.context_units - 1} tokens, not {len(prompt)}")
        candidates = [slot for slot in self.slots if slot.phase is Phase.FREE]
        if not candidates:
            raise ValueError("no slot is free")
        shared = {slot.index: common_prefix(slot.cached, prompt) for slot in candidates}
        # Among equals the one that would lose least.
        slot = max(candidates, key=lambda each: (shared[each.index], -len(each.cached), -each.index))
        reused = min(shared[slot.index], len(prompt) - 1)
        self._arrivals += 1
        slot.phase, slot.job, slot.arrival, slot.paused = Phase.PROMPT, job, self._arrivals, False
        del slot.cached[reused:]
        slot.todo = list(prompt[reused:])
        return Admission(slot.index, reused)

    def plan(self) -> list[Take]:
        """The next batch; empty when nothing can run."""
        batch: list[Take] = []
        for slot in self.slots:
            if slot.phase is Phase.GENERATING and not slot.paused and slot.todo:
                batch.append(Take(slot.index, slot.todo[0], len(slot.cached), True))
        room = min(self.batch_max - len(batch), self.prompt_step)
        waiting = sorted((slot for slot in self.slots if slot.phase is Phase.PROMPT), key=lambda slot: slot.arrival)
        for slot in waiting:
            part = slot.todo[:room]
            start, last = len(slot.cached), len(slot.todo) - 1
            batch += [Take(slot.index, token, start + at, at == last) for at, token in enumerate(part)]
            room -= len(part)
            if room <= 0:
                break
        return batch

    def done(self, batch: Sequence[Take], seconds: float) -> None:
        """The batch was decoded in `seconds`: its tokens are now cached, and finished prompts generate."""
        for take in batch:
            slot = self.slots[take.slot]
            slot.cached.append(take.token)
        for index in {take.slot for take in batch}:
            slot = self.slots[index]
            del slot.todo[: sum(take.slot == index for take in batch)]
            if slot.phase is Phase.PROMPT and not slot.todo:
                slot.phase = Phase.GENERATING
        self._tune(batch, seconds)

    def sampled(self, index: int, token: int) -> bool:
        """The next token of a generating sequence. False: the context is full, it cannot be decoded."""
        slot = self.slots[index]
        if len(slot.cached) + 1 >= self.context_units:
            return False
        slot.todo = [token]
        return True

    def release(self, index: int) -> None:
        """The job of this slot has ended; what it computed stays for the next one."""
        slot = self.slots[index]
        slot.phase, slot.job, slot.todo, slot.paused = Phase.FREE, -1, [], False

    def _tune(self, batch: Sequence[Take], seconds: float) -> None:
        """Keeps steps near their goal: prompts are cut smaller on slower machines."""
        prompts = sum(not take.output for take in batch)
        if prompts * 2 < len(batch) or prompts < PROMPT_STEP_MIN or seconds <= 0:
            return
        fitting = len(batch) * STEP_S_GOAL / seconds
        tuned = self.prompt_step + WEIGHT * (fitting - self.prompt_step)
        self.prompt_step = round(min(max(tuned, PROMPT_STEP_MIN), self.batch_max))


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """How many first tokens are the same."""
    size = min(len(left), len(right))
    return next((at for at in range(size) if left[at] != right[at]), size)
