"""From what a server streams to pieces, and how many tokens of it may be charged. Pure.

A unit is a token, and each has an id. Few servers tell ids; where they tell only how many, an id is a stand-in: see
`stand_in`. Never are more units given than were ordered, than the server says that it made, or than what it delivered
can be.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from cxp2p.errors import JobFailed
from cxp2p.records import CallPart, ChatJob, FailureCode, Finish, Logprob, Piece, ToolMode, Usage
from cxp2p_node.engines.upstream_events import STAND_IN, CallTold, Told, broken, told_by
from cxp2p_node.engines.upstream_faults import Kind, ServerFault

CALLS_MAX: Final = 128
IDS_PER_PIECE: Final = 1024

# Tokens that are no text: the end, the brackets of a thought; and what stands round a call.
MARKS_MAX: Final = 16
MARKS_PER_CALL_MAX: Final = 64
# No tokenizer has longer words on average; an asker takes 192 bytes with its frame.
BYTES_PER_UNIT_MAX: Final = 128
BYTES_SPARE: Final = 32 * 1024
# Where the server does not count while it streams, an event with text is taken for seven eighths of a token: then no
# more is told than was made, even if it sends some words in two. The end sets it right.
GUESSED: Final = (7, 8)

_LENGTH: Final = ("length", "model_length", "max_tokens")
_FAILED: Final = ("abort", "error")


def stand_in(number: int, text: str) -> int:
    """The id of token `number` of an answer, of which only the text that it came with is known.

    The first 4 bytes of SHA-256 over the number as 4 bytes and the text, big-endian, with the highest bit set.
    """
    hashed = sha256(number.to_bytes(4, "big") + text.encode(errors="replace")).digest()
    return int.from_bytes(hashed[:4], "big") | STAND_IN


@dataclass(slots=True)
class _Call:
    """One tool call of the answer: its number here, and what the server calls it by."""

    number: int
    index: int
    id: str


class Answer:
    """The answer to one chat job, event by event.

    `prompt`: the prompt's units and how many were reused, as soon as the server tells. `finish`: how it ended.
    `begun`: something of it has come. `over`: nothing more is to be read, `cut`: because the server did not end.
    `counts`: whether the server has told how many tokens it made.
    """

    def __init__(self, job: ChatJob, max_out: int, key: str = "") -> None:
        """`key` is kept out of what is told of errors."""
        self.prompt: tuple[int, int] | None = None
        self.finish: Finish | None = None
        self.begun = False
        self.over = False
        self.cut = False
        self.counts = False
        self.max_out = max_out
        self._key = key
        self._forced = bool(job.tools) and job.tool_mode in (ToolMode.REQUIRED, ToolMode.NAMED)
        self._forced_name = job.tool_name if self._forced and job.tool_mode is ToolMode.NAMED else None
        self._wants_logprobs = job.logprobs is not None
        self._held = ""
        self._calls: list[_Call] = []
        self._bytes = 0
        self._made = 0  # tokens, as the server last said; then what came since, and events with text that may be one
        self._since = 0
        self._events = 0
        self._told = 0
        self._ids: deque[int] = deque()

    def take(self, data: bytes) -> list[Piece]:
        """The pieces of one event. Raises ServerFault, and JobFailed if the server does not heed what was asked."""
        if data.startswith(b"[DONE]"):
            self.over = True
            return []
        told = told_by(data, self._key)
        self.begun = True
        self.prompt = told.prompt or self.prompt
        if told.said and self._known() > self.max_out:
            self.finish, self.over, self.cut = Finish.LENGTH, True, True
            return []
        self._count(told)
        calls = tuple(part for each in told.calls if (part := self._part(each)) is not None)
        text = self._released(told.text)
        self._check_logprobs(told)
        pieces = self._pieces(text, told.reasoning, calls, told.logprobs)
        self._end(told.end)
        return pieces

    def end(self) -> list[Piece]:
        """What is still to be told when the stream has ended. Raises as `take`, also if the answer is not whole."""
        if self.finish is None:
            raise ServerFault(Kind.GONE, "its answer ended without a reason to end")
        if self._forced and not self._calls and self.finish is Finish.STOP:
            raise _unheeded()
        return self._pieces(self._held, "", (), ())

    def usage(self, prompt_units_least: int) -> Usage:
        """What was used, when all pieces are told; for a prompt that nobody counted, the least that it has."""
        assert self.finish is not None  # `end` has seen to it
        in_units, cached_units = self.prompt or (prompt_units_least, 0)
        return Usage(in_units=in_units, cached_units=cached_units, out_units=self._told, finish=self.finish)

    def _end(self, reason: str) -> None:
        if reason in _FAILED:
            broken(f"it ended the answer with {reason!r}")
        if reason == "content_filter":
            raise JobFailed(FailureCode.REQUEST_UNSUPPORTED, "the filter of the model's server stopped the answer")
        if reason:
            self.finish = Finish.LENGTH if reason in _LENGTH else Finish.STOP

    def _released(self, text: str) -> str:
        """The text, unless a call must be made and is not yet: then it waits. It may be all that will come."""
        self._held += text
        if self._forced and not self._calls:
            if len(self._held) > BYTES_SPARE + BYTES_PER_UNIT_MAX * self.max_out:
                broken(f"its answer is too long for {self.max_out} tokens")
            return ""
        text, self._held = self._held, ""
        return text

    def _check_logprobs(self, told: Told) -> None:
        if told.logprobs:
            self._wants_logprobs = False  # it tells them; an event of its own may still have none
        elif told.text and self._wants_logprobs:
            why = "the model's server tells no log probabilities"
            raise JobFailed(FailureCode.REQUEST_UNSUPPORTED, why)

    def _part(self, told: CallTold) -> CallPart | None:
        call = self._call_of(told)
        name = None
        if call is None:
            if told.name is None:
                broken("a tool call begins without a name")
            if len(self._calls) >= CALLS_MAX:
                broken(f"its answer has more than {CALLS_MAX} tool calls")
            if self._forced_name not in (None, told.name):
                raise _unheeded()
            name, number = told.name, len(self._calls)
            call = _Call(number, number if told.index is None else told.index, told.id)
            self._calls.append(call)
        if name is None and not told.arguments:
            return None
        return CallPart(number=call.number, name=name, arguments=told.arguments)

    def _call_of(self, told: CallTold) -> _Call | None:
        """The call that a part goes on with; None: it begins one. Some servers give every call the index 0, or none."""
        if not self._calls:
            return None
        if told.index is None:
            return None if told.name is not None else self._calls[-1]
        for call in reversed(self._calls):
            if call.index == told.index:
                other = told.name is not None and told.id != call.id
                return None if other else call
        return None

    # Counting.

    def _count(self, told: Told) -> None:
        """How many tokens an event is, by the best that it tells of them."""
        self._ids.extend(told.token_ids)
        self._since += told.tokens
        self._events += told.said and not told.tokens
        if told.made:
            self._made, self._since, self._events = max(self._made, told.made), 0, 0
            self.counts = True

    def _known(self) -> int:
        """The tokens that surely were made."""
        share, whole = GUESSED
        return self._made + self._since + self._events * share // whole

    def _pieces(
        self, text: str, reasoning: str, calls: tuple[CallPart, ...], logprobs: tuple[Logprob, ...]
    ) -> list[Piece]:
        spoken = text + reasoning + "".join((part.name or "") + part.arguments for part in calls)
        self._bytes += len(spoken.encode())
        if self._bytes > BYTES_SPARE + BYTES_PER_UNIT_MAX * self.max_out:
            broken(f"its answer has {self._bytes} bytes, too much for {self.max_out} tokens")
        ids = self._next_ids(spoken)
        if not (spoken or ids):
            return []
        groups = [ids[at : at + IDS_PER_PIECE] for at in range(0, len(ids), IDS_PER_PIECE)] or [()]
        first = Piece(text=text, token_ids=groups[0], reasoning=reasoning, calls=calls, logprobs=logprobs)
        return [first, *(Piece(token_ids=group) for group in groups[1:])]

    def _next_ids(self, spoken: str) -> tuple[int, ...]:
        delivered = self._bytes + MARKS_MAX + MARKS_PER_CALL_MAX * len(self._calls)
        begun, self._told = self._told, max(self._told, min(self._known(), self.max_out, delivered))
        return tuple(
            self._ids.popleft() if self._ids else stand_in(number, spoken) for number in range(begun, self._told)
        )


def _unheeded() -> JobFailed:
    return JobFailed(FailureCode.REQUEST_UNSUPPORTED, "the model's server does not heed tool_choice")
