"""What gpt-oss says, in its own format: messages on channels, each with a header. Told apart while it streams. Pure.

    <|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>final<|message|>…
    <|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{…}

The prompt ends with ``<|start|>assistant``, so an answer begins with a header. See OpenAI's description of "harmony".
"""

from __future__ import annotations

import re
from typing import Final

from cxp2p_node.engines.marks import Arguments, Call, Reasoning, Segment, Text
from cxp2p_node.engines.text import overlap

CHANNEL, MESSAGE, START, END = "<|channel|>", "<|message|>", "<|start|>", "<|end|>"
CONSTRAIN, CALL, RETURN = "<|constrain|>", "<|call|>", "<|return|>"
ENDS: Final = (END, START, CALL, RETURN)
HEADERS: Final = (CHANNEL, CONSTRAIN, START, "assistant", "to=")  # how they begin
HEADER_CHARS_MAX: Final = 512  # of a name of 64 letters and some words
_RECIPIENT: Final = re.compile(r"to=functions\.([A-Za-z0-9_-]+)")
_CHANNEL: Final = re.compile(re.escape(CHANNEL) + r"\s*(\w+)")


class HarmonyReader:
    """Takes raw text as it comes and tells its segments. Without `calls` what was meant as one is text."""

    def __init__(self, *, calls: bool) -> None:
        self._reads_calls = calls
        self._rest = ""
        self._body: type[Text] | type[Reasoning] | None = None  # None: in a header, or in a call
        self._in_call = False
        self._calls = 0

    def feed(self, text: str) -> list[Segment]:
        """The segments that are sure now."""
        self._rest += text
        segments: list[Segment] = []
        while self._step(segments, last=False):
            pass
        return segments

    def end(self) -> list[Segment]:
        """What was still open, when the output ends. A header without a message is no part of what was said."""
        segments: list[Segment] = []
        while self._step(segments, last=True):
            pass
        return segments

    def _step(self, out: list[Segment], *, last: bool) -> bool:
        """One move; False when more text is needed."""
        if self._body is None and not self._in_call:
            return self._header(out)
        places = [(at, mark) for mark in ENDS if (at := self._rest.find(mark)) >= 0]
        if places:
            at, mark = min(places)
            self._give(self._rest[:at], out)
            self._rest = self._rest[at + len(mark) :]
            self._body, self._in_call = None, False
            return True
        held = 0 if last else max(overlap(self._rest, mark) for mark in ENDS)
        self._give(self._rest[: len(self._rest) - held], out)
        self._rest = self._rest[len(self._rest) - held :]
        return False

    def _header(self, out: list[Segment]) -> bool:
        header, mark, body = self._rest.partition(MESSAGE)
        if not mark:
            begun = header.lstrip()
            known = any(begun.startswith(each) or each.startswith(begun) for each in HEADERS)
            if not known or len(header) > HEADER_CHARS_MAX:
                self._body = Text  # it does not speak its own format
                return True
            return False
        self._rest = body
        recipient = _RECIPIENT.search(header)
        channel = _CHANNEL.search(header)
        if recipient is not None and self._reads_calls:
            self._in_call = True
            out.append(Call(self._calls, recipient[1]))
            self._calls += 1
        else:
            self._body = Reasoning if channel is not None and channel[1] == "analysis" else Text
        return True

    def _give(self, text: str, out: list[Segment]) -> None:
        if not text:
            return
        if self._in_call:
            out.append(Arguments(self._calls - 1, text))
        else:
            assert self._body is not None
            out.append(self._body(text))
