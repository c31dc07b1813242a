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
from llguidance import LLMatcher, LLParserLimits

from cxp2p_node.engines.landing import GrammarError as GrammarError
from cxp2p_node.engines.landing import Vocabulary, Ways, error_of

GRAMMAR_BYTES_MAX = 256 * 1024
LANDING_TOKENS_MAX = 512  # an end that takes more than that is not tried out
NEAR_TOKENS = 96  # with so few to spare every token is tried out first: one can make the way longer by a whole call
LOOK_EVERY = 16
LIMITS = LLParserLimits(max_grammar_size=200_000, max_lexer_states=50_000)


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
        self._vocabulary = Vocabulary(vocab_size, piece, ends)

    def constrain(self, grammar: str, *, lands: bool) -> Constraint:
        """A constraint at its beginning. `lands`: it must come to an end within its length. Raises GrammarError."""
        if len(grammar) > GRAMMAR_BYTES_MAX:
            raise GrammarError(f"it is longer than {GRAMMAR_BYTES_MAX} characters")
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=LIMITS)
        if matcher.is_error():
            raise error_of(matcher)
        return Constraint(matcher, self._vocabulary.size, Ways(self._vocabulary) if lands else None)


class Constraint:
    """Where one output stands in its grammar."""

    def __init__(self, matcher: LLMatcher, vocab_size: int, ways: Ways | None) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._ways = ways
        self._mask: Any = masks.allocate_token_bitmask(1, vocab_size)
        self._landing: list[int] = []
        self._look_at = LANDING_TOKENS_MAX

    def apply(self, logits: Any) -> None:
        """Rules out, in the logits themselves (an array of one for each token), every token that cannot come next.

        Raises GrammarError when that has become too much work.
        """
        masks.fill_next_token_bitmask(self._matcher, self._mask)
        if self._matcher.is_error():
            raise error_of(self._matcher)
        masks.apply_token_bitmask_inplace(logits.reshape(1, self._vocab_size), self._mask)

    def steer(self, token: int, left: int) -> int:
        """The token to take instead of the one that was drawn, which itself is fine as long as the end stays in reach.

        `left`: how many tokens there may be, this one included.
        """
        if self._landing:
            return self._landing.pop(0)
        if self._ways is None or left > self._look_at:
            return token
        if left <= NEAR_TOKENS and self._way_after(self._ways, token, left) is not None:
            return token
        way = self._ways.way(self._matcher, left)
        if not way:
            self._look_at = left * 3 // 4  # none is known: the model may find it
            return token
        if len(way) + NEAR_TOKENS < left:
            self._look_at = left - LOOK_EVERY
            return token
        if left > NEAR_TOKENS and self._way_after(self._ways, token, left) is not None:
            return token
        self._landing = way[1:]
        return way[0]

    def _way_after(self, ways: Ways, token: int, left: int) -> list[int] | None:
        after = self._matcher.deep_copy()
        after.consume_token(token)
        return ways.way(after, left - 1)

    def take(self, token: int) -> None:
        """The token that was drawn. Raises GrammarError for one that was ruled out."""
        if not self._matcher.consume_token(token):
            raise error_of(self._matcher) if self._matcher.is_error() else GrammarError(f"token {token} was ruled out")

    @property
    def complete(self) -> bool:
        """Whether nothing more can come."""
        return bool(self._matcher.is_stopped())
