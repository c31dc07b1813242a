"""From messages to a prompt: the model's template, in a sandbox."""

from __future__ import annotations

import pytest
from jinja2 import TemplateError

from cxp2p.errors import JobFailed
from cxp2p.records import FailureCode, Message, Role
from cxp2p_node.engines.prompt import CHATML, ChatTemplate

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
    ],
)
def test_a_template_cannot_leave_the_sandbox(source: str) -> None:
    with pytest.raises(JobFailed, match="refuses these messages"):
        template(source).render(HELLO)


def test_a_broken_template_is_told_when_it_is_loaded() -> None:
    with pytest.raises(TemplateError):
        template("{% for %}")
