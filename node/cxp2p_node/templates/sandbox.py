"""A model's chat template in Jinja's sandbox. It comes with the model file: it is a stranger's program.

The sandbox keeps it from reaching anything, but not from taking time and memory: `apart` runs this module in a process
of its own, which has limits. The names that templates may use are those of Hugging Face's `apply_chat_template`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

PROMPT_CHARS_MAX: Final = 32 * 1024 * 1024
REPEATED_CHARS_MAX: Final = 64 * 1024
# What compiled templates raise: they are Python, and the messages that they meet are strangers'.
TEMPLATE_ERRORS: Final = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
)


class TemplateFault(Exception):
    """The template cannot be compiled, or refuses what it is given. The text says why."""


class Template:
    """A chat template. `wall_s` tells the time to those who ask for the date."""

    def __init__(self, source: str, *, bos: str, eos: str, wall_s: Callable[[], float] = time.time) -> None:
        """Raises TemplateFault."""

        def now(pattern: str) -> str:
            return datetime.fromtimestamp(wall_s(), UTC).strftime(pattern)

        extensions = ["jinja2.ext.loopcontrols", _Generation]
        environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
        environment.filters["tojson"] = to_json
        environment.globals.update(raise_exception=_raise, strftime_now=now, bos_token=bos, eos_token=eos)
        try:
            self._template = environment.from_string(source)
        except TEMPLATE_ERRORS as error:
            raise TemplateFault(_words(error)) from None

    def render(self, names: Mapping[str, object]) -> str:
        """The text that it makes of these names. Raises TemplateFault."""
        parts, size = [], 0
        try:
            for part in self._template.generate(**names):
                size += len(part)
                if size > PROMPT_CHARS_MAX:
                    raise TemplateFault(f"the prompt is over {PROMPT_CHARS_MAX} characters")
                parts.append(part)
        except TEMPLATE_ERRORS as error:
            raise TemplateFault(_words(error)) from None
        return "".join(parts)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, with words for the commonest ways to make much out of little."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**":
            raise TemplateFault("powers are not allowed")
        for one, other in ((left, right), (right, left)):
            if isinstance(one, (str, list, tuple)) and isinstance(other, int) and len(one) * other > REPEATED_CHARS_MAX:
                raise TemplateFault("it repeats something too often")
        return super().call_binop(context, operator, left, right)


class _Generation(Extension):
    """`{% generation %}`: what the model says itself. Only those who train it want to know."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """The filter `tojson`, with the arguments that it has where models are trained."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
