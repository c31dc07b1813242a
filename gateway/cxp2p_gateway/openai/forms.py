"""Tools, tool calls and answer formats, as OpenAI's requests have them. Raises Fault, which names the parameter."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final

from cxp2p.records import AnswerForm, Tool, ToolCall, ToolMode
from cxp2p_gateway.faults import invalid_type, out_of_range, unsupported
from cxp2p_gateway.fields import Fields, as_fields, kind_of, ranged_length

TOOLS_MAX: Final = 128
CALLS_MAX: Final = 128
ID_LENGTH_MAX: Final = 128
_TOOL_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolbox:
    """The tools of a request, and how they may be used. `name`: the one that must be called."""

    tools: tuple[Tool, ...] = ()
    mode: ToolMode = ToolMode.AUTO
    name: str | None = None
    parallel: bool = True


def tools_of(fields: Fields) -> Toolbox:
    """`tools`, `tool_choice` and `parallel_tool_calls`, or the older `functions` and `function_call`."""
    listed = fields.list("tools") or []
    ranged_length(len(listed), 0, TOOLS_MAX, "tools", "tools")
    tools = tuple(_tool(as_fields(raw, f"tools[{index}]")) for index, raw in enumerate(listed))
    older = fields.list("functions") or []
    ranged_length(len(older), 0, TOOLS_MAX, "functions", "functions")
    tools += tuple(_function(as_fields(raw, f"functions[{index}]")) for index, raw in enumerate(older))
    parallel = fields.flag("parallel_tool_calls")
    box = Toolbox(tools=tools, parallel=not tools or parallel is not False)
    return _chosen(fields, box)


def _tool(fields: Fields) -> Tool:
    kind = fields.text("type")
    if kind == "custom":
        raise unsupported(fields.param("type"), "only tools of type 'function' are available")
    if kind != "function":
        raise out_of_range(fields.param("type"), "it is not 'function'")
    function = fields.object("function")
    if function is None:
        raise invalid_type(fields.param("function"), "expected an object, got null")
    return _function(function)


def _function(fields: Fields) -> Tool:
    name = fields.text("name")
    if name is None or not _TOOL_NAME.fullmatch(name):
        raise out_of_range(fields.param("name"), "it is not 1 to 64 letters, digits, underscores and hyphens")
    parameters = fields.any("parameters")
    if parameters is not None:
        as_fields(parameters, fields.param("parameters"))
    return Tool(
        name=name,
        description=fields.text("description") or "",
        parameters=json.dumps(parameters, ensure_ascii=False) if parameters else "",
    )


def _chosen(fields: Fields, box: Toolbox) -> Toolbox:
    name = "tool_choice" if fields.has("tool_choice") or not fields.has("function_call") else "function_call"
    wanted = fields.any(name)
    if wanted is None:
        return box
    if isinstance(wanted, str):
        mode = ToolMode(fields.choice(name, ("none", "auto", "required")) or "auto")
        if mode is ToolMode.REQUIRED and not box.tools:
            raise out_of_range(name, "it is only allowed when 'tools' is given")
        return Toolbox(tools=box.tools, mode=mode, parallel=box.parallel)
    if not isinstance(wanted, dict):
        raise invalid_type(name, f"expected a string or an object, got {kind_of(wanted)}")
    choice = as_fields(wanted, name)
    if name == "function_call":
        return _named(choice, box)
    match choice.choice("type", ("function", "allowed_tools", "custom")):
        case "function":
            return _named(choice.object("function") or choice, box)
        case "allowed_tools":
            return _allowed(choice.object("allowed_tools") or choice, box)
        case "custom":
            raise unsupported(choice.param("type"), "only tools of type 'function' are available")
    raise out_of_range(choice.param("type"), "it is missing; it is 'function' or 'allowed_tools'")


def _named(choice: Fields, box: Toolbox) -> Toolbox:
    name = choice.text("name")
    if name not in {tool.name for tool in box.tools}:
        raise out_of_range(choice.param("name"), "it is not the name of one of the tools")
    return Toolbox(tools=box.tools, mode=ToolMode.NAMED, name=name, parallel=False)


def _allowed(choice: Fields, box: Toolbox) -> Toolbox:
    mode = choice.choice("mode", ("auto", "required")) or "auto"
    names = set()
    for index, raw in enumerate(choice.list("tools") or []):
        each = as_fields(raw, choice.param(f"tools[{index}]"))
        names.add((each.object("function") or each).text("name"))
    tools = tuple(tool for tool in box.tools if tool.name in names)
    if not tools:
        raise out_of_range(choice.param("tools"), "it names none of the tools")
    return Toolbox(tools=tools, mode=ToolMode(mode), parallel=box.parallel)


def form_of(fields: Fields) -> tuple[AnswerForm, str]:
    """`response_format`: the form, and the JSON Schema as text if there is one."""
    wanted = fields.any("response_format")
    if wanted is None:
        return AnswerForm.TEXT, ""
    if not isinstance(wanted, str | dict):
        raise invalid_type("response_format", f"expected a string or an object, got {kind_of(wanted)}")
    param = "response_format"
    kind: str | None = None
    if isinstance(wanted, str):
        kind = wanted
    else:
        given = as_fields(wanted, param)
        kind, param = given.text("type"), given.param("type")
        if kind == "json_schema":
            return _schema_of(given)
    if kind in ("json", "json_object"):
        return AnswerForm.JSON_OBJECT, ""
    if kind != "text":
        raise out_of_range(param, "it is not one of text, json_object, json_schema")
    return AnswerForm.TEXT, ""


def _schema_of(given: Fields) -> tuple[AnswerForm, str]:
    described = given.object("json_schema")
    if described is None:
        raise invalid_type(given.param("json_schema"), "expected an object, got null")
    name = described.text("name")
    if name is None or not _TOOL_NAME.fullmatch(name):
        raise out_of_range(described.param("name"), "it is not 1 to 64 letters, digits, underscores and hyphens")
    schema = described.any("schema")
    if schema is None:
        return AnswerForm.JSON_OBJECT, ""
    as_fields(schema, described.param("schema"))
    return AnswerForm.JSON_SCHEMA, json.dumps(schema, ensure_ascii=False)


def calls_of(fields: Fields) -> tuple[ToolCall, ...]:
    """The calls in an assistant's message: `tool_calls`, or the older `function_call`."""
    listed = fields.list("tool_calls") or []
    ranged_length(len(listed), 0, CALLS_MAX, fields.param("tool_calls"), "calls")
    calls = tuple(_call(as_fields(raw, fields.param(f"tool_calls[{index}]"))) for index, raw in enumerate(listed))
    older = fields.object("function_call")
    return calls if older is None else (*calls, _made(older, "call_0"))


def _call(call: Fields) -> ToolCall:
    call_id = call.text("id")
    if call_id is None:
        raise invalid_type(call.param("id"), "expected a string, got null")
    ranged_length(len(call_id), 1, ID_LENGTH_MAX, call.param("id"), "characters")
    if call.choice("type", ("function", "custom")) == "custom":
        raise unsupported(call.param("type"), "only tools of type 'function' are available")
    function = call.object("function")
    if function is None:
        raise invalid_type(call.param("function"), "expected an object, got null")
    return _made(function, call_id)


def _made(function: Fields, call_id: str) -> ToolCall:
    parts: dict[str, Any] = {}
    for part in ("name", "arguments"):
        parts[part] = function.text(part)
        if parts[part] is None:
            raise invalid_type(function.param(part), "expected a string, got null")
    ranged_length(len(parts["name"]), 1, ID_LENGTH_MAX, function.param("name"), "characters")
    return ToolCall(id=call_id, **parts)
