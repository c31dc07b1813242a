"""Models as OpenAI lists them, with what a client wants to know before it chooses."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

from cxp2p.records import Prices, Service
from cxp2p_gateway.asking import ModelCard, NodeCard
from cxp2p_gateway.openai.answer import NODE_PREFIX_LENGTH
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
# What llama.cpp calls the ways in which weights are stored: Q4_K, IQ2_XS, MXFP4, BF16, all F32.
QUANTIZATION: Final = re.compile(r"(?<![\w.])(I?Q\d\w*|TQ\d\w*|MXFP\d\w*|B?F16|F32)(?![\w.])")
HEALTHY: Final = 0  # OpenRouter's status of what can be asked


def model_object(card: ModelCard, embed_rules: EmbedRules) -> dict[str, object]:
    """One model, with what a client wants to know before it chooses. Prices: credits per token, as decimal strings.

    Of embeddings the output is vectors: no tokens, and a price for each vector. Of scraping both are pages.
    `quantization`: null where it is not known, or where nodes differ.
    """
    found = {quantization_of(each) for each in card.offered}
    return {
        "id": card.model,
        "object": "model",
        "created": card.since_s,
        "owned_by": "cxp2p",
        "context_length": card.context_units,
        "max_output_tokens": card.output_units_max if card.service is Service.CHAT else None,
        "architecture": _architecture(card),
        "quantization": found.pop() if len(found) == 1 else None,
        "supported_parameters": _supported(card, embed_rules),
        "pricing": _pricing(card.prices),
        "providers": {
            "count": card.nodes,
            "p50_ttft_ms": card.first_piece_ms_p50 or None,
            "p50_tps": card.units_per_s_p50 or None,
        },
    }


def model_endpoints(card: ModelCard, embed_rules: EmbedRules) -> dict[str, object]:
    """OpenRouter's `GET /models/{id}/endpoints`: who serves a model, each with what it says of itself."""
    return {
        "data": {
            "id": card.model,
            "name": card.model,
            "created": card.since_s,
            "description": "",
            "architecture": _architecture(card),
            "endpoints": [_endpoint(card, each, embed_rules) for each in card.offered],
        }
    }


def _endpoint(card: ModelCard, offered: NodeCard, embed_rules: EmbedRules) -> dict[str, object]:
    node, capability, load = offered.node[:NODE_PREFIX_LENGTH], offered.capability, offered.capability.load
    return {
        "name": f"{node} | {card.model}",
        "model_name": card.model,
        "provider_name": node,
        "tag": node,
        "context_length": capability.context_units,
        "max_prompt_tokens": capability.context_units,
        "max_completion_tokens": capability.output_units_max if card.service is Service.CHAT else None,
        "pricing": _pricing(capability.prices),
        "quantization": quantization_of(offered),
        "supported_parameters": _supported(card, embed_rules),
        "status": HEALTHY,
        "uptime_last_30m": None,
        "runtime": capability.runtime,
        "slots": capability.slots,
        "queue_max": capability.queue_max,
        "load": {
            "running": load.running,
            "queued": load.queued,
            "ttft_ms": load.first_piece_ms or None,
            "tps": load.units_per_s or None,
            "loading_ms": load.loading_ms,
        },
    }


def quantization_of(offered: NodeCard) -> str | None:
    """How a node's weights are stored, in llama.cpp's words; None if its runtime does not say."""
    named = QUANTIZATION.search(offered.capability.runtime)
    return named[1] if named else None


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


def _architecture(card: ModelCard) -> dict[str, object]:
    reads, writes = MODALITIES[card.service]
    return {"input_modalities": [reads], "output_modalities": [writes]}


def _pricing(prices: Prices) -> dict[str, str]:
    return {"prompt": _price(prices.input), "completion": _price(prices.output)}


def _price(micro_per_million: int) -> str:
    return f"{Decimal(micro_per_million).scaleb(-12).normalize():f}"
