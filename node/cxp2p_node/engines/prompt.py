"""From messages to a prompt, by the model's own chat template. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from cxp2p.errors import JobFailed
from cxp2p.records import FailureCode, Message, Role

# For models that bring no template of their own: ChatML, which most small models understand.
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class ChatTemplate:
    """A chat template, compiled. The template comes with the model file, so it runs in Jinja's sandbox.

    The names that templates may use are those of Hugging Face's `apply_chat_template`.
    """

    def __init__(self, source: str, *, bos: str, eos: str, wall_s: float) -> None:
        def now(pattern: str) -> str:
            return datetime.fromtimestamp(wall_s, UTC).strftime(pattern)

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _tojson
        environment.globals.update(raise_exception=_raise, strftime_now=now, bos_token=bos, eos_token=eos)
        self._template = environment.from_string(source)

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt that asks for the next assistant turn. Raises JobFailed if the template refuses the messages."""
        turns = [_turn(message) for message in messages]
        try:
            return self._template.render(messages=turns, add_generation_prompt=True, tools=None)
        except (jinja2.TemplateError, TypeError, ValueError, RecursionError, OverflowError) as error:
            reason = f"the model's chat template refuses these messages: {error}"
            raise JobFailed(FailureCode.REQUEST_UNSUPPORTED, reason[:512]) from None


def _turn(message: Message) -> dict[str, str]:
    role = Role.SYSTEM if message.role is Role.DEVELOPER else message.role
    turn = {"role": str(role), "content": message.content}
    return turn if message.name is None else {**turn, "name": message.name}


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _tojson(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)
