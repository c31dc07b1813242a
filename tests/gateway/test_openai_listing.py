"""Models as OpenAI lists them."""

from __future__ import annotations

from typing import Any

import pytest

from cxp2p.records import Load, Prices, Service
from cxp2p_gateway import openai
from cxp2p_gateway.asking import NodeCard
from cxp2p_gateway.faults import Fault
from cxp2p_gateway.openai import ChatAsk, EmbedRules, chat_ask
from cxp2p_gateway.pages import scrape_ask
from doors import NODE, card, chat_body
from worlds import capability

RULES = EmbedRules()


def test_models_say_what_a_client_wants_to_know_first() -> None:
    """A model object has OpenAI's four keys, and context, limits, prices as decimals per token, and who offers it."""
    assert openai.model_list((card(),), RULES) == {
        "object": "list",
        "data": [
            {
                "id": "smollm2:135m",
                "object": "model",
                "created": 1_690_000_000,
                "owned_by": "cxp2p",
                "context_length": 2048,
                "max_output_tokens": 1024,
                "architecture": {"input_modalities": ["text"], "output_modalities": ["text"]},
                "quantization": None,
                "supported_parameters": list(openai.SUPPORTED),
                "pricing": {"prompt": "0.00000015", "completion": "0.0000006"},
                "providers": {"count": 2, "p50_ttft_ms": 120, "p50_tps": 35},
            }
        ],
    }
    unmeasured = openai.model_object(
        card(first_piece_ms_p50=0, units_per_s_p50=0, prices=Prices(input=0, output=10**12)), RULES
    )
    assert unmeasured["providers"] == {"count": 2, "p50_ttft_ms": None, "p50_tps": None}
    assert unmeasured["pricing"] == {"prompt": "0", "completion": "1"}


@pytest.mark.parametrize(("model", "shortens"), [("all-minilm-l6-v2", False), ("nomic-embed-text:v1.5", True)])
def test_an_embedding_model_is_listed_as_one(model: str, shortens: bool) -> None:
    """Text in, vectors out, and no tokens; `dimensions` only where they can be chosen."""
    listed = openai.model_object(card(model, service=Service.EMBED, output_units_max=2048), RULES)

    assert listed["architecture"] == {"input_modalities": ["text"], "output_modalities": ["embeddings"]}
    assert listed["max_output_tokens"] is None
    assert listed["supported_parameters"] == ["dimensions"] * shortens + ["encoding_format", "truncate"]


def test_who_fetches_pages_is_not_taken_for_a_chat_model() -> None:
    """URLs in, text out; every parameter that it lists is one of a scrape request."""
    listed = openai.model_object(card("web", service=Service.SCRAPE, output_units_max=50), RULES)

    assert listed["architecture"] == {"input_modalities": ["url"], "output_modalities": ["text"]}
    assert listed["max_output_tokens"] is None
    for name in openai.listing.SCRAPE_SUPPORTED:
        with pytest.raises(Fault) as caught:
            scrape_ask({"urls": ["https://a.example/"], name: []})
        assert caught.value.param == name


def test_every_parameter_that_is_called_supported_is_accepted() -> None:
    """The list that models show is true."""
    values: dict[str, Any] = {
        "logit_bias": {"1": 1},
        "logprobs": True,
        "parallel_tool_calls": True,
        "reasoning_effort": "none",
        "response_format": "json",
        "stop": "x",
        "stream": True,
        "stream_options": {},
        "tool_choice": "auto",
        "tools": [{"type": "function", "function": {"name": "f"}}],
    }
    assert isinstance(chat_ask(chat_body(**{name: values.get(name, 1) for name in openai.SUPPORTED})), ChatAsk)
    assert {service: openai.listing.MODALITIES[service] for service in Service}


def offered(runtime: str = "echo 1", node: str = NODE, **changes: Any) -> NodeCard:
    return NodeCard(node=node, capability=capability("smollm2:135m", runtime=runtime, **changes))


def test_the_nodes_of_a_model_are_told_with_their_load() -> None:
    """As OpenRouter has it, and each node by the part of its id that answers show too."""
    load = Load(running=2, queued=1, first_piece_ms=0, units_per_s=40, loading_ms=0)
    runtime = "llama.cpp 0.3.36 llama 135M Q8_0"
    told: Any = openai.model_endpoints(card(offered=(offered(runtime, load=load, slots=4),)), RULES)

    assert told["data"].keys() == {"id", "name", "created", "description", "architecture", "endpoints"}
    (endpoint,) = told["data"]["endpoints"]
    assert endpoint["provider_name"] == endpoint["tag"] == NODE[:16]
    assert (endpoint["quantization"], endpoint["runtime"], endpoint["status"]) == ("Q8_0", runtime, 0)
    assert (endpoint["slots"], endpoint["max_completion_tokens"]) == (4, capability("m").output_units_max)
    assert endpoint["load"] == {"running": 2, "queued": 1, "ttft_ms": None, "tps": 40, "loading_ms": 0}


@pytest.mark.parametrize(
    ("runtimes", "said"),
    [
        (["llama.cpp 0.3.36 llama 1B Q4_K - Medium"], "Q4_K"),
        (["llama.cpp 0.3.36 bert 22M F16", "llama.cpp 0.3.40 bert 22M F16"], "F16"),
        (["llama.cpp 0.3.36 qwen2 7B IQ2_XS - 2.3125 bpw"], "IQ2_XS"),
        (["llama.cpp 0.3.36 gpt-oss 20B MXFP4 MoE"], "MXFP4"),
        (["llama.cpp 0.3.36 llama 1B BF16", "llama.cpp 0.3.36 llama 1B Q8_0"], None),
        (["vllm 0.11", "llama.cpp 0.3.36 llama 1B Q8_0"], None),
        (["Q8node.F16x"], None),
        ([], None),
    ],
)
def test_a_quantization_is_what_all_nodes_say(runtimes: list[str], said: str | None) -> None:
    """In llama.cpp's words; null where one says nothing, or another one."""
    shown = tuple(offered(runtime, f"peer-{number}") for number, runtime in enumerate(runtimes))
    assert openai.model_object(card(offered=shown), RULES)["quantization"] == said
