"""What goes wrong at a server behind a node, and what it said about it. Pure."""

from __future__ import annotations

import json
import re
from enum import Enum, auto
from typing import Any, Final

from cxp2p.errors import CxError, JobFailed, one_line
from cxp2p.records import FailureCode

WORDS_CHARS_MAX: Final = 300
RETRY_S_MIN: Final = 1.0
RETRY_S_MAX: Final = 30.0
COUNT_MAX: Final = 2**31 - 1


class Kind(Enum):
    """Whose fault it is, which is what to do about it."""

    GONE = auto()  # it cannot be reached, or broke off
    BUSY = auto()  # it is full, or loads its model
    SETUP = auto()  # the key, the model's name or the URL is wrong
    BROKEN = auto()  # it failed inside, or says what nobody understands
    CONTEXT = auto()  # the prompt is too long for the model
    REQUEST = auto()  # it does not do what the request asks for


_CODES: Final = {Kind.CONTEXT: FailureCode.CONTEXT_LENGTH, Kind.REQUEST: FailureCode.REQUEST_UNSUPPORTED}
_FOR_ASKERS: Final = {
    Kind.GONE: "the server behind this node does not answer",
    Kind.BUSY: "the server behind this node is busy",
    Kind.SETUP: "the server behind this node is not set up for this model",
    Kind.BROKEN: "the server behind this node failed",
}


class ServerFault(CxError):
    """The server did not do it. `words` are for the node's log; `limit` and `actual` are tokens, 0 if not told."""

    def __init__(self, kind: Kind, words: str, *, limit: int = 0, actual: int = 0, retry_s: float = 0.0) -> None:
        super().__init__(words)
        self.kind = kind
        self.words = words
        self.limit = limit
        self.actual = actual
        self.retry_s = retry_s

    def for_asker(self, context_units: int) -> JobFailed:
        """What a stranger may know of it: the server's words about his request, nothing of where the server is."""
        reason = _FOR_ASKERS.get(self.kind, self.words)
        limit = self.limit or (context_units if self.kind is Kind.CONTEXT else 0)
        return JobFailed(_CODES.get(self.kind, FailureCode.ENGINE_DIED), reason, limit, self.actual)


def fault_of_status(status: int, body: bytes, retry_after: str = "", key: str = "") -> ServerFault:
    """The fault that an answer other than 200 tells. `key` is taken out of the words, in case it repeats it."""
    facts = _error_object(body)
    words = _told(facts, body, key)
    said = f"status {status}: {words}" if words else f"status {status}"
    if 300 <= status < 400:
        return ServerFault(Kind.SETUP, f"{said}; redirects are not followed: set `url` to where it leads")
    if status in (401, 402, 403):
        return ServerFault(Kind.SETUP, f"{said}; check `key_env` or `key_path`")
    if status in (404, 405):
        return ServerFault(Kind.SETUP, f"{said}; check `upstream_model` and the path of `url`, which mostly is /v1")
    if status in (429, 503):
        return ServerFault(Kind.BUSY, said, retry_s=_retry_s(retry_after))
    if _is_context(status, facts, words):
        limit, actual = _numbers(facts, words)
        return ServerFault(Kind.CONTEXT, words, limit=limit, actual=actual)
    if status in (400, 413, 415, 422, 501):
        return ServerFault(Kind.REQUEST, f"the server of the model says: {words or said}")
    return ServerFault(Kind.BROKEN, said)


def fault_of_event(error: object, key: str = "") -> ServerFault:
    """The fault that an event in the middle of a stream tells: an object with a code, or words."""
    code = error.get("code") if isinstance(error, dict) else None
    status = code if isinstance(code, int) and not isinstance(code, bool) and 400 <= code < 600 else 500
    return fault_of_status(status, json.dumps({"error": error}).encode(), key=key)


def _error_object(body: bytes) -> dict[str, Any]:
    """The object that servers tell an error with: OpenAI's, or what stands at the top of older ones."""
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(told, dict):
        return {}
    inner = told.get("error")
    if isinstance(inner, dict):
        return inner
    return {**told, "message": inner} if isinstance(inner, str) else told


def _told(facts: dict[str, Any], body: bytes, key: str) -> str:
    words = facts.get("message") or facts.get("detail") or ""
    if not words and not facts:
        words = body[: 2 * WORDS_CHARS_MAX].decode(errors="replace")
    text = words if isinstance(words, str) else json.dumps(words)
    if key:
        text = text.replace(key, "...")
    return one_line(text, WORDS_CHARS_MAX).strip()


def _retry_s(told: str) -> float:
    """What Retry-After says, in bounds. A date, which no such server sends, counts as the least."""
    seconds = float(told) if told.isascii() and told.isdigit() and len(told) < 9 else RETRY_S_MIN
    return min(max(seconds, RETRY_S_MIN), RETRY_S_MAX)


# How the servers say that a prompt is too long.
# vLLM, OpenAI: "maximum context length is 4096 tokens. However, you requested 5000 tokens"
# SGLang: "The input (9000 tokens) is longer than the model's context length (8192 tokens)"
# llama-server: "request (6031 tokens) exceeds the available context size (4096 tokens)", and for embeddings, as status
# 500, "input (600 tokens) is too large to process. increase the physical batch size (current batch size: 512)"
# Ollama: "the input length exceeds the context length"
_CONTEXT: Final = re.compile(
    r"context (?:length|size|window)|too large to process|(?:prompt|input) (?:is )?too long", re.IGNORECASE
)
_CONTEXT_SURE: Final = re.compile(
    r"(?:maximum|exceeds?(?: the)?(?: model's)?(?: maximum)?) context length|available context size"
    r"|too large to process",
    re.IGNORECASE,
)
_LIMITS: Final = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"context (?:length|size|window)\D{0,20}?(\d{1,9})",
        r"batch size: (\d{1,9})",
    )
)
_ACTUALS: Final = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(?:request|input|prompt) \((\d{1,9}) tokens\)",
        r"(\d{1,9}) (?:tokens )?(?:in the messages|from the input|input tokens|prompt tokens)",
        r"(?:requested|resulted in|total of|has|contains(?: at least)?) (\d{1,9})",
    )
)


def _is_context(status: int, facts: dict[str, Any], words: str) -> bool:
    if "context_length_exceeded" in (facts.get("code"), facts.get("type")):
        return True
    if facts.get("type") == "exceed_context_size_error":
        return True
    return bool((_CONTEXT if status in (400, 413, 422) else _CONTEXT_SURE).search(words))


def _numbers(facts: dict[str, Any], words: str) -> tuple[int, int]:
    """The limit and what the prompt has, as far as they are told."""
    limit, actual = _count(facts.get("n_ctx")), _count(facts.get("n_prompt_tokens"))
    return limit or _first(_LIMITS, words), actual or _first(_ACTUALS, words)


def _first(patterns: tuple[re.Pattern[str], ...], words: str) -> int:
    found = (pattern.search(words) for pattern in patterns)
    return next((int(match[1]) for match in found if match), 0)


def _count(value: object) -> int:
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 < value <= COUNT_MAX
    return value if is_count and isinstance(value, int) else 0
