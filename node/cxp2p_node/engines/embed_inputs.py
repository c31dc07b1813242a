"""An embed job's inputs as tokens: read in slices, cut to the context or refused, before anything is computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from cxp2p.errors import JobFailed
from cxp2p.records import EmbedJob, FailureCode

LETTERS_PER_TOKEN = 8  # twice the usual: texts of up to so many letters for each token of the context are read whole
CUT_TOKENS_MAX = 64  # what a cut in the middle of a word may change


class Reader(Protocol):
    """What is needed of a model. `marks` stand before and after every input."""

    context_units: int
    vocab_size: int
    marks: tuple[tuple[int, ...], tuple[int, ...]]

    def tokenize(self, text: str) -> list[int]: ...


@dataclass(frozen=True, slots=True)
class Beginning:
    """The first tokens of a text, and how many it has in all: a guess, if not all of it was read."""

    tokens: Sequence[int]
    total: int


class Inputs:
    """The inputs of one job, `wanted` of them; call `read` until it says that all are `tokens`."""

    def __init__(self, job: EmbedJob, wanted: int, model: Reader) -> None:
        self.tokens: list[tuple[int, ...]] = []
        self.all_wanted = wanted >= len(job.inputs)
        self._inputs = job.inputs[:wanted]
        self._truncate = job.truncate
        self._model = model

    def read(self, until: Callable[[], bool]) -> bool:
        """Reads on until `until` says so, one input at least. True: all is read. Raises JobFailed."""
        while len(self.tokens) < len(self._inputs):
            self.tokens.append(self._read(len(self.tokens)))
            if until():
                break
        return len(self.tokens) == len(self._inputs)

    def _read(self, number: int) -> tuple[int, ...]:
        before, after = self._model.marks
        room = self._model.context_units - len(before) - len(after)
        each = self._inputs[number]
        if isinstance(each, str):
            begun = beginning(each, room, self._model.tokenize)
        else:
            begun = Beginning(each, len(each))
            self._check(each, number)
        if begun.total > room and not self._truncate:
            actual, limit = begun.total + len(before) + len(after), self._model.context_units
            why = f"inputs[{number}] has {actual} tokens, the context {limit}: shorten it, or let it be cut"
            raise JobFailed(FailureCode.CONTEXT_LENGTH, why, limit, actual)
        tokens = (*before, *begun.tokens[:room], *after)
        if not tokens:
            raise JobFailed(FailureCode.REQUEST_UNSUPPORTED, f"inputs[{number}] has no tokens, at least one is needed")
        return tokens

    def _check(self, tokens: Sequence[int], number: int) -> None:
        vocab_size = self._model.vocab_size
        stranger = next((token for token in tokens if token >= vocab_size), None)
        if stranger is not None:
            why = f"inputs[{number}] holds the token {stranger}, this model's are 0 to {vocab_size - 1}"
            raise JobFailed(FailureCode.REQUEST_UNSUPPORTED, why, vocab_size - 1, min(stranger, 2**31 - 1))


def beginning(text: str, room: int, tokenize: Callable[[str], list[int]]) -> Beginning:
    """The tokens of a text of which `room` are of use: of one that is far too long only as much is read as needed."""
    size = LETTERS_PER_TOKEN * room
    while size < len(text):
        tokens = tokenize(text[:size])
        if len(tokens) > room + CUT_TOKENS_MAX:
            return Beginning(tokens, len(tokens) * len(text) // size)
        size *= 2
    tokens = tokenize(text)
    return Beginning(tokens, len(tokens))
