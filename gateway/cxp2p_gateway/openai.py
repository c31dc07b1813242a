"""OpenAI's JSON: a body becomes a ChatJob, pieces become chunks. No other module knows its shapes.

Facts from OpenAI's published API description, and from reading what its SDKs send and accept. Where this gateway cannot
do what a field asks for, it says so and names the field; fields it does not know, it ignores, as OpenAI does.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from cxp2p.client import Outcome, Settlement
from cxp2p.records import ChatJob, Finish, Message, Role, Sampling, Service
from cxp2p_gateway import sse
from cxp2p_gateway.asking import ModelCard
from cxp2p_gateway.faults import Condition, Fault, invalid_type, out_of_range, unsupported
from cxp2p_gateway.fields import Fields, as_fields, checked_text, kind_of, ranged_length

MODEL_LENGTH_MAX: Final = 128  # what a record can name; a longer one is unknown to everyone
MESSAGES_MAX: Final = 1024
NAME_LENGTH_MAX: Final = 128
STOPS_MAX: Final = 4
STOP_LENGTH_MAX: Final = 1024
BIASES_MAX: Final = 1024
TOKENS_MAX: Final = 2**31 - 1
NODE_PREFIX_LENGTH: Final = 16  # of a peer id: the first 8 characters are the same for every Ed25519 key
DEFAULTS: Final = Sampling()  # its temperature is the user guide's 0.7, not OpenAI's 1
NO_CALLS: Final = "function calling is not available yet"

ROLES: Final = ("system", "developer", "user", "assistant", "tool", "function")
MEDIA_PARTS: Final = {"image_url": "images", "input_audio": "audio", "file": "files"}
FINISH_REASONS: Final = {Finish.STOP: "stop", Finish.LENGTH: "length"}
SUPPORTED: Final = (
    "frequency_penalty",
    "logit_bias",
    "max_completion_tokens",
    "max_tokens",
    "presence_penalty",
    "seed",
    "stop",
    "stream",
    "stream_options",
    "temperature",
    "top_p",
)
MODALITIES: Final = {
    Service.CHAT: ("text", "text"),
    Service.EMBED: ("text", "embeddings"),
    Service.SPEECH: ("text", "audio"),
    Service.SCRAPE: ("text", "text"),
}

DONE: Final = sse.event("[DONE]")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatAsk:
    """A chat request: the job, and how its answer is wanted."""

    job: ChatJob
    stream: bool
    include_usage: bool


def chat_ask(body: dict[str, Any]) -> ChatAsk:
    """The chat request that a body asks for. Raises Fault with the parameter that is missing, wrong or unsupported."""
    fields = Fields(body)
    model = fields.any("model")
    if model is None or model == "":
        raise Fault(Condition.PARAMETER_MISSING, "model")
    messages = fields.list("messages")
    if not messages:
        raise Fault(Condition.PARAMETER_MISSING, "messages")
    if not isinstance(model, str):
        raise invalid_type("model", f"expected a string, got {kind_of(model)}")
    ranged_length(len(messages), 1, MESSAGES_MAX, "messages", "messages")
    _refuse_unsupported(fields)
    stream = fields.flag("stream") or False
    options = fields.object("stream_options")
    if options is not None and not stream:
        raise out_of_range("stream_options", "it is only allowed when 'stream' is true")
    tokens_max = fields.whole("max_tokens", 1, None)
    completion_tokens_max = fields.whole("max_completion_tokens", 1, None)
    limit = tokens_max if completion_tokens_max is None else completion_tokens_max
    turns = _messages(messages)
    stops, sampling = _stops(fields), _sampling(fields)
    if len(model) > MODEL_LENGTH_MAX or not _is_unicode(model):
        raise Fault(Condition.MODEL_UNKNOWN, "model", {"model": model})
    return ChatAsk(
        job=ChatJob(
            model=model,
            messages=turns,
            max_tokens=None if limit is None else min(limit, TOKENS_MAX),
            stop=stops,
            sampling=sampling,
        ),
        stream=stream,
        include_usage=options is not None and (options.flag("include_usage") or False),
    )


def _refuse_unsupported(fields: Fields) -> None:
    for name in ("tools", "functions"):
        if fields.list(name):
            raise unsupported(name, NO_CALLS)
    for name in ("tool_choice", "function_call"):
        wanted = fields.any(name)
        if wanted is not None and not isinstance(wanted, str | dict):
            raise invalid_type(name, f"expected a string or an object, got {kind_of(wanted)}")
        if wanted not in (None, "none", "auto"):
            raise unsupported(name, NO_CALLS)
    _refuse_formats(fields)
    if fields.flag("logprobs"):
        raise unsupported("logprobs", "log probabilities are not available yet")
    if fields.whole("top_logprobs", 0, 20):
        raise unsupported("top_logprobs", "log probabilities are not available yet")
    if (fields.whole("n", 1, 128) or 1) > 1:
        raise unsupported("n", "only one choice per request is available")
    for index, modality in enumerate(fields.list("modalities") or []):
        if checked_text(modality, f"modalities[{index}]") != "text":
            raise Fault(Condition.MODALITY_UNSUPPORTED, "modalities", {"problem": "only text is available"})


def _refuse_formats(fields: Fields) -> None:
    wanted = fields.any("response_format")
    if wanted is None:
        return
    if not isinstance(wanted, str | dict):
        raise invalid_type("response_format", f"expected a string or an object, got {kind_of(wanted)}")
    kind = wanted if isinstance(wanted, str) else as_fields(wanted, "response_format").text("type")
    if kind in ("json", "json_object", "json_schema"):
        raise unsupported("response_format", "only plain text is available yet")
    if kind != "text":
        param = "response_format" if isinstance(wanted, str) else "response_format.type"
        raise out_of_range(param, "it is not one of text, json_object, json_schema")


def _sampling(fields: Fields) -> Sampling:
    def number(name: str, least: int, most: int, default: float) -> float:
        value = fields.number(name, least, most)
        return default if value is None else value

    return Sampling(
        temperature=number("temperature", 0, 2, DEFAULTS.temperature),
        top_p=number("top_p", 0, 1, DEFAULTS.top_p),
        frequency_penalty=number("frequency_penalty", -2, 2, DEFAULTS.frequency_penalty),
        presence_penalty=number("presence_penalty", -2, 2, DEFAULTS.presence_penalty),
        logit_bias=_biases(fields),
        seed=fields.whole("seed", -(2**63), 2**63 - 1),
    )


def _biases(fields: Fields) -> tuple[tuple[int, float], ...]:
    raw = fields.any("logit_bias")
    if raw is None:
        return ()
    biases = as_fields(raw, "logit_bias")
    ranged_length(len(raw), 0, BIASES_MAX, "logit_bias", "entries")
    found: list[tuple[int, float]] = []
    for token in raw:
        if not (token.isascii() and token.isdigit() and len(token) <= 10 and int(token) < 2**32):
            raise out_of_range("logit_bias", "its keys are token ids, whole numbers from 0 to 4294967295")
        bias = biases.number(token, -100, 100)
        if bias is not None:
            found.append((int(token), bias))
    return tuple(found)


def _stops(fields: Fields) -> tuple[str, ...]:
    raw = fields.any("stop")
    if raw is None:
        return ()
    if isinstance(raw, str):
        stops = [("stop", raw)]
    else:
        listed = fields.list("stop") or []
        ranged_length(len(listed), 0, STOPS_MAX, "stop", "strings")
        stops = [(f"stop[{index}]", stop) for index, stop in enumerate(listed)]
    for param, stop in stops:
        ranged_length(len(checked_text(stop, param)), 1, STOP_LENGTH_MAX, param, "characters")
    return tuple(stop for _, stop in stops)


def _messages(raw: list[Any]) -> tuple[Message, ...]:
    calls: set[str] = set()
    each = [as_fields(value, f"messages[{index}]") for index, value in enumerate(raw)]
    turns = tuple(_message(fields, calls) for fields in each)
    for fields in each:
        for name in ("tool_calls", "function_call"):
            if fields.any(name):
                raise unsupported(fields.param(name), NO_CALLS)
        if fields.any("role") == "function":
            raise unsupported(fields.param("role"), NO_CALLS)
    return turns


def _message(fields: Fields, calls: set[str]) -> Message:
    """`calls`: the ids of the tool calls so far; an answer to another one is refused."""
    role = fields.choice("role", ROLES)
    if role is None:
        raise out_of_range(fields.param("role"), f"it is missing; it is one of {', '.join(ROLES)}")
    name = fields.text("name")
    if name is not None:
        ranged_length(len(name), 1, NAME_LENGTH_MAX, fields.param("name"), "characters")
    may_be_empty = role == "function"
    if role == "assistant":
        calls_made = _calls(fields)
        calls |= calls_made
        may_be_empty = bool(calls_made) or fields.object("function_call") is not None
    if role == "tool" and fields.text("tool_call_id") not in calls:
        raise out_of_range(fields.param("tool_call_id"), "it does not answer a tool call of an earlier message")
    content = _content(fields, role)
    if content is None and not may_be_empty:
        raise invalid_type(fields.param("content"), "expected a string or an array of parts, got null")
    return Message(role=Role.TOOL if role == "function" else Role(role), content=content or "", name=name)


def _calls(fields: Fields) -> set[str]:
    """The ids of the tool calls in an assistant's message, whose shape is checked."""
    ids: set[str] = set()
    for index, raw in enumerate(fields.list("tool_calls") or []):
        call = as_fields(raw, fields.param(f"tool_calls[{index}]"))
        call_id = call.text("id")
        if call_id is None:
            raise invalid_type(call.param("id"), "expected a string, got null")
        ids.add(call_id)
        kind = call.choice("type", ("function", "custom")) or "function"
        called = call.object(kind)
        if called is None:
            raise invalid_type(call.param(kind), "expected an object, got null")
        for part in ("name", "arguments" if kind == "function" else "input"):
            if called.text(part) is None:
                raise invalid_type(called.param(part), "expected a string, got null")
    return ids


def _content(fields: Fields, role: str) -> str | None:
    """The text of a message; several text parts stand on lines of their own, as llama.cpp and vLLM do it."""
    raw = fields.any("content")
    if raw is None or isinstance(raw, str):
        return fields.text("content")
    param = fields.param("content")
    if not isinstance(raw, list):
        raise invalid_type(param, f"expected a string or an array of parts, got {kind_of(raw)}")
    ranged_length(len(raw), 1, MESSAGES_MAX, param, "parts")
    texts: list[str] = []
    for index, each in enumerate(raw):
        part = as_fields(each, f"{param}[{index}]")
        kind = part.text("type")
        if kind in MEDIA_PARTS and role == "user":
            problem = (
                f"{MEDIA_PARTS[kind]} are not available yet" if kind != "input_audio" else "audio is not available"
            )
            raise Fault(Condition.MODALITY_UNSUPPORTED, part.param("type"), {"problem": problem})
        if kind != "text" and not (kind == "refusal" and role == "assistant"):
            raise out_of_range(part.param("type"), f"it is not a kind of part that a message of role '{role}' may have")
        text = part.text(kind)
        if text is None:
            raise invalid_type(part.param(kind), "expected a string, got null")
        texts.append(text)
    return "\n".join(texts)


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


class Chunks:
    """Makes the chunks of one streamed answer. Only the text changes from chunk to chunk, so only it is encoded."""

    def __init__(self, ask: ChatAsk, generation: str, created_s: int) -> None:
        head = {
            "id": generation,
            "object": "chat.completion.chunk",
            "created": created_s,
            "model": ask.job.model,
        }
        self._head = sse.one_line(_json(head)[:-1])
        self._usage = ',"usage":null' if ask.include_usage else ""
        self._before = f'data: {self._head},"choices":[{{"index":0,"delta":{{"content":'.encode()
        self._after = f'}},"logprobs":null,"finish_reason":null}}]{self._usage}}}\n\n'.encode()
        self.role = self._choice('{"role":"assistant","content":""}', "null", "")

    def text(self, text: str) -> bytes:
        return self._before + sse.one_line(_json(text)).encode() + self._after

    def finish(self, reason: str, cx: dict[str, object] | None) -> bytes:
        """The chunk that says why the answer ended."""
        return self._choice("{}", f'"{reason}"', _extra(cx))

    def usage(self, settlement: Settlement, cx: dict[str, object] | None) -> bytes:
        """The chunk without choices that only clients get who asked for it."""
        return f'data: {self._head},"choices":[],"usage":{_json(usage(settlement))}{_extra(cx)}}}\n\n'.encode()

    def _choice(self, delta: str, reason: str, extra: str) -> bytes:
        choice = f'{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":{reason}}}'
        return f'data: {self._head},"choices":[{choice}]{self._usage}{extra}}}\n\n'.encode()


def completion(
    ask: ChatAsk,
    generation: str,
    created_s: int,
    text: str,
    reason: str,
    outcome: Outcome,
    cx: dict[str, object] | None,
) -> dict[str, object]:
    """The whole answer of a request that is not streamed."""
    message = {"role": "assistant", "content": text, "refusal": None}
    body: dict[str, object] = {
        "id": generation,
        "object": "chat.completion",
        "created": created_s,
        "model": ask.job.model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": reason}],
        "usage": usage(outcome.settlement),
    }
    return body if cx is None else body | {"cx": cx}


def finish_reason(settlement: Settlement) -> str | None:
    """OpenAI's word for how a job ended; None if it did not end by itself, so that the answer is not whole."""
    return FINISH_REASONS.get(settlement.receipt.finish)


def usage(settlement: Settlement) -> dict[str, object]:
    """Token counts that both sides signed."""
    agreed = settlement.countersign
    return {
        "prompt_tokens": agreed.in_units,
        "completion_tokens": agreed.out_units,
        "total_tokens": agreed.in_units + agreed.out_units,
        "prompt_tokens_details": {"cached_tokens": settlement.receipt.cached_units},
    }


def cx_object(outcome: Outcome) -> dict[str, object]:
    """How an answer came about, for clients that ask. `route`: by load is the one rule of choice there is yet."""
    return {
        "node": outcome.node[:NODE_PREFIX_LENGTH],
        "attempts": outcome.attempts,
        "resumed": 0,
        "queue_ms": outcome.queued_ms,
        "route": "load",
        "found": {"via": outcome.found_via, "lookup_ms": outcome.lookup_ms},
    }


def model_object(card: ModelCard) -> dict[str, object]:
    """One model, with what a client wants to know before it chooses. Prices: credits per token, as decimal strings."""
    reads, writes = MODALITIES[card.service]
    return {
        "id": card.model,
        "object": "model",
        "created": card.since_s,
        "owned_by": "cxp2p",
        "context_length": card.context_units,
        "max_output_tokens": card.output_units_max,
        "architecture": {"input_modalities": [reads], "output_modalities": [writes]},
        "supported_parameters": list(SUPPORTED) if card.service is Service.CHAT else [],
        "pricing": {"prompt": _price(card.prices.input), "completion": _price(card.prices.output)},
        "providers": {
            "count": card.nodes,
            "p50_ttft_ms": card.first_piece_ms_p50 or None,
            "p50_tps": card.units_per_s_p50 or None,
        },
    }


def model_list(cards: tuple[ModelCard, ...]) -> dict[str, object]:
    """All models."""
    return {"object": "list", "data": [model_object(card) for card in cards]}


def _price(micro_per_million: int) -> str:
    return f"{Decimal(micro_per_million).scaleb(-12).normalize():f}"


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _extra(cx: dict[str, object] | None) -> str:
    return "" if cx is None else f',"cx":{_json(cx)}'
