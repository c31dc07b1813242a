"""A short way to the end of a grammar, from wherever an output stands in it.

Closing whatever can be closed leads there mostly. Where that goes round in a circle, as an address does that still
needs its @, letters are tried out that lead on; what led on once is remembered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import llguidance.numpy as masks
import numpy as np
from llguidance import LLMatcher

PULL_OF_END = 1000.0  # above all logits, which are within some tens
_PULLS = {b'"': 800.0, b"}": 600.0, b"]": 600.0, b",": 400.0}  # inside of a string the others are only letters
CIRCLE_STEPS = 24  # so often the same may come next without it being a circle: most fixed lengths are shorter
STATES_MAX = 32  # tried out: 0.2 s in all at the most, once for an answer
LETTERS = bytes(range(0x20, 0x7F))


class GrammarError(Exception):
    """The grammar cannot be followed. The text says what is wrong with it."""


class Vocabulary:
    """What a way is made of: how much each token is wanted when the answer must end, and the tokens of one letter."""

    def __init__(self, size: int, piece: Callable[[int], bytes], ends: Callable[[int], bool]) -> None:
        self.size = size
        pieces = [b"" if ends(token) else piece(token) for token in range(size)]
        pull = [PULL_OF_END if ends(token) else _pull(pieces[token]) for token in range(size)]
        self.pull = np.array(pull, dtype=np.float32)
        found = {data[0]: token for token, data in reversed(list(enumerate(pieces))) if len(data) == 1}
        self.letters = [found[letter] for letter in LETTERS if letter in found]


class _Circle(NamedTuple):
    """Where closing goes round in one: after so many steps, with these tokens to go on."""

    steps: int
    key: bytes


class _Lead(NamedTuple):
    """A state to go on from, the way there, and which letter led on from which circle."""

    matcher: LLMatcher
    way: list[int]
    turns: dict[bytes, int]


class Ways:
    """Finds ways for one output."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._mask: Any = masks.allocate_token_bitmask(1, vocabulary.size)
        self._turns: dict[bytes, int] = {}
        self._lost = False

    def way(self, matcher: LLMatcher, most: int) -> list[int] | None:
        """The tokens of a short way to the end, at most so many; None if none was found."""
        way, circle = self._close(matcher.deep_copy(), most)
        if circle is None or self._lost:
            return way if circle is None else None
        found = self._search(matcher, most)
        self._lost = found is None
        return found

    def _close(
        self, matcher: LLMatcher, most: int, circle_steps: int | None = None
    ) -> tuple[list[int], _Circle | None]:
        """Goes on by closing. The way to the end, or where it stopped being one."""
        way: list[int] = []
        key, since = b"", 0
        while len(way) <= most:
            if matcher.is_stopped():
                return way, None
            scores = self._vocabulary.pull.copy()
            self._fill(matcher)
            masks.apply_token_bitmask_inplace(scores.reshape(1, self._vocabulary.size), self._mask)
            now = self._mask.tobytes()
            if now != key:
                key, since = now, len(way)
            elif circle_steps is not None and len(way) - since >= circle_steps:
                break
            way.append(self._turns.get(now, int(scores.argmax())))
            matcher.consume_token(way[-1])
        return way, _Circle(since, key)

    def _search(self, matcher: LLMatcher, most: int) -> list[int] | None:
        leads = [_Lead(matcher, [], {})]
        circles: set[bytes] = set()
        reached: set[bytes] = set()
        for _ in range(STATES_MAX):
            if not leads:
                return None
            lead = leads.pop()  # the last one first: after one circle there may be another
            steps, circle = self._close(lead.matcher.deep_copy(), most - len(lead.way), CIRCLE_STEPS)
            if circle is None:
                self._turns |= lead.turns
                return lead.way + steps
            if circle.key not in circles:
                circles.add(circle.key)
                reached.add(circle.key)
                leads += self._leads_from(lead, steps[: circle.steps], circle, reached)
        return None

    def _leads_from(self, lead: _Lead, steps: list[int], circle: _Circle, reached: set[bytes]) -> list[_Lead]:
        """The states that one letter leads to, those after which other tokens may come than in any before."""
        there = lead.matcher.deep_copy()
        for token in steps:
            there.consume_token(token)
        self._fill(there)
        allowed = np.zeros(self._vocabulary.size, dtype=np.float32)
        masks.apply_token_bitmask_inplace(allowed.reshape(1, self._vocabulary.size), self._mask)
        leads: list[_Lead] = []
        for token in self._vocabulary.letters:
            if allowed[token] != 0:
                continue
            after = there.deep_copy()
            after.consume_token(token)
            if not after.is_stopped():
                self._fill(after)
                key = self._mask.tobytes()
                if key in reached:
                    continue
                reached.add(key)
            leads.append(_Lead(after, [*lead.way, *steps, token], {**lead.turns, circle.key: token}))
        return leads

    def _fill(self, matcher: LLMatcher) -> None:
        masks.fill_next_token_bitmask(matcher, self._mask)
        if matcher.is_error():
            raise error_of(matcher)


def error_of(matcher: LLMatcher) -> GrammarError:
    """The matcher's own words, without the state that it dumps after them."""
    return GrammarError(matcher.get_error().split("\n<state>", 1)[0])


def _pull(piece: bytes) -> float:
    """How much a token is wanted when the answer must end: what closes most, and what is short."""
    strength = _PULLS.get(piece.strip()[:1], 0.0)
    return strength - min(len(piece), 50)
