"""Makes a model's output follow a grammar: before each draw, the tokens that cannot come next are ruled out.

The work is done by llguidance (an Earley parser over token prefixes, about 60 µs a token with a vocabulary of 49,152),
which also knows far more of JSON Schema than llama.cpp's own converter. Its limits bound what a schema can cost.

An answer must also end within its length, or it would be cut off in the middle of a string. So towards the end each
token is tried out on a copy first; before one after which no end is in reach any more, a short way there is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llguidance
import llguidance.numpy as masks
import numpy as np
from llguidance import LLMatcher, LLParserLimits

GRAMMAR_BYTES_MAX = 256 * 1024
LANDING_TOKENS_MAX = 512  # an end that takes more than that is not tried out
NEAR_TOKENS = 96  # with so few to spare every token is tried out first: one can make the way longer by a whole call
LOOK_EVERY = 16
WANDER_TOKENS_MAX = 128  # where closing whatever can be closed leads nowhere, as an address needs its @
PULL_OF_END = 1000.0  # above all logits, which are within some tens
_PULLS = {b'"': 800.0, b"}": 600.0, b"]": 600.0, b",": 400.0}  # inside of a string the others are only letters
LIMITS = LLParserLimits(max_grammar_size=200_000, max_lexer_states=50_000)


class GrammarError(Exception):
    """The grammar cannot be followed. The text says what is wrong with it."""


class Constraints:
    """What grammars of one model need: its vocabulary, read once. `ends`: whether a token means that it is done.

    `noise` decides between tokens that are as good as each other: the same model always decides alike.
    """

    def __init__(
        self,
        tokenizer: llguidance.LLTokenizer,
        vocab_size: int,
        piece: Callable[[int], bytes],
        ends: Callable[[int], bool],
    ) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        pull = [PULL_OF_END if ends(token) else _pull(piece(token)) for token in range(vocab_size)]
        self._pull = np.array(pull, dtype=np.float32)
        self._noise = np.random.default_rng(vocab_size).random(2 * vocab_size, dtype=np.float32)

    def constrain(self, grammar: str, *, lands: bool) -> Constraint:
        """A constraint at its beginning. `lands`: it must come to an end within its length. Raises GrammarError."""
        if len(grammar) > GRAMMAR_BYTES_MAX:
            raise GrammarError(f"it is longer than {GRAMMAR_BYTES_MAX} characters")
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=LIMITS)
        if matcher.is_error():
            raise _error_of(matcher)
        return Constraint(matcher, self._vocab_size, (self._pull, self._noise) if lands else None)


class Constraint:
    """Where one output stands in its grammar."""

    def __init__(self, matcher: LLMatcher, vocab_size: int, wants: tuple[Any, Any] | None) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._wants = wants
        self._mask: Any = masks.allocate_token_bitmask(1, vocab_size)
        self._landing: list[int] = []
        self._look_at = LANDING_TOKENS_MAX

    def apply(self, logits: Any) -> None:
        """Rules out, in the logits themselves (an array of one for each token), every token that cannot come next.

        Raises GrammarError when that has become too much work.
        """
        self._rule_out(self._matcher, logits)

    def steer(self, token: int, left: int) -> int:
        """The token to take instead of the one that was drawn, which itself is fine as long as the end stays in reach.

        `left`: how many tokens there may be, this one included.
        """
        if self._landing:
            return self._landing.pop(0)
        if self._wants is None or left > self._look_at:
            return token
        if left <= NEAR_TOKENS and self._way_after(token, left) is not None:
            return token
        way = self._way(self._matcher, left)
        if not way:
            self._look_at = left * 3 // 4  # none is known: the model may find it
            return token
        if len(way) + NEAR_TOKENS < left:
            self._look_at = left - LOOK_EVERY
            return token
        if left > NEAR_TOKENS and self._way_after(token, left) is not None:
            return token
        self._landing = way[1:]
        return way[0]

    def _way_after(self, token: int, left: int) -> list[int] | None:
        after = self._matcher.deep_copy()
        after.consume_token(token)
        return self._way(after, left - 1)

    def _way(self, matcher: LLMatcher, most: int) -> list[int] | None:
        """The tokens of a short way to the end, at most so many; None if none was found."""
        for wanders, limit in ((False, most), (True, min(most, WANDER_TOKENS_MAX))):
            copy = matcher.deep_copy()
            way: list[int] = []
            while len(way) <= limit:
                if copy.is_stopped():
                    return way
                way.append(self._shortest(copy, len(way) if wanders else None))
                copy.consume_token(way[-1])
        return None

    def _shortest(self, matcher: LLMatcher, step: int | None) -> int:
        """The token that leads to the end soonest, as far as one can tell; among equals, another one at each `step`."""
        assert self._wants is not None
        pull, noise = self._wants
        if step is None:
            scores = pull.copy()
        else:
            start = (step + 1) * 7919 % self._vocab_size
            scores = pull + noise[start : start + self._vocab_size]
        self._rule_out(matcher, scores)
        return int(scores.argmax())

    def _rule_out(self, matcher: LLMatcher, logits: Any) -> None:
        masks.fill_next_token_bitmask(matcher, self._mask)
        if matcher.is_error():
            raise _error_of(matcher)
        masks.apply_token_bitmask_inplace(logits.reshape(1, self._vocab_size), self._mask)

    def take(self, token: int) -> None:
        """The token that was drawn. Raises GrammarError for one that was ruled out."""
        if not self._matcher.consume_token(token):
            raise _error_of(self._matcher) if self._matcher.is_error() else GrammarError(f"token {token} was ruled out")

    @property
    def complete(self) -> bool:
        """Whether nothing more can come."""
        return bool(self._matcher.is_stopped())


def _error_of(matcher: LLMatcher) -> GrammarError:
    """The matcher's own words, without the state that it dumps after them."""
    return GrammarError(matcher.get_error().split("\n<state>", 1)[0])


def _pull(piece: bytes) -> float:
    """How much a token is wanted when the answer must end: what closes most, and what is short."""
    strength = _PULLS.get(piece.strip()[:1], 0.0)
    return strength - min(len(piece), 50)
