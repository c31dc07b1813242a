"""What a model's raw output means: answer text, reasoning, and tool calls, told apart while it streams. Pure.

Tool calls come in one of the formats that models were trained on: Hermes and Qwen write ``<tool_call>{…}</tool_call>``,
Mistral ``[TOOL_CALLS][{…}, {…}]``, Phi and Granite ``<|tool_call|>[{…}]``, Llama 3.x a bare JSON object; gpt-oss has a
module of its own, `harmony`. Whatever does not parse as a call is given as text: nothing that the model said is lost.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from enum import Enum

from cxp2p_node.engines.harmony import HarmonyReader
from cxp2p_node.engines.marks import (
    THINK_BEGIN,
    THINK_END,
    Arguments,
    Call,
    Reasoning,
    Segment,
    Text,
    ToolFormat,
)
from cxp2p_node.engines.text import overlap

CALL_CHARS_MAX = 1 << 20


_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\S)')


def reader_of(form: ToolFormat, *, calls: bool, thinking: bool = False) -> SegmentReader | HarmonyReader:
    """What reads the output of a model of this format. `calls`: they are looked for."""
    if form.channels:
        return HarmonyReader(calls=calls)
    return SegmentReader(form if calls else None, thinking=thinking)


class _In(Enum):
    TEXT = "text"
    REASONING = "reasoning"
    CALL = "call"
    BETWEEN = "between calls of a list"
    CLOSING = "after a call, before its end mark"


class SegmentReader:
    """Takes raw text as it comes and tells its segments. `tools` None: calls are not looked for."""

    def __init__(self, tools: ToolFormat | None, *, thinking: bool = False) -> None:
        self._tools = tools
        self._state = _In.REASONING if thinking else _In.TEXT
        self._rest = ""
        self._began = False
        self._skips_space = False
        self._calls = 0
        self._raw = ""
        self._object = _Object()

    @property
    def calls(self) -> int:
        """How many calls have begun."""
        return self._calls

    def feed(self, text: str) -> list[Segment]:
        """The segments that are sure now."""
        self._rest += text
        segments: list[Segment] = []
        while self._step(segments, last=False):
            pass
        return segments

    def end(self) -> list[Segment]:
        """What was still open, when the output ends."""
        segments: list[Segment] = []
        while self._step(segments, last=True):
            pass
        if self._state is _In.CALL and not self._object.name_told:
            segments.append(Text(self._raw))
        return segments

    def _step(self, out: list[Segment], *, last: bool) -> bool:
        """One move; False when more text is needed."""
        match self._state:
            case _In.TEXT:
                return self._text(out, last=last)
            case _In.REASONING:
                return self._until((THINK_END,), Reasoning, out, last=last) is not None
            case _In.CALL:
                return self._call(out)
            case _In.BETWEEN | _In.CLOSING:
                return self._after_call(last=last)

    def _text(self, out: list[Segment], *, last: bool) -> bool:
        tools = self._tools
        if self._skips_space:
            self._rest = self._rest.lstrip()
            self._skips_space = not self._rest
        if not self._began:
            stripped = self._rest.lstrip()
            if not stripped and not last:
                return False
            if tools is not None and tools.bare and stripped.startswith("{"):
                self._open_call("")
                return True
        marks = [THINK_BEGIN] if not self._began else []
        if tools is not None and tools.begin:
            marks.append(tools.begin)
        found = self._until(tuple(marks), Text, out, last=last)
        if found is None:
            return False
        if found == THINK_BEGIN:
            self._state = _In.REASONING
        else:
            self._open_call(found)
        return True

    def _until(
        self, marks: Sequence[str], kind: type[Text] | type[Reasoning], out: list[Segment], *, last: bool
    ) -> str | None:
        """Gives text up to a mark and takes the mark away; holds back what may be the beginning of one."""
        places = [(at, mark) for mark in marks if (at := self._rest.find(mark)) >= 0]
        if places:
            at, mark = min(places)
            self._give(kind, self._rest[:at], out)
            self._rest = self._rest[at + len(mark) :]
            if kind is Reasoning:
                self._state = _In.TEXT
                self._began = self._skips_space = True
            return mark
        held = 0 if last else max((overlap(self._rest, mark) for mark in marks), default=0)
        self._give(kind, self._rest[: len(self._rest) - held], out)
        self._rest = self._rest[len(self._rest) - held :]
        return None

    def _give(self, kind: type[Text] | type[Reasoning], text: str, out: list[Segment]) -> None:
        if text:
            self._began = self._began or bool(text.strip())
            out.append(kind(text))

    # Calls.

    def _open_call(self, mark: str) -> None:
        self._state, self._began = _In.CALL, True
        self._raw, self._object = mark, _Object()
        if self._tools is not None and self._tools.listed:
            self._state = _In.BETWEEN

    def _call(self, out: list[Segment]) -> bool:
        """Reads an object that should be a call; gives its name first, then its arguments as they come."""
        if not self._rest:
            return False
        taken = self._object.feed(self._rest)
        self._raw += self._rest[:taken]
        self._rest = self._rest[taken:]
        told = self._object.take()
        if told is not None:
            name, arguments = told
            if name is not None:
                out.append(Call(self._calls, name))
                self._calls += 1
            if arguments:
                out.append(Arguments(self._calls - 1, arguments))
        if self._object.failed or len(self._raw) > CALL_CHARS_MAX:
            if not self._object.name_told:
                out.append(Text(self._raw))
            self._state, self._tools = _In.TEXT, None
            return bool(self._rest)
        if self._object.closed:
            assert self._tools is not None
            self._state = _In.BETWEEN if self._tools.listed else _In.CLOSING
            return True
        return False

    def _after_call(self, *, last: bool) -> bool:
        """Skips what stands between calls: commas and brackets of a list, an end mark, space."""
        assert self._tools is not None
        skipped = self._rest.lstrip(" \n\t,[" if self._tools.listed else " \n\t")
        if self._tools.listed:
            return self._next_listed(skipped, last=last)
        end = self._tools.end
        if not last and end and len(skipped) < len(end) and end.startswith(skipped):
            return False
        if end and skipped.startswith(end):
            skipped = skipped[len(end) :]
        elif not self._tools.bare and not skipped and not last:
            return False
        self._rest, self._state, self._skips_space = skipped, _In.TEXT, True
        if self._tools.bare:
            self._tools = None  # one call is all that this format has
        return bool(skipped)

    def _next_listed(self, skipped: str, *, last: bool) -> bool:
        assert self._tools is not None
        if not skipped:
            self._rest = ""
            return False
        if skipped.startswith("{"):
            self._rest, self._state = skipped, _In.CALL
            self._raw, self._object = "", _Object()
            return True
        after, end = skipped.removeprefix("]"), self._tools.end
        if end:
            after = after.lstrip(" \n\t")
        if end and not last and len(after) < len(end) and end.startswith(after):
            return False
        self._rest, self._state, self._tools = after.removeprefix(end), _In.TEXT, None
        return bool(self._rest)


class _Object:
    """One JSON object that streams in: where it ends, and, as soon as it is sure, the call in it."""

    def __init__(self) -> None:
        self._text = ""
        self._depth = 0
        self._quoted = False
        self._escaped = False
        self._arguments_at = -1
        self._given = 0
        self.closed = False
        self.failed = False
        self.name_told = False

    def feed(self, text: str) -> int:
        """Takes what belongs to the object, and says how much that was."""
        for at, letter in enumerate(text):
            if not self._depth and not letter.isspace() and letter != "{":
                self.failed = True
                self._text += text[: at + 1]
                return at + 1
            if self._takes_last(letter):
                self._text += text[: at + 1]
                self.closed = True
                return at + 1
        self._text += text
        return len(text)

    def _takes_last(self, letter: str) -> bool:
        if self._quoted:
            if self._escaped:
                self._escaped = False
            elif letter == "\\":
                self._escaped = True
            elif letter == '"':
                self._quoted = False
        elif letter == '"':
            self._quoted = True
        elif letter in "{[":
            self._depth += 1
        elif letter in "}]":
            self._depth -= 1
            return self._depth == 0
        return False

    def take(self) -> tuple[str | None, str] | None:
        """The name, once, and the arguments that are new. None: nothing yet."""
        if self._arguments_at < 0:
            head = _HEAD.match(self._text)
            if head is None:
                return self._whole() if self.closed else None
            self._arguments_at = self._given = head.end()
            name = str(json.loads(head[1]))
            self.name_told = True
            return name, self._new()
        return None, self._new()

    def _new(self) -> str:
        end = len(self._text) - self.closed  # the last brace is the call's own
        end = self._given + len(self._text[self._given : end].rstrip())  # and the space before it may be
        fresh = self._text[self._given : end]
        self._given += len(fresh)
        return fresh

    def _whole(self) -> tuple[str | None, str] | None:
        """A call in an order of keys that could not be told apart while it streamed."""
        try:
            value = json.loads(self._text)
        except ValueError:
            value = None
        name = value.get("name") if isinstance(value, dict) else None
        if not isinstance(name, str):
            self.failed = True
            return None
        self.name_told = True
        arguments = value.get("arguments", value.get("parameters", {}))
        return name, json.dumps(arguments, ensure_ascii=False)
