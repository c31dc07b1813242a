"""What is told of an answer afterwards, as a schema."""

from __future__ import annotations

from typing import Final

from cxp2p.records import Service
from cxp2p_gateway.openai.generation import API_TYPES, UNKNOWN_HERE
from cxp2p_gateway.openapi.words import NULL, Schema, flag, given, just, maybe, number, one_of, text, whole

CREDITS: Final = number(0)
TOKENS: Final = maybe(whole(0))
SERVICES: Final = [service.value for service in Service]

GENERATION: Final[dict[str, Schema]] = {
    "Generation": given(
        {
            "data": given(
                {
                    **{name: text() for name in ("id", "upstream_id", "model", "origin", "provider_name")},
                    **{name: text() for name in ("finish_reason", "native_finish_reason", "key")},
                    **{name: CREDITS for name in ("total_cost", "usage")},
                    **{name: whole(0) for name in ("latency", "generation_time", "input_units", "output_units")},
                    **{name: flag() for name in ("streamed", "cancelled", "is_byok")},
                    **{name: TOKENS for name in ("tokens_prompt", "tokens_completion", "native_tokens_prompt")},
                    **{name: TOKENS for name in ("native_tokens_completion", "native_tokens_cached")},
                    **{name: maybe(text()) for name in ("app", "http_referer")},
                    "created_at": text(format="date-time"),
                    "data_region": just("global"),
                    "service": one_of(SERVICES),
                    "api_type": maybe(one_of(list(API_TYPES.values()))),
                    "orders": whole(1),
                },
                {name: NULL for name in UNKNOWN_HERE},
            )
        }
    ),
}
"""By name."""
