"""The formats in which families of models write tool calls and thoughts, and what is told apart in them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

THINK_BEGIN, THINK_END = "<think>", "</think>"


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """How a family of models writes calls. `listed`: the calls of one answer stand in a JSON array.

    `channels`: all that the model says is in messages on channels, see `harmony`. `marks`: what it writes as tokens of
    their own, which are text for us although llama.cpp would not show them.
    """

    begin: str
    end: str
    arguments_key: str = "arguments"
    listed: bool = False
    bare: bool = False
    channels: bool = False

    @property
    def marks(self) -> frozenset[str]:
        channels = ("<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|constrain|>", "<|call|>", "<|return|>")
        marks = {self.begin, self.end, THINK_BEGIN, THINK_END, *(channels if self.channels else ())}
        return frozenset(marks - {""})


HERMES: Final = ToolFormat("<tool_call>", "</tool_call>")
MISTRAL: Final = ToolFormat("[TOOL_CALLS]", "", listed=True)
LLAMA3: Final = ToolFormat("", "", arguments_key="parameters", bare=True)
PIPED: Final = ToolFormat("<|tool_call|>", "<|/tool_call|>", listed=True)
HARMONY: Final = ToolFormat("", "", channels=True)


def format_of(template: str) -> ToolFormat:
    """The format that a chat template asks for; Hermes', the most common one, if it knows no tools."""
    if "<|channel|>" in template and "<|message|>" in template:
        return HARMONY
    for form in (MISTRAL, PIPED, HERMES):
        if form.begin in template:
            return form
    return LLAMA3 if "tools" in template and '"parameters"' in template else HERMES


class Text(NamedTuple):
    """A part of the answer."""

    text: str


class Reasoning(NamedTuple):
    """A part of what the model thinks before it answers."""

    text: str


class Call(NamedTuple):
    """The beginning of tool call `number`."""

    number: int
    name: str


class Arguments(NamedTuple):
    """A part of the JSON arguments of tool call `number`."""

    number: int
    text: str


Segment: TypeAlias = Text | Reasoning | Call | Arguments
