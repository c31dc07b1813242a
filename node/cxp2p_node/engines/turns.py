"""A conversation as chat templates know it, and the same in fewer kinds of turns for those that know less. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

from cxp2p.errors import JobFailed
from cxp2p.records import FailureCode, Message, Role, Tool, ToolCall
from cxp2p_node.templates.sandbox import to_json

Turns: TypeAlias = list[dict[str, Any]]

# For templates that know no tools: the words that Hermes' models were trained on.
TOOLS_TOLD: Final = (
    "You may call functions. Their signatures, as JSON in <tools></tools>:\n<tools>\n{tools}\n</tools>\n"
    'For each call answer with <tool_call>\n{{"name": NAME, "arguments": OBJECT}}\n</tool_call>'
)
SHORT_ID_LENGTH: Final = 9


def turn_of(message: Message) -> dict[str, Any]:
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


def told_turn(message: Message) -> dict[str, Any]:
    """A message for templates that know no tools: calls and their answers become text."""
    if message.role is Role.TOOL:
        return {"role": "user", "content": f"<tool_response>\n{message.content}\n</tool_response>"}
    turn = turn_of(message)
    for call in turn.pop("tool_calls", ()):
        said = {"name": call["function"]["name"], "arguments": call["function"]["arguments"]}
        turn["content"] += f"\n<tool_call>\n{to_json(said)}\n</tool_call>"
    turn["content"] = turn["content"].strip() if message.tool_calls else turn["content"]
    return turn


def with_tools(turns: Turns, functions: Sequence[dict[str, Any]], told: str) -> Turns:
    """The tools in words, in the system message."""
    words = told.format(tools="\n".join(to_json(each) for each in functions))
    if turns and turns[0]["role"] == "system":
        return [{**turns[0], "content": f"{turns[0]['content']}\n\n{words}"}, *turns[1:]]
    return [{"role": "system", "content": words}, *turns]


def function_of(tool: Tool) -> dict[str, Any]:
    """A tool as templates know it. Raises JobFailed(SCHEMA_INVALID)."""
    try:
        parameters = json.loads(tool.parameters) if tool.parameters else {"type": "object", "properties": {}}
    except (ValueError, RecursionError) as error:
        reason = f"the parameters of tool {tool.name!r} are not JSON: {error}"
        raise JobFailed(FailureCode.SCHEMA_INVALID, reason[:512]) from None
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function}


def one_system(turns: Turns) -> Turns:
    """One system message, at the beginning, and no two turns of a role beside each other, calls and answers apart."""
    systems = [turn["content"] for turn in turns if turn["role"] == "system"]
    merged: Turns = [{"role": "system", "content": "\n\n".join(systems)}] if systems else []
    for turn in (turn for turn in turns if turn["role"] != "system"):
        last = merged[-1] if merged else None
        plain = turn["role"] in ("user", "assistant") and "tool_calls" not in turn
        if last is not None and plain and last["role"] == turn["role"] and "tool_calls" not in last:
            merged[-1] = {**last, "content": f"{last['content']}\n\n{turn['content']}"}
        else:
            merged.append(turn)
    return merged


def user_is_system(turns: Turns) -> Turns:
    """What the system says becomes the beginning of what the user says first."""
    whole = one_system(turns)
    if not whole or whole[0]["role"] != "system":
        return whole
    system, rest = whole[0]["content"], whole[1:]
    if rest and rest[0]["role"] == "user":
        return [{**rest[0], "content": f"{system}\n\n{rest[0]['content']}"}, *rest[1:]]
    return [{"role": "user", "content": system}, *rest]


def one_call_each(turns: Turns) -> Turns:
    """Several calls of one turn become turns of one call, each with its answer after it."""
    answers = {turn["tool_call_id"]: turn for turn in turns if turn["role"] == "tool" and "tool_call_id" in turn}
    split: Turns = []
    moved: set[str] = set()
    for turn in turns:
        calls = turn.get("tool_calls", ())
        if len(calls) < 2 or not all(call["id"] in answers for call in calls):
            if turn.get("tool_call_id") not in moved or turn["role"] != "tool":
                split.append(turn)
            continue
        for at, call in enumerate(calls):
            split += [{**turn, "content": "" if at else turn["content"], "tool_calls": [call]}, answers[call["id"]]]
            moved.add(call["id"])
    return split


def text_arguments(turns: Turns) -> Turns:
    """The arguments of calls as JSON text, as OpenAI has them; most templates want values."""
    return [
        {**turn, "tool_calls": [_with_text(call) for call in turn["tool_calls"]]} if "tool_calls" in turn else turn
        for turn in turns
    ]


def _with_text(call: dict[str, Any]) -> dict[str, Any]:
    arguments = call["function"]["arguments"]
    text = arguments if isinstance(arguments, str) else to_json(arguments)
    return {**call, "function": {**call["function"], "arguments": text}}


def short_ids(turns: Turns) -> Turns:
    """The ids of calls in nine letters: for templates that take no others. The same id becomes the same."""
    shortened = []
    for turn in turns:
        shorter = dict(turn)
        if "tool_call_id" in turn:
            shorter["tool_call_id"] = _short(turn["tool_call_id"])
        if "tool_calls" in turn:
            shorter["tool_calls"] = [{**call, "id": _short(call["id"])} for call in turn["tool_calls"]]
        shortened.append(shorter)
    return shortened


def _short(call_id: str) -> str:
    if len(call_id) == SHORT_ID_LENGTH and call_id.isalnum():
        return call_id
    return hashlib.sha256(call_id.encode()).hexdigest()[:SHORT_ID_LENGTH]


def _arguments(call: ToolCall) -> Any:
    """Templates want an object; what a model once wrote may be none."""
    try:
        return json.loads(call.arguments)
    except (ValueError, RecursionError):
        return call.arguments
