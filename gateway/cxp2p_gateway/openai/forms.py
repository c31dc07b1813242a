"""Tools, tool calls and answer formats, as OpenAI's requests have them. Raises Fault, which names the parameter."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from cxp2p.records import AnswerForm, Tool, ToolCall, ToolMode
from cxp2p_gateway.faults import invalid_type, out_of_range, unsupported
from cxp2p_gateway.fields import Fields, as_fields, kind_of, ranged_length
from cxp2p_gateway.openai.demands import ANY_OBJECT, Demand, Rule

TOOLS_MAX: Final = 128
CALLS_MAX: Final = 128
ID_LENGTH_MAX: Final = 128
_TOOL_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolbox:
    """The tools of a request, and how they may be used. `name`: the one that must be called.

    `rules`: what the arguments of each must be; `strict`: which of them asked for that. `older`: all are `functions`,
    and so must be the answer.
    """

    tools: tuple[Tool, ...] = ()
    mode: ToolMode = ToolMode.AUTO
    name: str | None = None
    parallel: bool = True
    older: bool = False
    rules: Mapping[str, Rule] = field(default_factory=dict)
    strict: frozenset[str] = frozenset()

    @property
    def checked(self) -> dict[str, Rule]:
        """The rules of those tools whose calls are checked: all that may be called by force, or the strict ones."""
        if self.mode is ToolMode.NAMED and self.name is not None:
            return {self.name: self.rules[self.name]}
        forced = self.mode is ToolMode.REQUIRED
        return {tool.name: self.rules[tool.name] for tool in self.tools if forced or tool.name in self.strict}


def tools_of(fields: Fields, *, flat: bool = False) -> Toolbox:
    """`tools`, `tool_choice` and `parallel_tool_calls`, or the older `functions` and `function_call`.

    `flat`: a tool is its function, as in the Responses API, and there is nothing older.
    """
    listed = fields.list("tools") or []
    ranged_length(len(listed), 0, TOOLS_MAX, "tools", "tools")
    functions = [_function_of(as_fields(raw, f"tools[{index}]"), flat) for index, raw in enumerate(listed)]
    older = (None if flat else fields.list("functions")) or []
    ranged_length(len(older), 0, TOOLS_MAX - len(functions), "functions", "functions")
    functions += [as_fields(raw, f"functions[{index}]") for index, raw in enumerate(older)]
    tools: dict[str, Tool] = {}
    rules: dict[str, Rule] = {}
    strict: set[str] = set()
    for each in functions:
        tool = _tool(each)
        if tools.setdefault(tool.name, tool) != tool:
            raise out_of_range(each.param("name"), "another tool has this name")
        rules.setdefault(tool.name, Rule(tool.parameters or ANY_OBJECT, each.param("parameters")))
        strict |= {tool.name} if each.flag("strict") else set()
    parallel = fields.flag("parallel_tool_calls") is not False
    box = Toolbox(
        tools=tuple(tools.values()),
        parallel=not tools or (parallel and not older),
        older=bool(older) and not listed,
        rules=rules,
        strict=frozenset(strict),
    )
    older_choice = not flat and fields.has("function_call") and not fields.has("tool_choice")
    return _chosen(fields, box, "function_call" if older_choice else "tool_choice")


def _function_of(fields: Fields, flat: bool) -> Fields:
    kind = fields.text("type")
    if kind == "custom" or (flat and kind and kind != "function"):
        raise unsupported(fields.param("type"), "only tools of type 'function' are available")
    if kind != "function":
        raise out_of_range(fields.param("type"), "it is not 'function'")
    if flat:
        return fields
    function = fields.object("function")
    if function is None:
        raise invalid_type(fields.param("function"), "expected an object, got null")
    return function


def _tool(fields: Fields) -> Tool:
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


def _chosen(fields: Fields, box: Toolbox, name: str) -> Toolbox:
    wanted = fields.any(name)
    if wanted is None:
        return box
    if isinstance(wanted, str):
        mode = ToolMode(fields.choice(name, ("none", "auto", "required")) or "auto")
        if mode is ToolMode.REQUIRED and not box.tools:
            raise out_of_range(name, "it is only allowed when 'tools' is given")
        return replace(box, mode=mode)
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
    return replace(box, mode=ToolMode.NAMED, name=name, parallel=False)


def _allowed(choice: Fields, box: Toolbox) -> Toolbox:
    mode = choice.choice("mode", ("auto", "required")) or "auto"
    names = set()
    for index, raw in enumerate(choice.list("tools") or []):
        each = as_fields(raw, choice.param(f"tools[{index}]"))
        names.add((each.object("function") or each).text("name"))
    tools = tuple(tool for tool in box.tools if tool.name in names)
    if not tools:
        raise out_of_range(choice.param("tools"), "it names none of the tools")
    return replace(box, tools=tools, mode=ToolMode(mode))


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """`response_format`: the form, and for a schema its text, where it stands, and whether it is strict."""

    form: AnswerForm
    schema: str = ""
    param: str = "response_format"
    strict: bool = True

    @property
    def rule(self) -> Rule:
        return Rule(self.schema or ANY_OBJECT, self.param)


def form_of(fields: Fields) -> Format:
    """What `response_format` asks for."""
    wanted = fields.any("response_format")
    if wanted is None:
        return Format(form=AnswerForm.TEXT)
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
            described = given.object("json_schema")
            if described is None:
                raise invalid_type(given.param("json_schema"), "expected an object, got null")
            return _schema_of(described)
    return _plain_form(kind, param)


def text_form_of(fields: Fields) -> Format:
    """What `text.format` asks for, as the Responses API has it."""
    text = fields.object("text")
    given = None if text is None else text.object("format")
    if given is None:
        return Format(form=AnswerForm.TEXT)
    kind = given.text("type")
    return _schema_of(given) if kind == "json_schema" else _plain_form(kind, given.param("type"))


def _plain_form(kind: str | None, param: str) -> Format:
    if kind in ("json", "json_object"):
        return Format(form=AnswerForm.JSON_OBJECT)
    if kind != "text":
        raise out_of_range(param, "it is not one of text, json_object, json_schema")
    return Format(form=AnswerForm.TEXT)


def _schema_of(described: Fields) -> Format:
    name = described.text("name")
    if name is None or not _TOOL_NAME.fullmatch(name):
        raise out_of_range(described.param("name"), "it is not 1 to 64 letters, digits, underscores and hyphens")
    schema = described.any("schema")
    strict = described.flag("strict") or False
    if schema is None:
        return Format(form=AnswerForm.JSON_OBJECT)
    as_fields(schema, described.param("schema"))
    return Format(
        form=AnswerForm.JSON_SCHEMA,
        schema=json.dumps(schema, ensure_ascii=False),
        param=described.param("schema"),
        strict=strict,
    )


def must_have_form(form: Format, box: Toolbox) -> bool:
    """Whether all of the answer has a form, so that none of it is free text."""
    return form.form is not AnswerForm.TEXT or box.mode in (ToolMode.REQUIRED, ToolMode.NAMED)


def demand_of(form: Format, box: Toolbox, *, streamed: bool) -> Demand:
    """What is checked of the answer. A stream that broke its schema can no longer be replaced: only a strict one is."""
    must_call = box.mode in (ToolMode.REQUIRED, ToolMode.NAMED)
    free = form.form is AnswerForm.TEXT or must_call or (streamed and not form.strict)
    tools = {} if box.mode is ToolMode.NONE else box.checked
    return Demand(text=None if free else form.rule, tools=tools, must_call=must_call)


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
