"""From messages to a prompt, by the model's own chat template."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from types import FrameType
from typing import Any, NoReturn

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from cxp2p.errors import JobFailed
from cxp2p.records import FailureCode, Message, Role, Tool, ToolCall
from cxp2p_node.engines.segments import THINK_BEGIN, THINK_END, ToolFormat, format_of

RENDER_S_MAX = 2.0
PROMPT_CHARS_MAX = 32 * 1024 * 1024
REPEATED_CHARS_MAX = 64 * 1024
# What compiled templates raise: they are Python, and the messages that they meet are strangers'.
TEMPLATE_ERRORS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)
THINKING_NAMES = (
    "enable_thinking",
    "thinking",
)  # what templates call it: Qwen's and most others, DeepSeek's and Granite's

# For models that bring no template of their own: ChatML, which most small models understand.
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# For templates that know no tools: the words that Hermes' models were trained on.
TOOLS_TOLD = (
    "You may call functions. Their signatures, as JSON in <tools></tools>:\n<tools>\n{tools}\n</tools>\n"
    'For each call answer with <tool_call>\n{{"name": NAME, "arguments": OBJECT}}\n</tool_call>'
)


class _TooMuch(jinja2.TemplateError):
    """The template wants more time or room than a prompt may take."""


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, with its one gap closed: operators that make much out of little."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**":
            raise _TooMuch("powers are not allowed")
        for one, other in ((left, right), (right, left)):
            if isinstance(one, (str, list, tuple)) and isinstance(other, int) and len(one) * other > REPEATED_CHARS_MAX:
                raise _TooMuch("it repeats something too often")
        return super().call_binop(context, operator, left, right)


class ChatTemplate:
    """A chat template, compiled. It comes with the model file, so it is a stranger's: sandbox, time limit, size limit.

    The names that templates may use are those of Hugging Face's `apply_chat_template`.
    """

    def __init__(self, source: str, *, bos: str, eos: str, wall_s: float) -> None:
        def now(pattern: str) -> str:
            return datetime.fromtimestamp(wall_s, UTC).strftime(pattern)

        environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
        environment.filters["tojson"] = _tojson
        environment.globals.update(raise_exception=_raise, strftime_now=now, bos_token=bos, eos_token=eos)
        self._template = environment.from_string(source)
        self._knows_tools = "tools" in source
        self.tool_format: ToolFormat = format_of(source)

    def render(self, messages: Sequence[Message], tools: Sequence[Tool] = (), *, thinking: bool | None = None) -> str:
        """The prompt that asks for the next assistant turn. Raises JobFailed if the template refuses the messages.

        `thinking`: whether the model should think first; None: as the template has it. False also ends the thoughts
        that a template begins which does not know how to be told.
        """
        told = {} if thinking is None else dict.fromkeys(THINKING_NAMES, thinking)
        try:
            turns = [_turn(message) if self._knows_tools else _told(message) for message in messages]
            if tools and not self._knows_tools:
                turns = _with_tools(turns, tools)
            given = [_function(tool) for tool in tools] if tools and self._knows_tools else None
            with _time_limit(RENDER_S_MAX):
                prompt = self._render(messages=turns, add_generation_prompt=True, tools=given, **told)
            return thoughts_ended(prompt) if thinking is False else prompt
        except TEMPLATE_ERRORS as error:
            reason = f"the model's chat template refuses these messages: {error}"
            raise JobFailed(FailureCode.REQUEST_UNSUPPORTED, reason[:512]) from None

    def _render(self, **names: object) -> str:
        parts, size = [], 0
        for part in self._template.generate(**names):
            size += len(part)
            if size > PROMPT_CHARS_MAX:
                raise _TooMuch(f"the prompt is over {PROMPT_CHARS_MAX} characters")
            parts.append(part)
        return "".join(parts)


def begins_to_think(prompt: str) -> bool:
    """Whether the model goes on inside of its thoughts."""
    return prompt.rstrip().endswith(THINK_BEGIN)


def thoughts_ended(prompt: str) -> str:
    """A prompt after which the model answers, whether or not its template would have it think first."""
    return f"{prompt.rstrip()}\n\n{THINK_END}\n\n" if begins_to_think(prompt) else prompt


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Ends pure Python code in this thread after a while: templates are compiled to it."""
    deadline = time.monotonic() + seconds

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        if time.monotonic() > deadline:
            raise _TooMuch(f"it takes longer than {seconds:g} s")
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def _turn(message: Message) -> dict[str, Any]:
    """A message as templates know it."""
    role = Role.SYSTEM if message.role is Role.DEVELOPER else message.role
    turn: dict[str, Any] = {"role": str(role), "content": message.content}
    if message.name is not None:
        turn["name"] = message.name
    if message.tool_calls:
        turn["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": _arguments(call)}}
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        turn["tool_call_id"] = message.tool_call_id
    return turn


def _told(message: Message) -> dict[str, Any]:
    """A message for templates that know no tools: calls and their answers become text."""
    if message.role is Role.TOOL:
        return {"role": "user", "content": f"<tool_response>\n{message.content}\n</tool_response>"}
    turn = _turn(message)
    for call in turn.pop("tool_calls", ()):
        said = {"name": call["function"]["name"], "arguments": call["function"]["arguments"]}
        turn["content"] += f"\n<tool_call>\n{_tojson(said)}\n</tool_call>"
    turn["content"] = turn["content"].strip() if message.tool_calls else turn["content"]
    return turn


def _with_tools(turns: list[dict[str, Any]], tools: Sequence[Tool]) -> list[dict[str, Any]]:
    told = TOOLS_TOLD.format(tools="\n".join(_tojson(_function(tool)) for tool in tools))
    if turns and turns[0]["role"] == "system":
        return [{**turns[0], "content": f"{turns[0]['content']}\n\n{told}"}, *turns[1:]]
    return [{"role": "system", "content": told}, *turns]


def _function(tool: Tool) -> dict[str, Any]:
    try:
        parameters = json.loads(tool.parameters) if tool.parameters else {"type": "object", "properties": {}}
    except (ValueError, RecursionError) as error:
        reason = f"the parameters of tool {tool.name!r} are not JSON: {error}"
        raise JobFailed(FailureCode.SCHEMA_INVALID, reason[:512]) from None
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function}


def _arguments(call: ToolCall) -> Any:
    """Templates want an object; what a model once wrote may be none."""
    try:
        return json.loads(call.arguments)
    except (ValueError, RecursionError):
        return call.arguments


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _tojson(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)
