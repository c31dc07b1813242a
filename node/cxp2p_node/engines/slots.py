"""Which job has which sequence of the context, what it reuses there, and which tokens come next. Pure.

Steps alternate: one token for each generating sequence, then a batch of prompts (see Orca, OSDI 2022, for scheduling
by iteration). A finished slot keeps what it computed. A new job takes the slot whose tokens its prompt continues, or
gets a copy of the longest beginning that another slot has, or waits for one that is being computed right now: a system
prompt is computed once, also when many jobs bring it at the same moment. Only slots of the same salt share anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NamedTuple

# A copy costs about as much as computing one token for each 200 that are copied: memory against arithmetic.
COPY_TOKENS_MIN: Final = 32
COPY_SHARE_MIN: Final = 1 / 16  # of what the source holds: all of that is copied, and then cut
OLDEST_SHARE: Final = 4  # one part in so many of each batch of prompts is for the one that came first


class Phase(Enum):
    FREE = "free"
    PROMPT = "prompt"
    GENERATING = "generating"


class Part(NamedTuple):
    """Neighbouring tokens of one sequence in a batch. `output`: the one after the last is to be sampled."""

    slot: int
    start: int
    tokens: Sequence[int]
    output: bool


class Copy(NamedTuple):
    """The first `tokens` that `source` holds are to be those of `target`."""

    source: int
    target: int
    tokens: int


class Admission(NamedTuple):
    """Where a new job goes: what the slot holds beyond `kept` tokens must be removed before the next decode."""

    slot: int
    kept: int


@dataclass(slots=True)
class Slot:
    """One sequence of the context. Of its `tokens` the engine holds the state of the first `held`.

    `source`: the slot that has, or is about to have, its first `wanted` tokens; -1: none is waited for. `seated` says
    which of the jobs that ever came this one is, and `source_seated` the same of the source. `worth`: see `_release`.
    """

    index: int
    phase: Phase = Phase.FREE
    job: int = -1
    salt: bytes = b""
    tokens: list[int] = field(default_factory=list)
    held: int = 0
    prompt: int = 0
    reused: int = 0
    paused: bool = False
    seated: int = 0
    source: int = -1
    source_seated: int = 0
    wanted: int = 0
    worth: int = 0

    @property
    def left(self) -> int:
        return len(self.tokens) - self.held

    def follow(self, source: Slot | None, wanted: int) -> None:
        self.source = -1 if source is None else source.index
        self.source_seated = 0 if source is None else source.seated
        self.wanted = wanted


class Slots:
    """The sequences of one context, each of `context_units` tokens.

    `cuts`: the end of a sequence can be removed. Where it cannot (recurrent models), only a prompt that continues all
    that a slot holds reuses it, and nothing is copied.
    """

    def __init__(self, slots: int, context_units: int, *, cuts: bool = True) -> None:
        self.slots = [Slot(index) for index in range(slots)]
        self.context_units = context_units
        self._cuts = cuts
        self._seated = 0
        self._clock = 0

    def free(self) -> bool:
        return any(slot.phase is Phase.FREE for slot in self.slots)

    def busy(self) -> int:
        return sum(slot.phase is not Phase.FREE for slot in self.slots)

    def generating(self) -> list[Slot]:
        return [slot for slot in self.slots if slot.phase is Phase.GENERATING and not slot.paused and slot.left]

    def runnable(self) -> bool:
        """Whether there is something to compute, or to copy."""
        return any(slot.phase is Phase.PROMPT for slot in self.slots) or bool(self.generating())

    # Who comes in.

    def admit(self, job: int, prompt: Sequence[int], salt: bytes = b"") -> Admission:
        """Gives a job a free slot; the last token of a prompt is always decoded anew, as its logits are needed."""
        if not 0 < len(prompt) < self.context_units:
            raise ValueError(f"a prompt must have 1 to {self.context_units - 1} tokens, not {len(prompt)}")
        prompt = list(prompt)
        slot = self._choose(prompt, salt)
        kept = self._reusable(slot, prompt, salt)
        self._clock = max(self._clock, slot.worth)
        self._seated += 1
        slot.phase, slot.job, slot.salt, slot.seated = Phase.PROMPT, job, salt, self._seated
        slot.tokens, slot.held, slot.prompt, slot.paused = prompt, kept, len(prompt), False
        slot.reused = kept
        self._find_source(slot)
        return Admission(slot.index, kept)

    def _choose(self, prompt: list[int], salt: bytes) -> Slot:
        """The free slot whose job had mostly the same prompt, or else the one with the least to lose."""
        free = [slot for slot in self.slots if slot.phase is Phase.FREE]
        if not free:
            raise ValueError("no slot is free")
        best = max(free, key=lambda slot: self._reusable(slot, prompt, salt))
        reusable = self._reusable(best, prompt, salt)
        if reusable and 2 * reusable >= min(best.prompt, best.held):
            return best
        return min(free, key=lambda slot: slot.worth if slot.held else -1)

    def _reusable(self, slot: Slot, prompt: list[int], salt: bytes) -> int:
        if slot.salt != salt:
            return 0
        shared = min(common_prefix(slot.tokens, prompt), slot.held, len(prompt) - 1)
        return shared if self._cuts or shared == slot.held else 0

    def _find_source(self, slot: Slot) -> None:
        """Looks for the slot with the longest beginning in common: there, or about to be computed for an earlier job.

        Nobody waits for a later job, so there is always one who waits for nobody.
        """
        slot.follow(None, 0)
        if not self._cuts:
            return
        best = (0, 0, 0)
        for other in self.slots:
            later = other.phase is Phase.PROMPT and other.seated >= slot.seated
            if other is slot or later or other.salt != slot.salt:
                continue
            there = len(other.tokens) if other.phase is Phase.PROMPT else other.held
            shared = min(common_prefix(other.tokens, slot.tokens), there, slot.prompt - 1)
            least = max(COPY_TOKENS_MIN, int(other.held * COPY_SHARE_MIN))
            rank = (shared, min(other.held, shared), -other.seated)
            if shared - slot.held >= least and rank > best:
                best = rank
                slot.follow(other, shared)

    def copies(self) -> list[Copy]:
        """What is to be copied now, for those who waited for it. Each is to be answered with `copied` or `emptied`."""
        ready = []
        for slot in self.slots:
            if slot.source < 0:
                continue
            source = self.slots[slot.source]
            if source.seated != slot.source_seated or len(source.tokens) < slot.wanted:
                self._find_source(slot)  # the job there was stopped, or another has come
            if slot.source >= 0 and self.slots[slot.source].held >= slot.wanted:
                ready.append(Copy(slot.source, slot.index, slot.wanted))
        return ready

    def copied(self, copy: Copy) -> None:
        slot = self.slots[copy.target]
        slot.held = slot.reused = copy.tokens
        slot.follow(None, 0)

    def emptied(self, index: int) -> None:
        """The engine lost what this slot held: all of it is to be computed anew."""
        slot = self.slots[index]
        if slot.phase is Phase.FREE:
            slot.tokens = []
        slot.held = slot.reused = 0
        slot.follow(None, 0)

    # Who is next.

    def steps(self) -> list[Part]:
        """One token for each generating sequence. In the order of slots: llama.cpp computes neighbours as one."""
        return [Part(slot.index, slot.held, slot.tokens[slot.held :], True) for slot in self.generating()]

    def prompts(self, room: int) -> list[Part]:
        """Parts of waiting prompts, of `room` tokens in all.

        The one with the least left goes first, so that a short one is not behind long ones; but a quarter is for the
        one that came first, so that it is done after four times its own time at the latest, whatever else comes.
        """
        waiting = [slot for slot in self.slots if slot.phase is Phase.PROMPT and slot.source < 0]
        if not waiting:
            return []
        least = self._least_left(waiting)
        waiting.sort(key=lambda slot: (least[slot.index], slot.seated))
        oldest = min(waiting, key=lambda slot: slot.seated)
        shares = {oldest.index: min(max(1, room // OLDEST_SHARE), oldest.left)}
        room -= shares[oldest.index]
        for slot in waiting:
            share = min(slot.left - shares.get(slot.index, 0), room)
            if share > 0:
                shares[slot.index] = shares.get(slot.index, 0) + share
                room -= share
        return [self._part(self.slots[index], share) for index, share in sorted(shares.items())]

    def _least_left(self, waiting: Iterable[Slot]) -> dict[int, int]:
        """How much each has left, or what waits for it, if that is less."""
        least = {slot.index: slot.left for slot in waiting}
        for slot in sorted(self.slots, key=lambda slot: -slot.seated):  # the latest first: it passes on what it has
            if slot.phase is Phase.PROMPT and slot.source >= 0:
                own = min(least.get(slot.index, slot.left), slot.left)
                least[slot.source] = min(least.get(slot.source, own), own)
        return least

    @staticmethod
    def _part(slot: Slot, count: int) -> Part:
        end = slot.held + count
        return Part(slot.index, slot.held, slot.tokens[slot.held : end], end == len(slot.tokens))

    # What has happened.

    def done(self, batch: Iterable[Part]) -> None:
        """The batch was decoded; finished prompts generate."""
        for part in batch:
            slot = self.slots[part.slot]
            slot.held += len(part.tokens)
            if slot.phase is Phase.PROMPT and not slot.left:
                slot.phase = Phase.GENERATING

    def sampled(self, index: int, token: int) -> bool:
        """The next token of a generating sequence. False: the context is full, it cannot be decoded."""
        slot = self.slots[index]
        if slot.held + 1 >= self.context_units:
            return False
        slot.tokens.append(token)
        return True

    def release(self, index: int) -> None:
        """The job of this slot has ended; what it computed stays for the next one.

        What is least worth is overwritten first: few tokens, or long ago. A slot's worth is its tokens on top of the
        worth of what was overwritten last before (GreedyDual: Young 1994; Cao and Irani 1997).
        """
        slot = self.slots[index]
        del slot.tokens[slot.held :]
        slot.phase, slot.job, slot.paused = Phase.FREE, -1, False
        slot.worth = self._clock + slot.held
        slot.follow(None, 0)


def common_prefix(left: list[int], right: list[int]) -> int:
    """How many first tokens are the same. By halves, as slices are compared in C."""
    low, high = 0, min(len(left), len(right))
    if left[:high] == right[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle
    return low
