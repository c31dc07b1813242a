"""Makes a model's output follow a grammar: before each draw, the tokens that cannot come next are ruled out.

The work is done by llguidance (an Earley parser over token prefixes, about 60 µs a token with a vocabulary of 49,152),
which also knows far more of JSON Schema than llama.cpp's own converter. Its limits bound what a schema can cost.
"""

from __future__ import annotations

from typing import Any

import llguidance
import llguidance.numpy as masks
from llguidance import LLMatcher, LLParserLimits

GRAMMAR_BYTES_MAX = 256 * 1024
LIMITS = LLParserLimits(max_grammar_size=200_000, max_lexer_states=50_000)


class GrammarError(Exception):
    """The grammar cannot be followed. The text says what is wrong with it."""


class Constraints:
    """What grammars of one model need: its vocabulary, read once."""

    def __init__(self, tokenizer: llguidance.LLTokenizer, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size

    def constrain(self, grammar: str) -> Constraint:
        """A constraint at its beginning. Raises GrammarError."""
        if len(grammar) > GRAMMAR_BYTES_MAX:
            raise GrammarError(f"it is longer than {GRAMMAR_BYTES_MAX} characters")
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=LIMITS)
        if matcher.is_error():
            raise GrammarError(matcher.get_error())
        return Constraint(matcher, self._vocab_size)


class Constraint:
    """Where one output stands in its grammar."""

    def __init__(self, matcher: LLMatcher, vocab_size: int) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._mask: Any = masks.allocate_token_bitmask(1, vocab_size)

    def apply(self, logits: Any) -> None:
        """Rules out, in the logits themselves (an array of one for each token), every token that cannot come next.

        Raises GrammarError when that has become too much work.
        """
        masks.fill_next_token_bitmask(self._matcher, self._mask)
        if self._matcher.is_error():
            raise GrammarError(self._matcher.get_error())
        masks.apply_token_bitmask_inplace(logits.reshape(1, self._vocab_size), self._mask)

    def take(self, token: int) -> None:
        """The token that was drawn. Raises GrammarError for one that was ruled out."""
        if not self._matcher.consume_token(token):
            raise GrammarError(self._matcher.get_error() or f"token {token} was ruled out")

    @property
    def complete(self) -> bool:
        """Whether nothing more can come."""
        return bool(self._matcher.is_stopped())
