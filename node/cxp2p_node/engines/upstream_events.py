"""What a server streams: events, and in each of them a part of an answer in OpenAI's JSON. Pure."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from cxp2p.records import Alternative, Logprob
from cxp2p_node.engines.upstream_ask import count_of
from cxp2p_node.engines.upstream_faults import Kind, ServerFault, fault_of_event

EVENT_BYTES_MAX: Final = 4 * 1024 * 1024  # the ids of a prompt of 500,000 tokens come in one event
NAME_CHARS_MAX: Final = 128
TOP_MAX: Final = 20
LEAST_LOGPROB: Final = -9999.0  # in place of minus infinity
STAND_IN: Final = 2**31  # above every vocabulary, see `upstream_answer.stand_in`


def broken(words: str) -> NoReturn:
    """The server says what nobody understands. Raises ServerFault."""
    raise ServerFault(Kind.BROKEN, words)


class Events:
    """Takes the bytes of a stream of server-sent events in any parts; gives the data of each event that is whole."""

    def __init__(self, bytes_max: int = EVENT_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._rest = bytearray()
        self._scanned = 0
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, part: bytes) -> list[bytes]:
        """Raises ServerFault for an event that is too long."""
        self._rest += part
        whole: list[bytes] = []
        while (end := self._rest.find(b"\n", self._scanned)) >= 0:
            line = bytes(self._rest[:end]).removesuffix(b"\r")
            del self._rest[: end + 1]
            self._scanned = 0
            if line:
                self._take(line)
            elif self._data:
                whole.append(self._event())
        self._scanned = len(self._rest)
        if self._size + len(self._rest) > self._bytes_max:
            broken(f"an event of its stream is longer than {self._bytes_max} bytes")
        return whole

    def end(self) -> list[bytes]:
        """The last event, if the blank line after it is missing."""
        if self._rest:
            self._take(bytes(self._rest))
        return [self._event()] if self._data else []

    def _take(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
        elif name == b"error":  # so said llama-server once
            self._data.append(b'{"error":' + value + b"}")
        else:
            return
        self._size += len(value)

    def _event(self) -> bytes:
        data = b"\n".join(self._data)
        self._data, self._size = [], 0
        return data


@dataclass(frozen=True, slots=True, kw_only=True)
class CallTold:
    """A part of a tool call. `index` and `id` are what the server calls it by: None, "" if it does not."""

    index: int | None
    id: str
    name: str | None
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One event of an answer.

    `token_ids`: of this event. `tokens`: how many it is, if its log probabilities tell. `made`: how many there are so
    far, as the server counts them; 0 if it does not say. `prompt`: the prompt's units, and how many were reused.
    `end`: why the answer ends.
    """

    text: str = ""
    reasoning: str = ""
    calls: tuple[CallTold, ...] = ()
    logprobs: tuple[Logprob, ...] = ()
    token_ids: tuple[int, ...] = ()
    tokens: int = 0
    made: int = 0
    prompt: tuple[int, int] | None = None
    end: str = ""

    @property
    def said(self) -> bool:
        return bool(self.text or self.reasoning or self.calls)


def told_by(data: bytes, key: str = "") -> Told:
    """What an event tells. Raises ServerFault: its own if it is an error, in words without `key`."""
    event = parsed(data)
    if event.get("error"):
        raise fault_of_event(event["error"], key)
    choice = _choice(event.get("choices"))
    delta = choice.get("delta") or {}
    if not isinstance(delta, dict):
        broken("the delta of its answer is no object")
    content = _logprob_content(choice.get("logprobs"))
    token_ids = _ids(choice.get("token_ids")) or _ids([each.get("id") for each in content], partly=True)
    prompt, made = _counts(event)
    end = choice.get("finish_reason")
    return Told(
        text=_text(delta, "content"),
        reasoning=_text(delta, "reasoning_content") or _text(delta, "reasoning"),
        calls=_calls(delta.get("tool_calls")),
        logprobs=tuple(_logprob(each) for each in content),
        token_ids=token_ids,
        tokens=len(token_ids) or len(content),
        made=made,
        prompt=prompt,
        end=end if isinstance(end, str) else "",
    )


def parsed(data: bytes) -> dict[str, Any]:
    """A JSON object. Raises ServerFault for anything else."""
    try:
        event = json.loads(data)
    except (ValueError, RecursionError):
        event = None
    if not isinstance(event, dict):
        broken("its answer is no JSON object")
    return event


def _choice(choices: object) -> dict[str, Any]:
    """The one choice that was asked for; an event of counts has none."""
    if choices is not None and not isinstance(choices, list):
        broken("the choices of its answer are no list")
    for choice in choices or ():
        if not isinstance(choice, dict):
            broken("a choice of its answer is no object")
        if not choice.get("index"):
            return choice
    return {}


def _counts(event: dict[str, Any]) -> tuple[tuple[int, int] | None, int]:
    """The prompt's units with those reused, and the tokens made so far."""
    usage, timings, prompt_ids = event.get("usage"), event.get("timings"), event.get("prompt_token_ids")
    if isinstance(usage, dict) and (units := count_of(usage.get("prompt_tokens"))):
        details = usage.get("prompt_tokens_details")
        cached = count_of(details.get("cached_tokens")) if isinstance(details, dict) else 0
        return (units, min(cached, units)), count_of(usage.get("completion_tokens"))
    if isinstance(timings, dict):  # llama-server
        cached = count_of(timings.get("cache_n"))
        return (count_of(timings.get("prompt_n")) + cached, cached), count_of(timings.get("predicted_n"))
    return ((len(prompt_ids), 0) if isinstance(prompt_ids, list) and prompt_ids else None), 0


def _text(delta: dict[str, Any], name: str) -> str:
    value = delta.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        broken(f"the {name} of its answer is no text")
    return _whole(value)


def _whole(text: str) -> str:
    """JSON can hold halves of characters, and nothing else can."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _calls(told: object) -> tuple[CallTold, ...]:
    if told is not None and not isinstance(told, list):
        broken("the tool calls of its answer are no list")
    return tuple(_call(each) for each in told or ())


def _call(told: object) -> CallTold:
    function = told.get("function", {}) if isinstance(told, dict) else None
    if not isinstance(told, dict) or not isinstance(function, dict):
        broken("a tool call of its answer is no object")
    name, arguments = function.get("name") or None, function.get("arguments")
    if name is not None and not (isinstance(name, str) and len(name) <= NAME_CHARS_MAX):
        broken(f"the name of a tool call is not 1 to {NAME_CHARS_MAX} characters")
    if isinstance(arguments, dict):
        arguments = json.dumps(arguments, ensure_ascii=False)
    index, call_id = told.get("index"), told.get("id")
    return CallTold(
        index=index if isinstance(index, int) and index >= 0 else None,
        id=call_id if isinstance(call_id, str) else "",
        name=_whole(name) if name is not None else None,
        arguments=_whole(arguments) if isinstance(arguments, str) else "",
    )


def _ids(told: object, *, partly: bool = False) -> tuple[int, ...]:
    """Token ids. `partly`: they may be missing, and are none then."""
    if not isinstance(told, list) or (partly and None in told):
        return ()
    for each in told:
        if not isinstance(each, int) or not 0 <= each < STAND_IN:
            broken("a token id of its answer is none")
    return tuple(told)


def _logprob_content(told: object) -> list[dict[str, Any]]:
    content = told.get("content") if isinstance(told, dict) else None
    if content is None:
        return []
    if not isinstance(content, list) or not all(isinstance(each, dict) for each in content):
        broken("the log probabilities of its answer are no list of objects")
    return content


def _logprob(told: dict[str, Any]) -> Logprob:
    data, logprob = _token(told)
    others = [_token(each) for each in _logprob_content({"content": told.get("top_logprobs")})[:TOP_MAX]]
    return Logprob(data=data, logprob=logprob, top=tuple(Alternative(data=data, logprob=each) for data, each in others))


def _token(told: dict[str, Any]) -> tuple[bytes, float]:
    number, raw, text = told.get("logprob"), told.get("bytes"), told.get("token")
    if not isinstance(number, (int, float)) or math.isnan(number):
        broken("a log probability of its answer is no number")
    if isinstance(raw, list) and all(isinstance(byte, int) and 0 <= byte < 256 for byte in raw):
        data = bytes(raw)
    else:
        data = text.encode(errors="replace") if isinstance(text, str) else b""
    return data, min(0.0, max(float(number), LEAST_LOGPROB))
