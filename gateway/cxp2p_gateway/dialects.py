"""In which of two renderings a client gets its errors. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum


class Base(Enum):
    """Under which base path a request came: the documented one, the alias for OpenAI tools, or neither."""

    DOCUMENTED = "/api/v1"
    ALIAS = "/v1"
    ROOT = ""


class Dialect(Enum):
    """How an error body looks: the user guide's `{"error": "text"}`, or OpenAI's object."""

    SIMPLE = "simple"
    OPENAI = "openai"


def base_of(path: str) -> Base:
    """The base path that `path` lies under."""
    for base in (Base.DOCUMENTED, Base.ALIAS):
        if path == base.value or path.startswith(base.value + "/"):
            return base
    return Base.ROOT


def dialect_of(headers: Mapping[str, str], base: Base) -> Dialect:
    """Which rendering a client gets: what it asked for, else what its SDK reads, else what its base path documents."""
    wanted = headers.get("x-error-format", "").strip().lower()
    if wanted in {dialect.value for dialect in Dialect}:
        return Dialect(wanted)
    agent = headers.get("user-agent", "")
    if "x-stainless-lang" in headers or agent.startswith(("OpenAI/", "AsyncOpenAI/", "ai/")) or "ai-sdk/" in agent:
        return Dialect.OPENAI
    return Dialect.OPENAI if base is Base.ALIAS else Dialect.SIMPLE
