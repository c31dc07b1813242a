"""A chat request: a body becomes a ChatJob. Raises Fault, which names the parameter.

Where this gateway cannot do what a field asks for, it says so and names the field; fields it does not know, it
ignores, as OpenAI does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from cxp2p.records import ChatJob, Message, Role, Sampling
from cxp2p_gateway.faults import Condition, Fault, invalid_type, out_of_range
from cxp2p_gateway.fields import Fields, as_fields, checked_text, kind_of, ranged_length
from cxp2p_gateway.openai.demands import NOTHING, Demand
from cxp2p_gateway.openai.forms import calls_of, demand_of, form_of, must_have_form, tools_of

MODEL_LENGTH_MAX: Final = 128  # what a record can name; a longer one is unknown to everyone
MESSAGES_MAX: Final = 1024
NAME_LENGTH_MAX: Final = 128
STOPS_MAX: Final = 4
STOP_LENGTH_MAX: Final = 1024
BIASES_MAX: Final = 1024
TOKENS_MAX: Final = 2**31 - 1
LOGPROBS_MAX: Final = 20
CHOICES_MAX: Final = 8  # each is a job of its own
DEFAULTS: Final = Sampling()  # its temperature is the user guide's 0.7, not OpenAI's 1

AFFINITY_LENGTH_MAX: Final = 512
ROLES: Final = ("system", "developer", "user", "assistant", "tool", "function")
EFFORTS: Final = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
MEDIA_PARTS: Final = {"image_url": "images", "input_audio": "audio", "file": "files"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatAsk:
    """A chat request: the job, how often, and how its answer is wanted.

    `demand`: what each answer must be. `older_calls`: calls are wanted as `function_call`, as they were before tools.
    `affinity`: what the client calls requests that begin alike.
    `input_param`, `form_param`: the parameters that say what to answer, and in which form.
    """

    job: ChatJob
    stream: bool
    include_usage: bool
    choices: int = 1
    demand: Demand = NOTHING
    older_calls: bool = False
    affinity: str = ""
    input_param: str = "messages"
    form_param: str = "response_format"

    def job_of(self, index: int) -> ChatJob:
        """The job of one choice. Each draws with the seed after the last one's: they differ, and can be repeated."""
        seed = self.job.sampling.seed
        if seed is None or index == 0:
            return self.job
        seed += index
        return replace(self.job, sampling=replace(self.job.sampling, seed=seed if seed < 2**63 else seed - 2**64))


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
    toolbox = tools_of(fields)
    form = form_of(fields)
    stream = fields.flag("stream") or False
    options = fields.object("stream_options")
    if options is not None and not stream:
        raise out_of_range("stream_options", "it is only allowed when 'stream' is true")
    tokens_max = fields.whole("max_tokens", 1, None)
    completion_tokens_max = fields.whole("max_completion_tokens", 1, None)
    limit = tokens_max if completion_tokens_max is None else completion_tokens_max
    turns = _messages(messages)
    stops, sampling = _stops(fields), sampling_of(fields)
    if must_have_form(form, toolbox):
        stops = ()  # the form says where the answer ends; a stop string would only break it
    demand = demand_of(form, toolbox, streamed=stream) if not stops else NOTHING
    return ChatAsk(
        job=ChatJob(
            model=known_name(model),
            messages=turns,
            max_tokens=None if limit is None else min(limit, TOKENS_MAX),
            stop=stops,
            sampling=sampling,
            tools=toolbox.tools,
            tool_mode=toolbox.mode,
            tool_name=toolbox.name,
            parallel_calls=toolbox.parallel,
            form=form.form,
            schema=form.schema,
            logprobs=_logprobs(fields),
            thinking=_thinking(fields),
        ),
        stream=stream,
        include_usage=options is not None and (options.flag("include_usage") or False),
        choices=fields.whole("n", 1, CHOICES_MAX) or 1,
        demand=demand,
        older_calls=toolbox.older,
        affinity=affinity_of(fields),
    )


def affinity_of(fields: Fields) -> str:
    """What requests that begin alike have in common: the client's own word for it, or whom it asks for."""
    key, user = fields.text("prompt_cache_key"), fields.text("user")
    return (key or user or "")[:AFFINITY_LENGTH_MAX]


def known_name(model: str) -> str:
    """`model`, if it can be the name of one. Raises Fault."""
    if len(model) > MODEL_LENGTH_MAX or not _is_unicode(model):
        raise Fault(Condition.MODEL_UNKNOWN, "model", {"model": model})
    return model


def _refuse_unsupported(fields: Fields) -> None:
    for index, modality in enumerate(fields.list("modalities") or []):
        if checked_text(modality, f"modalities[{index}]") != "text":
            raise Fault(Condition.MODALITY_UNSUPPORTED, "modalities", {"problem": "only text is available"})


def _logprobs(fields: Fields) -> int | None:
    wanted = fields.flag("logprobs") or False
    top = fields.whole("top_logprobs", 0, LOGPROBS_MAX)
    if top and not wanted:
        raise out_of_range("top_logprobs", "it is only allowed when 'logprobs' is true")
    return (top or 0) if wanted else None


def _thinking(fields: Fields) -> bool | None:
    """Whether a model that can should think first: what the template is told wins over how hard it should try."""
    settings = fields.object("chat_template_kwargs")
    told = settings.flag("enable_thinking") if settings is not None else None
    effort = fields.choice("reasoning_effort", EFFORTS)
    if told is not None or effort is None:
        return told
    return effort != "none"


def sampling_of(fields: Fields) -> Sampling:
    """How the next token is drawn."""

    def number(name: str, least: float, most: float, default: float) -> float:
        value = fields.number(name, least, most)
        return default if value is None else value

    return Sampling(
        temperature=number("temperature", 0, 2, DEFAULTS.temperature),
        top_p=number("top_p", 0, 1, DEFAULTS.top_p),
        frequency_penalty=number("frequency_penalty", -2, 2, DEFAULTS.frequency_penalty),
        presence_penalty=number("presence_penalty", -2, 2, DEFAULTS.presence_penalty),
        top_k=fields.whole("top_k", 0, 2**31 - 1) or 0,
        min_p=number("min_p", 0, 1, DEFAULTS.min_p),
        repeat_penalty=number("repetition_penalty", 0.01, 10, number("repeat_penalty", 0.01, 10, 1.0)),
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
    return tuple(_message(as_fields(value, f"messages[{index}]"), calls) for index, value in enumerate(raw))


def _message(fields: Fields, calls: set[str]) -> Message:
    """`calls`: the ids of the tool calls so far; an answer to another one is refused."""
    role = fields.choice("role", ROLES)
    if role is None:
        raise out_of_range(fields.param("role"), f"it is missing; it is one of {', '.join(ROLES)}")
    name = fields.text("name")
    if name is not None:
        ranged_length(len(name), 1, NAME_LENGTH_MAX, fields.param("name"), "characters")
    made = calls_of(fields) if role == "assistant" else ()
    calls |= {call.id for call in made}
    answers = fields.text("tool_call_id") if role == "tool" else None
    if role == "tool" and answers not in calls:
        raise out_of_range(fields.param("tool_call_id"), "it does not answer a tool call of an earlier message")
    content = _content(fields, role)
    if content is None and not made and role != "function":
        raise invalid_type(fields.param("content"), "expected a string or an array of parts, got null")
    return Message(
        role=Role.TOOL if role == "function" else Role(role),
        content=content or "",
        name=name,
        tool_calls=made,
        tool_call_id=answers,
    )


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
