"""A conversation in OpenAI's JSON: what each message becomes, and how a wrong one is named."""

from __future__ import annotations

from typing import Any

import pytest

from cxp2p.records import Message, Role
from cxp2p_gateway.openai import chat_ask
from doors import chat_body, refusal

CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def messages(*raw: Any) -> tuple[Message, ...]:
    return chat_ask(chat_body(messages=list(raw))).job.messages


def test_all_roles_and_contents_become_plain_turns() -> None:
    """Every role and every text content that OpenAI's clients send has its turn; parts stand on lines of their own."""
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert messages(
        {"role": "system", "content": "s"},
        {"role": "developer", "content": parts},
        {"role": "user", "content": parts, "name": "Ann"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}], "tool_calls": []},
        {"role": "user", "content": "", "tool_calls": None},
    ) == (
        Message(role=Role.SYSTEM, content="s"),
        Message(role=Role.DEVELOPER, content="a\nb"),
        Message(role=Role.USER, content="a\nb", name="Ann"),
        Message(role=Role.ASSISTANT, content="no"),
        Message(role=Role.USER, content=""),
    )


ROLES = "system, developer, user, assistant, tool, function"


@pytest.mark.parametrize(
    ("message", "code", "param", "problem"),
    [
        ("x", "invalid_type", "", "expected an object, got a string"),
        (None, "invalid_type", "", "expected an object, got null"),
        ({"content": "x"}, "out_of_range", ".role", f"it is missing; it is one of {ROLES}"),
        ({"role": "bot", "content": "x"}, "out_of_range", ".role", f"it is not one of {ROLES}"),
        ({"role": 1, "content": "x"}, "invalid_type", ".role", "expected a string, got a number"),
        ({"role": "user"}, "invalid_type", ".content", "expected a string or an array of parts, got null"),
        ({"role": "assistant"}, "invalid_type", ".content", "expected a string or an array of parts, got null"),
        (
            {"role": "user", "content": 1},
            "invalid_type",
            ".content",
            "expected a string or an array of parts, got a number",
        ),
        ({"role": "user", "content": []}, "out_of_range", ".content", "0 parts is not between 1 and 1024"),
        ({"role": "user", "content": ["x"]}, "invalid_type", ".content[0]", "expected an object, got a string"),
        (
            {"role": "user", "content": [{"type": "text"}]},
            "invalid_type",
            ".content[0].text",
            "expected a string, got null",
        ),
        (
            {"role": "user", "content": [{"type": "video"}]},
            "out_of_range",
            ".content[0].type",
            "it is not a kind of part that a message of role 'user' may have",
        ),
        (
            {"role": "system", "content": [{"type": "image_url"}]},
            "out_of_range",
            ".content[0].type",
            "it is not a kind of part that a message of role 'system' may have",
        ),
        ({"role": "user", "content": "\ud800"}, "invalid_type", ".content", "it is not valid Unicode text"),
        (
            {"role": "user", "content": "x", "name": ""},
            "out_of_range",
            ".name",
            "0 characters is not between 1 and 128",
        ),
        (
            {"role": "tool", "content": "x", "tool_call_id": "other"},
            "out_of_range",
            ".tool_call_id",
            "it does not answer a tool call of an earlier message",
        ),
        (
            {"role": "assistant", "tool_calls": [{"type": "function"}]},
            "invalid_type",
            ".tool_calls[0].id",
            "expected a string, got null",
        ),
        (
            {"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "f"}}]},
            "invalid_type",
            ".tool_calls[0].function.arguments",
            "expected a string, got null",
        ),
        (
            {"role": "assistant", "tool_calls": [{"id": "a", "type": "function"}]},
            "invalid_type",
            ".tool_calls[0].function",
            "expected an object, got null",
        ),
    ],
)
def test_a_wrong_message_is_named_with_its_place(message: Any, code: str, param: str, problem: str) -> None:
    """The path to what is wrong goes down to the field of the part of the message."""
    param = f"messages[1]{param}"
    body = chat_body(messages=[{"role": "user", "content": "x"}, message])
    assert refusal(body) == (code, param, f"Invalid value for '{param}': {problem}")
