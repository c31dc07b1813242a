"""Models as OpenAI lists them, with what a client wants to know before it chooses."""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from cxp2p.records import Service
from cxp2p_gateway.asking import ModelCard
from cxp2p_gateway.openai.embeddings import EmbedRules

SUPPORTED: Final = (
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "max_completion_tokens",
    "max_tokens",
    "min_p",
    "n",
    "parallel_tool_calls",
    "presence_penalty",
    "reasoning_effort",
    "repetition_penalty",
    "response_format",
    "seed",
    "stop",
    "stream",
    "stream_options",
    "structured_outputs",
    "temperature",
    "tool_choice",
    "tools",
    "top_k",
    "top_logprobs",
    "top_p",
)
EMBEDDING_SUPPORTED: Final = ("encoding_format", "truncate")
SCRAPE_SUPPORTED: Final = (
    "format",
    "include_links",
    "max_age",
    "only_main_content",
    "render",
    "timeout",
    "wait_for",
)
MODALITIES: Final = {
    Service.CHAT: ("text", "text"),
    Service.EMBED: ("text", "embeddings"),
    Service.SPEECH: ("text", "audio"),
    Service.SCRAPE: ("url", "text"),
}


def model_object(card: ModelCard, embed_rules: EmbedRules) -> dict[str, object]:
    """One model, with what a client wants to know before it chooses. Prices: credits per token, as decimal strings.

    Of embeddings the output is vectors: no tokens, and a price for each vector. Of scraping both are pages.
    """
    reads, writes = MODALITIES[card.service]
    return {
        "id": card.model,
        "object": "model",
        "created": card.since_s,
        "owned_by": "cxp2p",
        "context_length": card.context_units,
        "max_output_tokens": card.output_units_max if card.service is Service.CHAT else None,
        "architecture": {"input_modalities": [reads], "output_modalities": [writes]},
        "supported_parameters": _supported(card, embed_rules),
        "pricing": {"prompt": _price(card.prices.input), "completion": _price(card.prices.output)},
        "providers": {
            "count": card.nodes,
            "p50_ttft_ms": card.first_piece_ms_p50 or None,
            "p50_tps": card.units_per_s_p50 or None,
        },
    }


def model_list(cards: tuple[ModelCard, ...], embed_rules: EmbedRules) -> dict[str, object]:
    """All models."""
    return {"object": "list", "data": [model_object(card, embed_rules) for card in cards]}


def _supported(card: ModelCard, embed_rules: EmbedRules) -> list[str]:
    match card.service:
        case Service.CHAT:
            return list(SUPPORTED)
        case Service.EMBED:
            return [*(["dimensions"] if embed_rules.shortens(card.model) else []), *EMBEDDING_SUPPORTED]
        case Service.SCRAPE:
            return list(SCRAPE_SUPPORTED)
    return []


def _price(micro_per_million: int) -> str:
    return f"{Decimal(micro_per_million).scaleb(-12).normalize():f}"
