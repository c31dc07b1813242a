"""From a job to the JSON of OpenAI's API, as each kind of server knows it. Pure."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from hashlib import sha256
from typing import Any, Final

from cxp2p.errors import JobFailed, one_line
from cxp2p.records import AnswerForm, ChatJob, FailureCode, Message, Role, Sampling, Tool, ToolMode
from cxp2p_node.engines.upstream_faults import Kind, ServerFault

NAMES_TOLD: Final = 5
SEED_BITS: Final = 31  # what every server takes
BYTES_PER_UNIT_MOST: Final = 8  # a prompt whose length nobody tells is charged as if each token had so many bytes
DEFAULTS: Final = Sampling()


class Maker(StrEnum):
    """Which program the server is, as far as it matters to what it understands."""

    VLLM = "vllm"
    SGLANG = "sglang"
    LLAMA_CPP = "llama.cpp"
    OLLAMA = "ollama"
    OTHER = "openai-compatible"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the server tells of itself. `model`: the id to ask it for; `context_units`, `slots`: 0 if not told."""

    maker: Maker
    model: str
    version: str = ""
    context_units: int = 0
    slots: int = 0

    @property
    def runtime(self) -> str:
        """The label in offers and receipts."""
        return one_line(f"upstream {self.maker} {self.version}".strip(), 100)


def declared_digest(model: str, digest: str) -> bytes:
    """What stands for the weights' digest: the model's id at the server, and what the operator declares besides."""
    return sha256(f"cxp2p upstream 1\n{model}\n{digest}".encode(errors="replace")).digest()


# What a server tells.


def facts_of_models(listing: object, model: str, *, sole: bool) -> Facts:
    """What GET /models tells of `model`. `sole`: if there is but one model there, it is meant, whatever its name.

    Raises ServerFault if the listing is none, or does not have the model; then it says which are near.
    """
    data = listing.get("data") if isinstance(listing, dict) else None
    if not isinstance(data, list):
        raise ServerFault(Kind.BROKEN, "GET /models does not answer with a list of models")
    cards = [card for card in data if isinstance(card, dict) and isinstance(card.get("id"), str)]
    card = next((card for card in cards if model in _names(card)), None)
    if card is None and sole and len(cards) == 1:
        card = cards[0]
    if card is None:
        raise ServerFault(Kind.SETUP, _no_model(model, [str(card["id"]) for card in cards]))
    meta = card.get("meta")
    n_ctx = meta.get("n_ctx") if isinstance(meta, dict) else None
    return Facts(
        maker=_MAKERS.get(str(card.get("owned_by")), Maker.OTHER),
        model=card["id"],
        context_units=count_of(card.get("max_model_len")) or count_of(n_ctx),
    )


_MAKERS: Final = {"vllm": Maker.VLLM, "sglang": Maker.SGLANG, "llamacpp": Maker.LLAMA_CPP}


def _names(card: dict[str, Any]) -> list[str]:
    aliases = card.get("aliases")
    names = [card["id"], *(aliases if isinstance(aliases, list) else [])]
    return names + [name.removesuffix(":latest") for name in names if isinstance(name, str)]


def _no_model(model: str, ids: Sequence[str]) -> str:
    if not ids:
        return f"it has no model {model!r}, nor any other"
    near = get_close_matches(model, ids, NAMES_TOLD, 0.4)
    told = one_line(", ".join(near or ids[:NAMES_TOLD]))
    which = "near to it are" if near else f"it has {len(ids)}, for instance"
    return f"it has no model {model!r}; {which} {told}: set `upstream_model`"


def count_of(value: object) -> int:
    """A number of tokens that a server tells; 0 if it is none."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31:
        return value
    return 0


# A chat.

# What a server's API does not know, and drops without a word.
_IGNORED: Final = {Maker.OLLAMA: ("top_k", "min_p", "repeat_penalty", "logit_bias")}


def chat_body(job: ChatJob, facts: Facts, tokens_max: int | None) -> dict[str, Any]:
    """The body of POST /chat/completions. Raises JobFailed for what this server is known to ignore."""
    for name in _IGNORED.get(facts.maker, ()):
        if getattr(job.sampling, name) != getattr(DEFAULTS, name):
            why = f"the server of this model does not know {name}"
            raise JobFailed(FailureCode.REQUEST_UNSUPPORTED, why)
    body: dict[str, Any] = {
        "model": facts.model,
        "messages": [_message(message) for message in job.messages],
        "stream": True,
        "stream_options": {"include_usage": True},
        **_sampling(job.sampling, facts.maker),
        **_form(job),
        **_tools(job, facts.maker),
        **_own_words(job, facts.maker),
    }
    if tokens_max is not None:
        body["max_tokens"] = tokens_max
    if job.stop:
        body["stop"] = list(job.stop)
    if job.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": job.logprobs}
    return body


def _message(message: Message) -> dict[str, Any]:
    # Few templates know a developer; to OpenAI's own models both are the same.
    role = Role.SYSTEM if message.role is Role.DEVELOPER else message.role
    turn: dict[str, Any] = {"role": str(role), "content": message.content}
    if message.name is not None:
        turn["name"] = message.name
    if message.tool_calls:
        turn["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        turn["tool_call_id"] = message.tool_call_id
    return turn


def _sampling(sampling: Sampling, maker: Maker) -> dict[str, Any]:
    """OpenAI's fields, and of the others those that are set, or that the server would choose otherwise."""
    fields: dict[str, Any] = {"temperature": sampling.temperature, "top_p": sampling.top_p}
    knows = maker in (Maker.VLLM, Maker.SGLANG, Maker.LLAMA_CPP)
    all_tokens = 0 if maker is Maker.LLAMA_CPP else -1
    penalty = "repeat_penalty" if maker is Maker.LLAMA_CPP else "repetition_penalty"
    if knows or sampling.top_k:
        fields["top_k"] = sampling.top_k or all_tokens
    if knows or sampling.min_p:
        fields["min_p"] = sampling.min_p
    if knows or sampling.repeat_penalty != DEFAULTS.repeat_penalty:
        fields[penalty] = sampling.repeat_penalty
    if sampling.frequency_penalty:
        fields["frequency_penalty"] = sampling.frequency_penalty
    if sampling.presence_penalty:
        fields["presence_penalty"] = sampling.presence_penalty
    if sampling.logit_bias:
        fields["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias}
    if sampling.seed is not None:
        fields["seed"] = sampling.seed % 2**SEED_BITS
    return fields


def _form(job: ChatJob) -> dict[str, Any]:
    match job.form:
        case AnswerForm.TEXT:
            return {}
        case AnswerForm.JSON_OBJECT:
            return {"response_format": {"type": "json_object"}}
        case AnswerForm.JSON_SCHEMA:
            schema = {"name": "answer", "schema": _json_of(job.schema, "the schema"), "strict": True}
            return {"response_format": {"type": "json_schema", "json_schema": schema}}


def _tools(job: ChatJob, maker: Maker) -> dict[str, Any]:
    """The tools and which must be called; none if none may be: no server can then get it wrong."""
    if not job.tools or job.tool_mode is ToolMode.NONE:
        return {}
    tools = job.tools
    fields: dict[str, Any] = {"tool_choice": str(job.tool_mode)}
    if job.tool_mode is ToolMode.NAMED:
        fields["tool_choice"] = {"type": "function", "function": {"name": job.tool_name}}
        if maker is Maker.LLAMA_CPP:  # it takes a name for `auto`
            fields["tool_choice"] = "required"
            tools = tuple(tool for tool in tools if tool.name == job.tool_name)
    fields["tools"] = [_tool(tool) for tool in tools]
    if not job.parallel_calls:
        fields["parallel_tool_calls"] = False
    return fields


def _tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    parameters = _json_of(tool.parameters, f"the parameters of {tool.name}") if tool.parameters else None
    function["parameters"] = parameters or {"type": "object", "properties": {}}
    return {"type": "function", "function": function}


def _own_words(job: ChatJob, maker: Maker) -> dict[str, Any]:
    """What only this kind of server understands: how it tells its counts, salts its cache, thinks or does not."""
    fields: dict[str, Any] = {}
    if maker in (Maker.VLLM, Maker.SGLANG):
        fields["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
        if job.cache_salt:
            fields["cache_salt"] = base64.b64encode(job.cache_salt).decode()
    if maker is Maker.VLLM:
        fields["return_token_ids"] = True
    if maker is Maker.LLAMA_CPP:
        fields["timings_per_token"] = True
        if job.cache_salt:  # it knows no salt: no job may find what another has left, unless its slot is seen to
            fields["cache_prompt"] = False
    if job.thinking is not None:
        if maker in (Maker.VLLM, Maker.SGLANG, Maker.LLAMA_CPP):
            fields["chat_template_kwargs"] = {"enable_thinking": job.thinking}
        elif not job.thinking:
            fields["reasoning_effort"] = "none"
    return fields


def _json_of(text: str, what: str) -> object:
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        raise JobFailed(FailureCode.SCHEMA_INVALID, f"{what} is not JSON") from None
    return value


def prompt_units_least(job: ChatJob) -> int:
    """What a prompt surely has, for a server that does not tell before its answer ends, if at all."""
    texts = [message.content for message in job.messages]
    texts += [call.arguments for message in job.messages for call in message.tool_calls]
    if job.tool_mode is not ToolMode.NONE:
        texts += [tool.description + tool.parameters for tool in job.tools]
    return sum(len(text.encode(errors="replace")) for text in texts) // BYTES_PER_UNIT_MOST + len(job.messages)
