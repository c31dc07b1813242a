"""The grammar that an answer must follow: JSON, a JSON Schema, or tool calls. Pure: it makes text for llguidance.

Whitespace is fixed to one space after `:` and `,`: a small model that may choose sometimes writes nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from cxp2p.errors import JobFailed
from cxp2p.records import AnswerForm, ChatJob, FailureCode, Tool, ToolMode
from cxp2p_node.engines.marks import ToolFormat
from cxp2p_node.engines.schema import read_schema

_COMPACT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
ANY_OBJECT = '{"type": "object"}'


class Grammar(NamedTuple):
    """A grammar for llguidance. `whole`: the answer is worth nothing if it is cut off before the grammar's end."""

    text: str
    whole: bool


def grammar_of(job: ChatJob, form: ToolFormat) -> Grammar | None:
    """What the answer to this job must follow, if it must follow anything.

    Raises JobFailed(SCHEMA_INVALID) for JSON that is no schema, JobFailed(REQUEST_UNSUPPORTED) for a tool that is none.
    """
    tools = job.tools if job.tool_mode is not ToolMode.NONE else ()
    if job.tool_mode is ToolMode.NAMED:
        tools = tuple(tool for tool in tools if tool.name == job.tool_name)
        if not tools:
            raise JobFailed(FailureCode.REQUEST_UNSUPPORTED, f"there is no tool {job.tool_name!r}")
    if tools and job.tool_mode in (ToolMode.NAMED, ToolMode.REQUIRED):
        several = job.parallel_calls and job.tool_mode is ToolMode.REQUIRED
        return Grammar(of_calls(tools, form, several=several), whole=True)
    if job.form is not AnswerForm.TEXT:
        schema = job.schema if job.form is AnswerForm.JSON_SCHEMA else ANY_OBJECT
        if tools and not form.bare:  # a bare call cannot be told from other JSON
            return Grammar(of_calls(tools, form, several=job.parallel_calls, answer=schema), whole=True)
        return Grammar(on_channel(schema) if form.channels else of_schema(schema), whole=True)
    if tools:
        text = of_text_or_calls(tools, form, several=job.parallel_calls)
        return None if text is None else Grammar(text, whole=False)
    return None


def of_schema(schema: str) -> str:
    """An answer that is one JSON value of this schema."""
    return json.dumps({"grammars": [{"json_schema": _fixed(schema)}]})


FINAL = "<|channel|>final<|message|>"


def on_channel(schema: str) -> str:
    """The same from a model that says what it means on channels: on the last one."""
    return f"%llguidance {{}}\nstart: {_text(FINAL)} %json {json.dumps(_fixed(schema))}"


def of_calls(tools: Sequence[Tool], form: ToolFormat, *, several: bool, answer: str | None = None) -> str:
    """An answer that is a call of one of these tools, or `several`; or instead JSON of the schema `answer`."""
    if form.listed:
        calls = f"{_text(form.begin)} {_listed(several)} {_text(form.end)}"
    elif form.bare or form.channels:
        calls = "call"
    else:
        one = f"{_text(form.begin + chr(10))} call {_text(chr(10) + form.end)}"
        calls = f'{one} ("\\n" {one})*' if several else one
    lines = [
        "%llguidance {}",
        f"start: {calls}" + (" | answer" if answer is not None else ""),
        _call_rules(tools, form),
    ]
    if answer is not None:
        final = f"{_text(FINAL)} " if form.channels else ""
        lines.append(f"answer: {final}%json {json.dumps(_fixed(answer))}")
    return "\n".join(lines)


def of_text_or_calls(tools: Sequence[Tool], form: ToolFormat, *, several: bool) -> str | None:
    """Free text in which a call, once begun, is a right one. None: this format cannot be told from text."""
    if form.bare or form.channels:
        return None
    rest = f"{_listed(several)} {_text(form.end)}" if form.listed else f'"\\n" call {_text(chr(10) + form.end)}'
    again = "*" if several and not form.listed else "?"
    return "\n".join(
        [
            "%llguidance {}",
            f'start: (begun {rest} "\\n"?){again} FREE',
            f"begun[lazy]: FREE {_text(form.begin)}",
            "FREE: /(.|\\n)*/",
            _call_rules(tools, form),
        ]
    )


def _listed(several: bool) -> str:
    more = ' (", " call)*' if several else ""
    return f'"[" call{more} "]"'


def _call_rules(tools: Sequence[Tool], form: ToolFormat) -> str:
    lines = ["call: " + " | ".join(f"tool_{at}" for at in range(len(tools)))]
    for at, tool in enumerate(tools):
        head, tail = f'{{"name": {json.dumps(tool.name)}, "{form.arguments_key}": ', "}"
        if form.channels:
            head, tail = f"<|channel|>commentary to=functions.{tool.name} <|constrain|>json<|message|>", ""
        schema = json.dumps(_fixed(tool.parameters or ANY_OBJECT))
        lines.append(f"tool_{at}: {_text(head)} %json {schema} {_text(tail)}")
    return "\n".join(lines)


def _fixed(schema: str) -> dict[str, Any]:
    return {**read_schema(schema), "x-guidance": _COMPACT}


def _text(text: str) -> str:
    return json.dumps(text)
