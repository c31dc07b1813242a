"""What an answer must be before it counts: JSON, a schema's value, calls of tools with right arguments. Pure.

A demand names the schemas that hold, and `claims` says which text of an answer must be a value of which of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

ANY_OBJECT: Final = '{"type": "object"}'

Claim: TypeAlias = tuple[str, str]
"""A schema, and JSON text that must be a value of it."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A schema as JSON text, and the parameter of the request that it came from."""

    schema: str
    param: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What is checked of an answer. `text`: of one without calls. `tools`: of calls, by name; other names are free.

    `must_call`: a tool of `tools`, and no other, must be called.
    """

    text: Rule | None = None
    tools: Mapping[str, Rule] = field(default_factory=dict)
    must_call: bool = False

    def __bool__(self) -> bool:
        return self.text is not None or bool(self.tools)

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The request's own schemas, each once."""
        rules = [*([self.text] if self.text else []), *self.tools.values()]
        return tuple({rule.schema: rule for rule in rules if rule.schema != ANY_OBJECT}.values())

    def claims(self, text: str, calls: Sequence[tuple[str, str]]) -> Iterator[Claim | str]:
        """What must hold for an answer's text and calls (name, arguments) to be right; a string says what is wrong."""
        if self.must_call and not calls:
            yield "it calls no tool"
        for name, arguments in calls:
            rule = self.tools.get(name)
            if rule is not None:
                yield rule.schema, arguments
            elif self.must_call:
                yield "it calls a tool that it was not offered"
        if self.text is not None and not calls:
            yield self.text.schema, text


NOTHING: Final = Demand()
