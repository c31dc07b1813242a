"""From messages to a prompt: the model's template, in a sandbox."""

from __future__ import annotations

import pytest
from jinja2 import TemplateError

from cxp2p.errors import JobFailed
from cxp2p.records import FailureCode, Message, Role, Tool, ToolCall
from cxp2p_node.engines.prompt import CHATML, ChatTemplate, begins_to_think, thoughts_ended

HELLO = (Message(role=Role.USER, content="Hello"),)


def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, bos="<s>", eos="</s>", wall_s=1_800_000_000)


def test_chatml() -> None:
    """Without a template of its own a model gets ChatML, where a developer is a system."""
    turns = (Message(role=Role.DEVELOPER, content="Be brief."), *HELLO)
    assert template(CHATML).render(turns) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    )


def test_names_that_templates_use() -> None:
    source = "{{ bos_token }}{{ messages | tojson }}{{ eos_token }}{{ strftime_now('%Y') }}{{ add_generation_prompt }}"
    assert template(source).render(HELLO) == '<s>[{"role": "user", "content": "Hello"}]</s>2027True'


def test_what_a_template_refuses_is_the_requests_fault() -> None:
    with pytest.raises(JobFailed, match="roles must alternate") as failed:
        template("{{ raise_exception('roles must alternate') }}").render(HELLO)
    assert failed.value.code is FailureCode.REQUEST_UNSUPPORTED


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.__class__.__base__.__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ strftime_now.__globals__['os'] }}",
        "{% for i in range(10000000000) %}{% endfor %}",
        "{{ 1 / 0 }}",
        "{{ messages[0].content.encode('none') }}",
        "{{ {}.pop('x') }}",
    ],
)
def test_a_template_cannot_leave_the_sandbox(source: str) -> None:
    with pytest.raises(JobFailed, match="refuses these messages"):
        template(source).render(HELLO)


@pytest.mark.parametrize("parameters", ["{", '{"a":' * 100_000])
@pytest.mark.parametrize("source", [CHATML, "{{ tools | tojson }}"])
def test_a_tool_whose_parameters_are_no_json_is_told(parameters: str, source: str) -> None:
    with pytest.raises(JobFailed, match="parameters of tool 'f' are not JSON") as failed:
        template(source).render(HELLO, (Tool(name="f", parameters=parameters),))
    assert failed.value.code is FailureCode.SCHEMA_INVALID


def test_arguments_that_are_no_json_stay_text() -> None:
    """A model once wrote them, and the client sends them back as they are."""
    for arguments in ("{", '{"a":' * 100_000):
        call = Message(role=Role.ASSISTANT, content="", tool_calls=(ToolCall(id="c", name="f", arguments=arguments),))
        source = "{{ messages[0].tool_calls[0].function.arguments }}{# tools #}"
        assert template(source).render((call,)) == arguments


THINKS = "{{ enable_thinking }}|{{ thinking }}|{{ '<think>' if enable_thinking is not false }}"


@pytest.mark.parametrize(
    ("source", "thinking", "prompt"),
    [
        (THINKS, None, "||<think>"),
        (THINKS, True, "True|True|<think>"),
        (THINKS, False, "False|False|"),
        ("Hi<think>\n ", None, "Hi<think>\n "),
        ("Hi<think>", True, "Hi<think>"),
        ("Hi<think>\n", False, "Hi<think>\n\n</think>\n\n"),
        ("Hi", False, "Hi"),
    ],
)
def test_whether_to_think_is_told_to_the_template(source: str, thinking: bool | None, prompt: str) -> None:
    """By the names that templates have for it; thoughts that are not wanted are ended where one begins them anyway."""
    made = template(source).render(HELLO, thinking=thinking)
    assert made == prompt
    assert begins_to_think(made) is prompt.rstrip().endswith("<think>")


def test_thoughts_are_ended_only_where_they_began() -> None:
    assert thoughts_ended("a<think>") == "a<think>\n\n</think>\n\n"
    assert thoughts_ended("a<think> b") == "a<think> b"


def test_a_broken_template_is_told_when_it_is_loaded() -> None:
    with pytest.raises(TemplateError):
        template("{% for %}")


WEATHER = Tool(name="weather", description="The weather.", parameters='{"type": "object", "properties": {}}')
TALK = (
    Message(role=Role.SYSTEM, content="Be brief."),
    *HELLO,
    Message(
        role=Role.ASSISTANT,
        content="",
        tool_calls=(ToolCall(id="call_1", name="weather", arguments='{"city": "Paris"}'),),
    ),
    Message(role=Role.TOOL, content="Rain.", tool_call_id="call_1"),
)


def test_a_template_without_tools_gets_them_in_words() -> None:
    prompt = template(CHATML).render(TALK, (WEATHER,))
    assert prompt.startswith("<|im_start|>system\nBe brief.\n\nYou may call functions.")
    assert '{"type": "function", "function": {"name": "weather"' in prompt
    assert '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call><|im_end|>' in prompt
    assert "<|im_start|>user\n<tool_response>\nRain.\n</tool_response><|im_end|>" in prompt


def test_a_template_with_tools_gets_them_as_values() -> None:
    source = (
        "{% for tool in tools %}{{ tool.function.name }};{% endfor %}{% for m in messages %}{{ m.role }}:"
        "{% for c in m.tool_calls %}{{ c.function.arguments.city }}{% endfor %}{{ m.tool_call_id }},{% endfor %}"
    )
    assert template(source).render(TALK, (WEATHER,)) == "weather;system:,user:,assistant:Paris,tool:call_1,"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "takes longer than"),
        ("{{ 'a' * 10000000000 }}", "repeats something too often"),
        ("{{ 10 ** 1000000000 }}", "powers are not allowed"),
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}{{ 'aaaaaaaaaaaa' * 5000 }}{% endfor %}{% endfor %}",
            "over",
        ),
    ],
)
def test_a_template_has_limits(source: str, said: str) -> None:
    with pytest.raises(JobFailed, match=said):
        template(source).render(HELLO)
