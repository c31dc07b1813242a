"""What is told of an answer afterwards: OpenRouter's `GET /generation`, which its clients read. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cxp2p.client import Settlement
from cxp2p.records import Finish, Service
from cxp2p_gateway.moments import moment
from cxp2p_gateway.spending import credits_of
from cxp2p_gateway.store.rows import Generation

API_TYPES: Final = {Service.CHAT: "completions", Service.EMBED: "embeddings", Service.SPEECH: "tts"}

UNKNOWN_HERE: Final = (
    "cache_discount",
    "upstream_inference_cost",
    "app_id",
    "moderation_latency",
    "native_tokens_completion_images",
    "native_tokens_reasoning",
    "num_media_prompt",
    "num_input_audio_prompt",
    "num_media_completion",
    "num_search_results",
    "external_user",
    "router",
    "num_fetches",
    "preset_id",
    "provider_responses",
    "service_tier",
    "user_agent",
    "web_search_engine",
    "workspace_id",
)  # what the shape has and this network has nothing of


def generation_object(kept: Sequence[Generation], signed: Sequence[Settlement]) -> dict[str, object]:
    """One answer, of all its orders; at least one. `signed`: what was, of each.

    Tokens are null where the service counts something else.
    """
    last, receipt = kept[-1], signed[-1].receipt
    in_units, out_units = (sum(getattr(each, name) for each in kept) for name in ("in_units", "out_units"))
    service = Service(last.service)
    has_tokens = service in (Service.CHAT, Service.EMBED)
    prompt, completion = (in_units, out_units if service is Service.CHAT else 0) if has_tokens else (None, None)
    cost = credits_of(sum(each.charge for each in kept))
    return {
        "data": {
            **dict.fromkeys(UNKNOWN_HERE),
            "id": last.id,
            "upstream_id": last.order_id,
            "total_cost": cost,
            "usage": cost,
            "created_at": moment(kept[0].created_at_ms),
            "model": last.model,
            "app": last.app or None,
            "origin": last.origin,
            "http_referer": last.origin or None,
            "streamed": last.streamed,
            "cancelled": receipt.finish is Finish.CANCELLED,
            "provider_name": last.node,
            "latency": max(0, receipt.t_first_ms - receipt.t_accept_ms),
            "generation_time": max(0, receipt.t_end_ms - receipt.t_accept_ms),
            "finish_reason": last.finish,
            "native_finish_reason": last.finish,
            "tokens_prompt": prompt,
            "tokens_completion": completion,
            "native_tokens_prompt": prompt,
            "native_tokens_completion": completion,
            "native_tokens_cached": sum(each.receipt.cached_units for each in signed) if has_tokens else None,
            "is_byok": False,
            "api_type": API_TYPES.get(service),
            "data_region": "global",
            "key": last.key,
            "service": last.service,
            "input_units": in_units,
            "output_units": out_units,
            "orders": len(kept),
        }
    }
