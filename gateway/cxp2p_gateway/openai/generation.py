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
            "id": last.id,
            "upstream_id": last.order_id,
            "total_cost": cost,
            "usage": cost,
            "cache_discount": None,
            "upstream_inference_cost": None,
            "created_at": moment(kept[0].created_at_ms),
            "model": last.model,
            "app_id": None,
            "app": last.app or None,
            "origin": last.origin,
            "http_referer": last.origin or None,
            "streamed": last.streamed,
            "cancelled": receipt.finish is Finish.CANCELLED,
            "provider_name": last.node,
            "latency": max(0, receipt.t_first_ms - receipt.t_accept_ms),
            "moderation_latency": None,
            "generation_time": max(0, receipt.t_end_ms - receipt.t_accept_ms),
            "finish_reason": last.finish,
            "native_finish_reason": last.finish,
            "tokens_prompt": prompt,
            "tokens_completion": completion,
            "native_tokens_prompt": prompt,
            "native_tokens_completion": completion,
            "native_tokens_completion_images": None,
            "native_tokens_reasoning": None,
            "native_tokens_cached": sum(each.receipt.cached_units for each in signed) if has_tokens else None,
            "num_media_prompt": None,
            "num_input_audio_prompt": None,
            "num_media_completion": None,
            "num_search_results": None,
            "is_byok": False,
            "external_user": None,
            "api_type": API_TYPES.get(service),
            "router": None,
            "data_region": "global",
            "num_fetches": None,
            "preset_id": None,
            "provider_responses": None,
            "service_tier": None,
            "user_agent": None,
            "web_search_engine": None,
            "workspace_id": None,
            "key": last.key,
            "service": last.service,
            "input_units": in_units,
            "output_units": out_units,
            "orders": len(kept),
        }
    }
