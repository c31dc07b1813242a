"""Makes a model's output follow a grammar: before each draw, the tokens that cannot come next are ruled out.

The work is done by llguidance (an Earley parser over token prefixes, about 60 µs a token with a vocabulary of 49,152),
which also knows far more of JSON Schema than llama.cpp's own converter. Its limits bound what a schema can cost.

An answer must also end within its length, or it would be cut off in the middle of a string. So towards the end each
token is tried out on a copy first, and one after which no end is in reach any more is replaced by one on a short way
there.
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
PULL_OF_END = 1000.0  # above all logits, which are within some tens
_PULLS = {b'"': 800.0, b"}": 600.0, b"]": 600.0, b",": 400.0}  # inside of a string the others are only letters
LIMITS = LLParserLimits(max_grammar_size=200_000, max_lexer_states=50_000)


class GrammarError(Exception):
    """The grammar cannot be followed. The text says what is wrong with it."""


class Constraints:
    """What grammars of one model need: its vocabulary, read once. `ends`: whether a token means that it is done."""

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

    def constrain(self, grammar: str, *, lands: bool) -> Constraint:
        """A constraint at its beginning. `lands`: it must come to an end within its length. Raises GrammarError."""
        if len(grammar) > GRAMMAR_BYTES_MAX:
            raise GrammarError(f"it is longer than {GRAMMAR_BYTES_MAX} characters")
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=LIMITS)
        if matcher.is_error():
            raise GrammarError(matcher.get_error())
        return Constraint(matcher, self._vocab_size, self._pull if lands else None)


class Constraint:
    """Where one output stands in its grammar."""

    def __init__(self, matcher: LLMatcher, vocab_size: int, pull: Any) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._pull = pull
        self._mask: Any = masks.allocate_token_bitmask(1, vocab_size)
        self._landing = False
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
        if self._pull is None or (not self._landing and self._in_reach(token, left)):
            return token
        self._landing = True
        return self._shortest(self._matcher)

    def _in_reach(self, token: int, left: int) -> bool:
        """Whether there is a way to the end after this token."""
        if left > self._look_at:
            return True
        if left > NEAR_TOKENS and self._way(self._matcher, left) + NEAR_TOKENS < left:
            self._look_at = left - LOOK_EVERY
            return True
        after = self._matcher.deep_copy()
        after.consume_token(token)
        return self._way(after, left) < left

    def _way(self, matcher: LLMatcher, most: int) -> int:
        """How many tokens a short way to the end takes, or `most`."""
        matcher = matcher.deep_copy()
        for count in range(most):
            if matcher.is_stopped():
                return count
            matcher.consume_token(self._shortest(matcher))
        return most

    def _shortest(self, matcher: LLMatcher) -> int:
        """The token that leads to the end soonest, as far as one step can tell."""
        scores = self._pull.copy()
        self._rule_out(matcher, scores)
        return int(scores.argmax())

    def _rule_out(self, matcher: LLMatcher, logits: Any) -> None:
        masks.fill_next_token_bitmask(matcher, self._mask)
        if matcher.is_error():
            raise GrammarError(matcher.get_error())
        masks.apply_token_bitmask_inplace(logits.reshape(1, self._vocab_size), self._mask)

    def take(self, token: int) -> None:
        """The token that was drawn. Raises GrammarError for one that was ruled out."""
        if not self._matcher.consume_token(token):
            raise GrammarError(self._matcher.get_error() or f"token {token} was ruled out")

    @property
    def complete(self) -> bool:
        """Whether nothing more can come."""
        return bool(self._matcher.is_stopped())


def _pull(piece: bytes) -> float:
    """How much a token is wanted when the answer must end: what closes most, and what is short."""
    strength = _PULLS.get(piece.strip()[:1], 0.0)
    return strength - min(len(piece), 50)
