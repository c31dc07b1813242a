"""From messages to a prompt: the model's template, in a sandbox."""

from __future__ import annotations

import time

import pytest

from cxp2p.errors import JobFailed
from cxp2p.records import FailureCode, Message, Role, Tool, ToolCall
from cxp2p_node.engines.prompt import CHATML, ChatTemplate, begins_to_think, thoughts_ended
from cxp2p_node.templates.apart import WALL_S_MAX, Apart
from cxp2p_node.templates.sandbox import Template, TemplateFault

HELLO = (Message(role=Role.USER, content="Hello"),)


def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, Template(source, bos="<s>", eos="</s>", wall_s=lambda: 1_800_000_000))


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
        source = "{{ tools | tojson }}{{ messages[0].tool_calls and messages[0].tool_calls[0].function.arguments }}"
        assert template(source).render((call,)) == f"null{arguments}"


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
    with pytest.raises(TemplateFault):
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
        ("{{ 'a' * 10000000000 }}", "repeats something too often"),
        ("{{ 10 ** 1000000000 }}", "powers are not allowed"),
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}{{ 'aaaaaaaaaaaa' * 5000 }}{% endfor %}{% endfor %}",
            "over",
        ),
    ],
)
def test_what_is_too_much_is_told(source: str, said: str) -> None:
    with pytest.raises(JobFailed, match=said):
        template(source).render(HELLO)


@pytest.mark.slow
@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{{ '%1000000000s' % messages[0].role }}",
        "{{ messages[0].role | center(1000000000) }}",
        "{{ messages[0].role.zfill(1000000000) }}",
        "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(40) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
        "{% set ns = namespace(x=3) %}{% for i in range(34) %}{% set ns.x = ns.x * ns.x %}{% endfor %}{{ ns.x > 1 }}",
        "{{ messages[0].role.join(['b' * 60000] * 60000) }}",
        "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
    ],
)
def test_a_template_apart_has_no_more_than_its_time_and_room(source: str) -> None:
    """Not even within one operation, which nothing in the same process could end. The next one is not harmed."""
    spoiled = "{% if messages[0].content == 'spoil' %}" + source + "{% endif %}{{ messages[0].content }}"
    apart = Apart(spoiled, bos="", eos="")
    try:
        begun = time.monotonic()
        with pytest.raises(TemplateFault):
            apart.render({"messages": [{"role": "user", "content": "spoil"}]})
        assert time.monotonic() - begun < WALL_S_MAX + 1
        assert apart.render({"messages": [{"role": "user", "content": "é"}]}) == "é"
    finally:
        apart.close()


BRACKETS, SIGNS = "(" * 5000 + "1" + ")" * 5000, "-" * 100_000


@pytest.mark.parametrize("source", ["{% for %}", f"{{{{ {BRACKETS} }}}}", f"{{{{ {SIGNS}1 }}}}"], ids=[*"abc"])
def test_a_template_that_cannot_be_compiled_is_told(source: str) -> None:
    with pytest.raises(TemplateFault):
        Apart(source, bos="", eos="").close()


def test_a_template_apart_that_was_killed_starts_again() -> None:
    apart = Apart("{{ bos_token }}{{ x }}", bos="<s>", eos="")
    assert apart.render({"x": "1"}) == "<s>1"
    assert apart._process is not None
    apart._process.kill()
    apart._process.wait()
    assert apart.render({"x": "\u2028"}) == "<s>\u2028"
    apart.close()
    assert apart._process is None


def test_what_training_marks_is_rendered_as_text() -> None:
    """`generation` tags, and the arguments of `tojson` that templates use."""
    source = (
        "{% for m in messages %}{% if m.role == 'user' %}{% generation %}{{ m.content }}{% endgeneration %}{% endif %}"
        "{% if loop.last %}{% break %}{% endif %}{% endfor %}"
        "{{ {'b': 'é', 'a': 1} | tojson(ensure_ascii=True, sort_keys=True, separators=(',', ':')) }}"
    )
    assert template(source).render(HELLO) == 'Hello{"a":1,"b":"\\u00e9"}'


SAY = "{{ m.role[0] }}:{{ m.content }};"
STRICT = (
    "{% if messages[0].role == 'system' %}S:{{ messages[0].content }};{% set rest = messages[1:] %}{% else %}"
    "{% set rest = messages %}{% endif %}{% for m in rest %}"
    "{% if m.role == 'system' or (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}" + SAY + "{% endfor %}"
)
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    "{% for m in messages %}" + SAY + "{% endfor %}"
)
FIRST_ONLY = "{% for m in messages %}{% if m.role != 'system' or loop.first %}" + SAY + "{% endif %}{% endfor %}"
LOOSE = (
    Message(role=Role.DEVELOPER, content="A"),
    Message(role=Role.USER, content="B"),
    Message(role=Role.USER, content="C"),
    Message(role=Role.ASSISTANT, content="D"),
    Message(role=Role.SYSTEM, content="E"),
    Message(role=Role.USER, content="F"),
)


@pytest.mark.parametrize(
    ("source", "prompt"),
    [
        (STRICT, "S:A\n\nE;u:B\n\nC;a:D;u:F;"),
        (NO_SYSTEM, "u:A\n\nE\n\nB\n\nC;a:D;u:F;"),
        (FIRST_ONLY, "s:A\n\nE;u:B\n\nC;a:D;u:F;"),
        ("{% for m in messages %}{{ m.role[0] }}:{{ m.content }};{% endfor %}", "s:A;u:B;u:C;a:D;s:E;u:F;"),
    ],
)
def test_what_openais_clients_may_write_reaches_every_template(source: str, prompt: str) -> None:
    """Nothing that was said is lost or refused, and templates that can take it as it is get it so."""
    assert template(source).render(LOOSE) == prompt


def test_several_calls_reach_a_template_of_single_ones() -> None:
    """As Llama's; and the ids of calls are as Mistral's wants them, those of answers with them."""
    source = (
        "{{ tools | tojson }}{% for m in messages %}{% if m.tool_calls %}{% set c = m.tool_calls[0] %}"
        "{% if m.tool_calls | length != 1 or c.id | length != 9 %}{{ raise_exception('one, of length 9') }}{% endif %}"
        "{{ c.function.arguments.n }}={{ c.id }};"
        "{% elif m.role == 'tool' %}{{ m.tool_call_id }}:{{ m.content }};{% endif %}{% endfor %}"
    )
    calls = tuple(ToolCall(id=f"call_{n}", name="weather", arguments=f'{{"n": {n}}}') for n in (1, 2))
    turns = (
        *HELLO,
        Message(role=Role.ASSISTANT, content="", tool_calls=calls),
        Message(role=Role.TOOL, content="two", tool_call_id="call_2"),
        Message(role=Role.TOOL, content="one", tool_call_id="call_1"),
    )
    prompt = template(source).render(turns)
    first, answer, second, other, _ = prompt.removeprefix("null").split(";")
    assert first.startswith("1=")
    assert answer == f"{first[2:]}:one"
    assert second.startswith("2=")
    assert other == f"{second[2:]}:two"
    assert first[2:] != second[2:]


@pytest.mark.parametrize(
    ("source", "prompt"),
    [
        ("{% for t in tools %}{{ t.function.name }}{% endfor %}{% if tools is defined %}+{% endif %}", ""),
        ("{% if tools is not none %}+{% for t in tools %}{{ t.function.name }}{% endfor %}{% endif %}", ""),
    ],
)
def test_no_tools_are_told_as_the_template_can_bear_it(source: str, prompt: str) -> None:
    assert template(source).render(HELLO) == prompt


def test_tools_that_a_template_mentions_but_does_not_show_are_told_in_words() -> None:
    """As Phi-4-mini's, which looks for them in the system message."""
    source = "{% for m in messages %}{% if m.tools %}{{ m.tools }}{% endif %}{{ m.content }}{% endfor %}"
    assert "weather" in template(source).render(HELLO, (WEATHER,))
