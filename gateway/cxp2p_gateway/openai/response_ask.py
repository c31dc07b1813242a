"""A request of the Responses API: a body becomes a ChatJob. Raises Fault, which names the parameter.

OpenAI keeps conversations for its clients; here nothing is kept, so whatever names an earlier response is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from cxp2p.records import ChatJob, Message, Role, ToolCall
from cxp2p_gateway.faults import Condition, Fault, invalid_type, out_of_range, unsupported
from cxp2p_gateway.fields import Fields, as_fields, checked_text, kind_of, ranged_length
from cxp2p_gateway.openai.ask import (
    EFFORTS,
    LOGPROBS_MAX,
    MESSAGES_MAX,
    TOKENS_MAX,
    ChatAsk,
    affinity_of,
    known_name,
    sampling_of,
)
from cxp2p_gateway.openai.forms import (
    CALLS_MAX,
    ID_LENGTH_MAX,
    Toolbox,
    demand_of,
    text_form_of,
    tools_of,
)

METADATA_MAX: Final = 16
METADATA_KEY_MAX: Final = 64
METADATA_VALUE_MAX: Final = 512
ROLES: Final = ("user", "assistant", "system", "developer")
TEXT_PARTS: Final = ("input_text", "output_text", "text")
MEDIA_PARTS: Final = {"input_image": "images", "input_file": "files", "input_audio": "sounds"}
LOGPROBS_INCLUDED: Final = "message.output_text.logprobs"
NOT_KEPT: Final = "this gateway keeps no responses; send the whole conversation as 'input'"
STORED: Final = ("previous_response_id", "conversation", "prompt")


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseAsk:
    """A request of the Responses API: the chat that it is, and what its answer repeats."""

    chat: ChatAsk
    repeated: Mapping[str, object]


def response_ask(body: dict[str, Any]) -> ResponseAsk:
    """The request that a body asks for. Raises Fault with the parameter that is missing, wrong or unsupported."""
    fields = Fields(body)
    model, given = fields.any("model"), fields.any("input")
    if model is None or model == "":
        raise Fault(Condition.INPUT_MISSING, "model")
    if given is None or given in ("", []):
        raise Fault(Condition.INPUT_MISSING, "input")
    if not isinstance(model, str):
        raise invalid_type("model", f"expected a string, got {kind_of(model)}")
    _refuse_stored(fields)
    stream = fields.flag("stream") or False
    if fields.object("stream_options") is not None and not stream:
        raise out_of_range("stream_options", "it is only allowed when 'stream' is true")
    box, form = tools_of(fields, flat=True), text_form_of(fields)
    limit = fields.whole("max_output_tokens", 1, None)
    sampling, effort = sampling_of(fields), _effort(fields)
    turns = _turns(fields, given)
    job = ChatJob(
        model=known_name(model),
        messages=turns,
        max_tokens=None if limit is None else min(limit, TOKENS_MAX),
        sampling=sampling,
        tools=box.tools,
        tool_mode=box.mode,
        tool_name=box.name,
        parallel_calls=box.parallel,
        form=form.form,
        schema=form.schema,
        logprobs=_logprobs(fields),
        thinking=None if effort is None else effort != "none",
    )
    chat = ChatAsk(
        job=job,
        stream=stream,
        include_usage=True,
        demand=demand_of(form, box, streamed=stream),
        affinity=affinity_of(fields),
        input_param="input",
        form_param="text.format",
    )
    return ResponseAsk(chat=chat, repeated=_repeated(fields, job, box, limit, effort))


def _refuse_stored(fields: Fields) -> None:
    for name in STORED:
        if fields.has(name):
            raise unsupported(name, NOT_KEPT)
    if fields.flag("background"):
        raise unsupported("background", NOT_KEPT)
    fields.flag("store")


def _effort(fields: Fields) -> str | None:
    reasoning = fields.object("reasoning")
    return None if reasoning is None else reasoning.choice("effort", EFFORTS)


def _logprobs(fields: Fields) -> int | None:
    included = [checked_text(each, f"include[{index}]") for index, each in enumerate(fields.list("include") or [])]
    top = fields.whole("top_logprobs", 0, LOGPROBS_MAX)
    return (top or 0) if top or LOGPROBS_INCLUDED in included else None


def _repeated(
    fields: Fields, job: ChatJob, box: Toolbox, limit: int | None, effort: str | None
) -> Mapping[str, object]:
    """What an answer says of its request, as OpenAI's does."""
    text = fields.object("text")
    return {
        "instructions": fields.text("instructions"),
        "max_output_tokens": limit,
        "metadata": _metadata(fields),
        "parallel_tool_calls": box.parallel,
        "previous_response_id": None,
        "reasoning": {"effort": effort, "summary": None},
        "store": False,
        "temperature": job.sampling.temperature,
        "text": {"format": (text.any("format") if text is not None else None) or {"type": "text"}},
        "tool_choice": fields.any("tool_choice") or "auto",
        "tools": [_tool(each) for each in fields.list("tools") or []],
        "top_logprobs": job.logprobs or 0,
        "top_p": job.sampling.top_p,
        "truncation": "disabled",
        "background": False,
    }


def _tool(given: Mapping[str, object]) -> dict[str, object]:
    tool = {name: given.get(name) for name in ("type", "name", "description", "parameters")}
    return {**tool, "strict": given.get("strict") or False}


def _metadata(fields: Fields) -> dict[str, str]:
    metadata = fields.object("metadata")
    if metadata is None:
        return {}
    raw = fields.any("metadata")
    ranged_length(len(raw), 0, METADATA_MAX, "metadata", "entries")
    told: dict[str, str] = {}
    for name in raw:
        ranged_length(len(checked_text(name, "metadata")), 0, METADATA_KEY_MAX, "metadata", "characters of a name")
        value = metadata.text(name)
        ranged_length(len(value or ""), 0, METADATA_VALUE_MAX, f"metadata.{name}", "characters")
        told[name] = value or ""
    return told


def _turns(fields: Fields, given: Any) -> tuple[Message, ...]:
    """The conversation: instructions, then a text or a list of items."""
    told = fields.text("instructions")
    turns = [] if not told else [Message(role=Role.SYSTEM, content=told)]
    if isinstance(given, str):
        return (*turns, Message(role=Role.USER, content=checked_text(given, "input")))
    if not isinstance(given, list):
        raise invalid_type("input", f"expected a string or an array of items, got {kind_of(given)}")
    ranged_length(len(given), 1, MESSAGES_MAX, "input", "items")
    calls: set[str] = set()
    for index, raw in enumerate(given):
        _add(turns, as_fields(raw, f"input[{index}]"), calls)
    ranged_length(len(turns), 1, MESSAGES_MAX, "input", "messages")
    return tuple(turns)


def _add(turns: list[Message], item: Fields, calls: set[str]) -> None:
    """Adds one item. What an assistant said and the calls it made then are one message, as templates have it."""
    match item.text("type"):
        case None | "message":
            turns.append(_message(item))
        case "function_call":
            call = _call(item)
            calls.add(call.id)
            follows = bool(turns) and turns[-1].role is Role.ASSISTANT
            last = turns.pop() if follows else Message(role=Role.ASSISTANT, content="")
            ranged_length(len(last.tool_calls) + 1, 1, CALLS_MAX, item.param("type"), "calls in a row")
            turns.append(replace(last, tool_calls=(*last.tool_calls, call)))
        case "function_call_output":
            answers = item.text("call_id")
            if answers not in calls:
                raise out_of_range(item.param("call_id"), "it does not answer a function call of an earlier item")
            turns.append(Message(role=Role.TOOL, content=_text(item, "output"), tool_call_id=answers))
        case "reasoning":
            pass  # a model thinks anew
        case "item_reference":
            raise unsupported(item.param("type"), NOT_KEPT)
        case _:
            raise unsupported(item.param("type"), "only messages, function calls and their outputs are available")


def _message(item: Fields) -> Message:
    role = item.choice("role", ROLES)
    if role is None:
        raise out_of_range(item.param("role"), f"it is missing; it is one of {', '.join(ROLES)}")
    return Message(role=Role(role), content=_text(item, "content"))


def _call(item: Fields) -> ToolCall:
    parts: dict[str, str] = {}
    for name in ("call_id", "name", "arguments"):
        part = item.text(name)
        if part is None:
            raise invalid_type(item.param(name), "expected a string, got null")
        if name != "arguments":
            ranged_length(len(part), 1, ID_LENGTH_MAX, item.param(name), "characters")
        parts[name] = part
    return ToolCall(id=parts["call_id"], name=parts["name"], arguments=parts["arguments"])


def _text(item: Fields, name: str) -> str:
    """A text, or several parts of it, which stand on lines of their own."""
    raw, param = item.any(name), item.param(name)
    if isinstance(raw, str):
        return checked_text(raw, param)
    if not isinstance(raw, list):
        raise invalid_type(param, f"expected a string or an array of parts, got {kind_of(raw)}")
    ranged_length(len(raw), 1, MESSAGES_MAX, param, "parts")
    return "\n".join(_part(as_fields(each, f"{param}[{index}]")) for index, each in enumerate(raw))


def _part(part: Fields) -> str:
    kind = part.text("type")
    if kind in MEDIA_PARTS:
        raise Fault(
            Condition.MODALITY_UNSUPPORTED, part.param("type"), {"problem": f"{MEDIA_PARTS[kind]} are not available"}
        )
    if kind != "refusal" and kind not in TEXT_PARTS:
        raise out_of_range(part.param("type"), f"it is not one of {', '.join(TEXT_PARTS)}")
    name = "refusal" if kind == "refusal" else "text"
    text = part.text(name)
    if text is None:
        raise invalid_type(part.param(name), "expected a string, got null")
    return text
