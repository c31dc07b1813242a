"""How a next token is drawn: chains of samplers in llama.cpp. Only worker processes import this."""

from __future__ import annotations

from typing import Any

import llama_cpp as llama

from cxp2p.records import Sampling

PENALTY_TOKENS = 4096  # how far back penalties look: more than most answers are long
# Tokens a thousand million times less likely than the likeliest are left out first: all of them together come up less
# than once in 4,000 draws even with 260,000 that are all on the edge, and drawing without them is four times as fast.
NEVER = 1e-9


class Sampler:
    """How one sequence's next token is drawn: a chain in llama.cpp, seeded. Call `close` at the end.

    `greedy`: the likeliest token of the logits as they are; then the chain is not needed.
    """

    def __init__(self, context: Any, vocab_size: int, sampling: Sampling, seed: int) -> None:
        self._context = context
        changes = _changes(vocab_size, sampling)
        self.greedy = sampling.temperature == 0 and not changes
        self._chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
        for part in (*changes, *_draw(sampling, seed)):
            llama.llama_sampler_chain_add(self._chain, part)

    def sample(self, at: int) -> int:
        """Draws from the logits of batch entry `at`, and remembers the token for the penalties."""
        return int(llama.llama_sampler_sample(self._chain, self._context, at))

    def close(self) -> None:
        if self._chain:
            llama.llama_sampler_free(self._chain)
            self._chain = None


def _changes(vocab_size: int, sampling: Sampling) -> list[Any]:
    """What makes some tokens more or less likely."""
    parts = []
    bias = [(token, value) for token, value in sampling.logit_bias if token < vocab_size]
    if bias:
        biases = (llama.llama_logit_bias * len(bias))(*(llama.llama_logit_bias(token, value) for token, value in bias))
        parts.append(llama.llama_sampler_init_logit_bias(vocab_size, len(bias), biases))
    if sampling.frequency_penalty or sampling.presence_penalty or sampling.repeat_penalty != 1:
        penalties = (sampling.repeat_penalty, sampling.frequency_penalty, sampling.presence_penalty)
        parts.append(llama.llama_sampler_init_penalties(vocab_size, PENALTY_TOKENS, *penalties))
    return parts


def _draw(sampling: Sampling, seed: int) -> list[Any]:
    if sampling.temperature == 0:
        return [llama.llama_sampler_init_greedy()]
    parts = []
    if sampling.top_k:
        parts.append(llama.llama_sampler_init_top_k(sampling.top_k))
    parts.append(llama.llama_sampler_init_temp(sampling.temperature))
    parts.append(llama.llama_sampler_init_min_p(max(sampling.min_p, NEVER), 1))
    if sampling.top_p < 1:
        parts.append(llama.llama_sampler_init_top_p(max(sampling.top_p, 1e-6), 1))
    return [*parts, llama.llama_sampler_init_dist(_seed32(seed))]


def _seed32(seed: int) -> int:
    """llama.cpp takes 32 bits, and takes the highest value as "choose one"."""
    return ((seed ^ seed >> 32) & 0xFFFFFFFF) % 0xFFFFFFFF
