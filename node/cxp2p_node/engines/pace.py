"""How many tokens of prompts the next batch takes: so many that nobody else waits for long. Pure.

While sequences generate, a batch of prompts takes at most as long as a few of their steps, two unless set. When none
does it is large, as large ones are faster; what is in it can be stopped in the middle. All is learnt from the last
batches, the smallest ones first; one that took far longer than the others is taken for what other programs did to it.
"""

from __future__ import annotations

from typing import Final

from cxp2p_node.engines.serving import PROMPT_STEPS_MAX

ALONE_S_GOAL: Final = 0.25  # a new job waits for so long at most before it has a part in the next batch
SHARED_TOKENS_MIN: Final = 1  # what a prompt always gets: it is no more than one more sequence in a step
ALONE_TOKENS_MIN: Final = 32  # fewer make no use of a batch: the weights are read once for all of it
EVEN: Final = 8  # larger batches are multiples of it, so that llama.cpp can use a graph again
WEIGHT: Final = 0.25
SURPRISE_MAX: Final = 3.0  # times as long as expected: more of it is not the batch's own


class Pace:
    """What is known of a model's speed on this machine. A batch holds `batch_max` tokens.

    `prompt_steps_max`: how many steps of those who generate a batch of prompts may take.
    """

    def __init__(self, batch_max: int, prompt_steps_max: float = PROMPT_STEPS_MAX) -> None:
        self._batch_max = batch_max
        self._prompt_steps_max = prompt_steps_max
        self._step_s: dict[int, float] = {}  # by how many sequences took part
        self._shared = Speed(batch_max)
        self._alone = Speed(batch_max)

    def step_s(self, sequences: int) -> float | None:
        """How long a step of so many takes; None while nothing is known. Of fewer, if of so many nothing is known."""
        known = [count for count in self._step_s if count <= sequences]
        return self._step_s[max(known)] if known else None

    def prompt_tokens(self, generating: int) -> int:
        """How many tokens of prompts the next batch may have while so many sequences generate."""
        if not generating:
            return self._alone.tokens(ALONE_S_GOAL, ALONE_TOKENS_MIN)
        step_s = self.step_s(generating)
        if step_s is None:
            return SHARED_TOKENS_MIN
        return self._shared.tokens(self._prompt_steps_max * step_s, SHARED_TOKENS_MIN)

    def stepped(self, sequences: int, seconds: float) -> None:
        """A step of so many generating sequences took so long."""
        before = self._step_s.get(sequences, seconds)
        seconds = min(seconds, SURPRISE_MAX * before)
        self._step_s[sequences] = before + WEIGHT * (seconds - before)

    def prompted(self, tokens: int, generating: int, seconds: float) -> None:
        """A batch of so many tokens of prompts took so long."""
        (self._shared if generating else self._alone).took(tokens, seconds)


class Speed:
    """Tokens a second of the last batches of one kind."""

    def __init__(self, batch_max: int) -> None:
        self._batch_max = batch_max
        self._tokens = 0.0
        self._seconds = 0.0
        self._largest = 0  # a batch is at most twice as large as any before: what is not known is not promised

    def tokens(self, seconds: float, least: int) -> int:
        """How many fit into so many seconds."""
        per_s = self._tokens / self._seconds if self._seconds else 0.0
        fitting = min(int(per_s * seconds), max(2 * self._largest, least), self._batch_max)
        if fitting >= 2 * EVEN:
            fitting -= fitting % EVEN
        return min(max(fitting, least), self._batch_max)

    def took(self, tokens: int, seconds: float) -> None:
        self._largest = max(self._largest, tokens)
        if self._tokens:
            seconds = min(seconds, SURPRISE_MAX * tokens * self._seconds / self._tokens)
        self._tokens += WEIGHT * (tokens - self._tokens)
        self._seconds += WEIGHT * (seconds - self._seconds)
