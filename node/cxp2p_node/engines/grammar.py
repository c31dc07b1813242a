"""The grammar that an answer must follow: JSON, a JSON Schema, or tool calls. Pure: it makes text for llguidance.

Whitespace is fixed to one space after `:` and `,`: a small model that may choose sometimes writes nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from cxp2p.errors import JobFailed
from cxp2p.records import AnswerForm, ChatJob, FailureCode, Tool, ToolMode
from cxp2p_node.engines.segments import ToolFormat

_COMPACT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
ANY_OBJECT = {"type": "object"}


class Grammar(NamedTuple):
    """A grammar for llguidance. `whole`: the answer is worth nothing if it is cut off before the grammar's end."""

    text: str
    whole: bool


def grammar_of(job: ChatJob, form: ToolFormat) -> Grammar | None:
    """What the answer to this job must follow, if it must follow anything.

    Raises JobFailed(SCHEMA_INVALID) for JSON that is no schema, JobFailed(REQUEST_UNSUPPORTED) for a tool that is none.
    """
    tools = job.tools
    if job.tool_mode is ToolMode.NAMED:
        tools = tuple(tool for tool in tools if tool.name == job.tool_name)
        if not tools:
            raise JobFailed(FailureCode.REQUEST_UNSUPPORTED, f"there is no tool {job.tool_name!r}")
    if tools and job.tool_mode in (ToolMode.NAMED, ToolMode.REQUIRED):
        several = job.parallel_calls and job.tool_mode is ToolMode.REQUIRED
        return Grammar(of_calls(tools, form, several=several), whole=True)
    if job.form is AnswerForm.JSON_SCHEMA:
        return Grammar(of_schema(_schema(job.schema)), whole=True)
    if job.form is AnswerForm.JSON_OBJECT:
        return Grammar(of_schema(ANY_OBJECT), whole=True)
    if tools and job.tool_mode is ToolMode.AUTO:
        text = of_text_or_calls(tools, form, several=job.parallel_calls)
        return None if text is None else Grammar(text, whole=False)
    return None


def of_schema(schema: dict[str, Any]) -> str:
    """An answer that is one JSON value of this schema."""
    return json.dumps({"grammars": [{"json_schema": _fixed(schema)}]})


def of_calls(tools: Sequence[Tool], form: ToolFormat, *, several: bool) -> str:
    """An answer that is a call of one of these tools, or `several`."""
    call = _call_rules(tools, form)
    if form.listed:
        more = ' (", " call)*' if several else ""
        start = f'start: {_text(form.begin + "[")} call{more} "]"'
    elif form.bare:
        start = "start: call"
    else:
        one = f"{_text(form.begin + chr(10))} call {_text(chr(10) + form.end)}"
        start = f'start: one ("\\n" one)*\none: {one}' if several else f"start: {one}"
    return f"%llguidance {{}}\n{start}\n{call}"


def of_text_or_calls(tools: Sequence[Tool], form: ToolFormat, *, several: bool) -> str | None:
    """Free text in which a call, once begun, is a right one. None: this format cannot be told from text."""
    if form.bare:
        return None
    call = _call_rules(tools, form)
    body = (
        f'{_text(form.begin + "[")} call (", " call)* "]"'
        if form.listed
        else (f"{_text(form.begin + chr(10))} call {_text(chr(10) + form.end)}")
    )
    begin = _text(form.begin)
    again = "*" if several and not form.listed else "?"
    rest = body.replace(_text(form.begin + ("[" if form.listed else "\n")), _text("[" if form.listed else "\n"), 1)
    free = "FREE: /(.|\\n)*/"
    return f'%llguidance {{}}\nstart: (begun {rest} "\\n"?){again} FREE\nbegun[lazy]: FREE {begin}\n{free}\n{call}'


def _call_rules(tools: Sequence[Tool], form: ToolFormat) -> str:
    lines = ["call: " + " | ".join(f"tool_{at}" for at in range(len(tools)))]
    for at, tool in enumerate(tools):
        head = f'{{"name": {json.dumps(tool.name)}, "{form.arguments_key}": '
        schema = _schema(tool.parameters) if tool.parameters else ANY_OBJECT
        lines.append(f'tool_{at}: {_text(head)} %json {json.dumps(_fixed(schema))} "}}"')
    return "\n".join(lines)


def _schema(text: str) -> dict[str, Any]:
    try:
        schema = json.loads(text)
    except ValueError as error:
        raise JobFailed(FailureCode.SCHEMA_INVALID, f"the schema is not JSON: {error}") from None
    if not isinstance(schema, dict):
        raise JobFailed(FailureCode.SCHEMA_INVALID, "the schema is not a JSON object")
    return schema


def _fixed(schema: dict[str, Any]) -> dict[str, Any]:
    return {**schema, "x-guidance": _COMPACT}


def _text(text: str) -> str:
    return json.dumps(text)
