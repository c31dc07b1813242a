"""What one job has said so far: from tokens to pieces. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from cxp2p.records import CallPart, Logprob, Piece
from cxp2p_node.engines.marks import Arguments, Call, Reasoning, Segment, Text, ToolFormat
from cxp2p_node.engines.segments import reader_of
from cxp2p_node.engines.text import TextFilter


class Output:
    """Collects tokens; `piece` takes what may leave.

    `calls`: tool calls are looked for. `thinking`: the prompt ended inside of the model's reasoning.
    """

    def __init__(self, stops: Sequence[str], form: ToolFormat, *, calls: bool, thinking: bool = False) -> None:
        self._filter = TextFilter(stops)
        self._reader = reader_of(form, calls=calls, thinking=thinking)
        self._text = ""
        self._reasoning = ""
        self._calls: list[CallPart] = []
        self._token_ids: list[int] = []
        self._logprobs: list[Logprob] = []
        self._freed = 0  # bytes of text since the last piece
        self.made = 0

    @property
    def stopped(self) -> bool:
        """Whether a stop string is complete."""
        return self._filter.stopped

    @property
    def ready(self) -> bool:
        """Whether there is a piece whose tokens are all in its text."""
        return bool(self._token_ids) and self._filter.whole

    def end_mark(self, token: int) -> None:
        """The token with which the model says that it is done: counted, and no text."""
        self.made += 1
        self._token_ids.append(token)

    def take(self, token: int, data: bytes, logprob: Logprob | None = None) -> None:
        """One token and its bytes."""
        self.made += 1
        self._token_ids.append(token)
        if logprob is not None:
            self._logprobs.append(logprob)
        text = self._filter.feed(data)
        self._freed += len(text.encode())
        self._add(self._reader.feed(text))
        if self._filter.stopped:
            self._logprobs = _within(self._logprobs, self._freed)

    def end(self) -> None:
        """No more tokens come: what was held back may leave."""
        self._add(self._reader.feed(self._filter.end()))
        self._add(self._reader.end())

    def piece(self) -> Piece | None:
        """All that is new, or None if nothing is."""
        if not (self._token_ids or self._text or self._reasoning or self._calls):
            return None
        piece = Piece(
            text=self._text,
            token_ids=tuple(self._token_ids),
            reasoning=self._reasoning,
            calls=tuple(self._calls),
            logprobs=tuple(self._logprobs),
        )
        self._text = self._reasoning = ""
        self._calls, self._token_ids, self._logprobs, self._freed = [], [], [], 0
        return piece

    def _add(self, segments: Sequence[Segment]) -> None:
        for segment in segments:
            match segment:
                case Text(text):
                    self._text += text
                case Reasoning(text):
                    self._reasoning += text
                case Call(number, name):
                    self._calls.append(CallPart(number=number, name=name))
                case Arguments(number, text):
                    self._add_arguments(number, text)

    def _add_arguments(self, number: int, text: str) -> None:
        last = self._calls[-1] if self._calls else None
        if last is not None and last.number == number:
            self._calls[-1] = CallPart(number=number, name=last.name, arguments=last.arguments + text)
        else:
            self._calls.append(CallPart(number=number, arguments=text))


def _within(logprobs: Sequence[Logprob], size: int) -> list[Logprob]:
    """Those of the first `size` bytes: of a stop string nothing is told, not even how likely it was."""
    kept, begin = [], 0
    for each in logprobs:
        if begin < size:
            kept.append(each)
        begin += len(each.data)
    return kept
