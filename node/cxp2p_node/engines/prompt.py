"""From messages to a prompt, by the model's own chat template."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from cxp2p.errors import JobFailed
from cxp2p.records import FailureCode, Message, Tool
from cxp2p_node.engines.marks import HERMES, THINK_BEGIN, THINK_END, ToolFormat, format_of
from cxp2p_node.engines.turns import (
    TOOLS_TOLD,
    Turns,
    function_of,
    one_call_each,
    one_system,
    short_ids,
    text_arguments,
    told_turn,
    turn_of,
    user_is_system,
    with_tools,
)
from cxp2p_node.templates.sandbox import TemplateFault

THINKING_NAMES: Final = (
    "enable_thinking",
    "thinking",
)  # what templates call it: Qwen's and most others, DeepSeek's and Granite's

# For models that bring no template of their own: ChatML, which most small models understand.
CHATML: Final = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SHORT_IDS_WANTED: Final = "length 9"  # as Mistral's templates say of the ids of calls

# What is said to a template, once, to see what it can be told.
_SYSTEM, _USER, _LATER, _TOOL, _CITY = "probe-system", "probe-user", "probe-later", "probe_tool", "probe-city"
_ASKS: Final[Turns] = [{"role": "user", "content": _USER}]
_TOLD: Final[Turns] = [{"role": "system", "content": _SYSTEM}, *_ASKS]
_TOLD_LATER: Final[Turns] = [
    *_TOLD,
    {"role": "assistant", "content": "x"},
    {"role": "system", "content": _LATER},
    {"role": "user", "content": "y"},
]
_CALL: Final[dict[str, Any]] = {
    "id": "call00000",
    "type": "function",
    "function": {"name": _TOOL, "arguments": {"city": _CITY}},
}
_CALLED: Final[Turns] = [
    *_ASKS,
    {"role": "assistant", "content": "", "tool_calls": [_CALL]},
    {"role": "tool", "content": "x", "tool_call_id": "call00000", "name": _TOOL},
]
_FUNCTION: Final = function_of(Tool(name=_TOOL, description=_TOOL))


class Rendering(Protocol):
    """A template: in this process, or apart."""

    def render(self, names: Mapping[str, object]) -> str:
        """Raises TemplateFault."""


class ChatTemplate:
    """A chat template, and what messages must be for it.

    Clients write what OpenAI's models take: more than one system message, neighbours of one role, several calls at
    once. Templates differ in which of it they refuse, or leave out without a word. So each is asked when it is loaded,
    and gets the same meaning in turns that it takes.
    """

    def __init__(self, source: str, template: Rendering) -> None:
        self._template = template
        self.tool_format: ToolFormat = format_of(source)
        self._short_ids = SHORT_IDS_WANTED in source
        # Of "no tools" some templates want to be told, and others to hear nothing.
        self._no_tools: dict[str, object] = {"tools": None}
        if self._try(_ASKS) is None and self._try(_ASKS, {}) is not None:
            self._no_tools = {}
        self._knows_tools = self._shows(_TOOL, _ASKS, {"tools": [_FUNCTION]})
        if not self._knows_tools:
            self.tool_format = HERMES  # as the words ask for that stand in for the template's
        self._shapes: list[Callable[[Turns], Turns]] = []
        if not self._shows(_SYSTEM, _TOLD):
            if self._shows(_SYSTEM, user_is_system(_TOLD)):
                self._shapes.append(user_is_system)
        elif not self._shows(_LATER, _TOLD_LATER) and self._shows(_LATER, one_system(_TOLD_LATER)):
            self._shapes.append(one_system)
        said = self._shows(_CITY, _CALLED, {"tools": [_FUNCTION]})
        if self._knows_tools and not said and self._shows(_CITY, text_arguments(_CALLED), {"tools": [_FUNCTION]}):
            self._shapes.append(text_arguments)

    def render(self, messages: Sequence[Message], tools: Sequence[Tool] = (), *, thinking: bool | None = None) -> str:
        """The prompt that asks for the next assistant turn. Raises JobFailed if the template refuses the messages.

        `thinking`: whether the model should think first; None: as the template has it. False also ends the thoughts
        that a template begins which does not know how to be told.
        """
        names: dict[str, object] = {} if thinking is None else dict.fromkeys(THINKING_NAMES, thinking)
        functions = [function_of(tool) for tool in tools]
        turns = [turn_of(message) if self._knows_tools else told_turn(message) for message in messages]
        if functions and not self._knows_tools:
            turns = with_tools(turns, functions, TOOLS_TOLD)
        names |= {"tools": functions} if functions and self._knows_tools else self._no_tools
        if self._short_ids:
            turns = short_ids(turns)
        for shape in self._shapes:
            turns = shape(turns)
        prompt = self._render(turns, names)
        return thoughts_ended(prompt) if thinking is False else prompt

    def _render(self, turns: Turns, names: Mapping[str, object]) -> str:
        """By the turns as they are, or else made plainer: one role after the other, one call in each."""
        plainer = one_call_each(one_system(turns))
        try:
            return self._template.render({"messages": turns, "add_generation_prompt": True, **names})
        except TemplateFault as fault:
            prompt = self._try(plainer, names) if plainer != turns else None
            if prompt is None:
                reason = f"the model's chat template refuses these messages: {fault}"
                raise JobFailed(FailureCode.REQUEST_UNSUPPORTED, reason[:512]) from None
            return prompt

    def _try(self, turns: Turns, names: Mapping[str, object] | None = None) -> str | None:
        given = self._no_tools if names is None else names
        try:
            return self._template.render({"messages": turns, "add_generation_prompt": True, **given})
        except TemplateFault:
            return None

    def _shows(self, word: str, turns: Turns, names: Mapping[str, object] | None = None) -> bool:
        return word in (self._try(turns, names) or "")


def begins_to_think(prompt: str) -> bool:
    """Whether the model goes on inside of its thoughts."""
    return prompt.rstrip().endswith(THINK_BEGIN)


def thoughts_ended(prompt: str) -> str:
    """A prompt after which the model answers, whether or not its template would have it think first."""
    return f"{prompt.rstrip()}\n\n{THINK_END}\n\n" if begins_to_think(prompt) else prompt
