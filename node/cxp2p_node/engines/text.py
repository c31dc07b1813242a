"""From token bytes to text that may leave: whole characters, and never a part of a stop string. Pure."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextFilter:
    """Takes the bytes of one token at a time and tells what may be sent.

    Text leaves only at character boundaries; text that may be the beginning of a stop string waits. Bytes that are not
    UTF-8 become U+FFFD. A character that is not complete at the end is dropped.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def feed(self, data: bytes) -> str:
        """The text that may leave after this token. `stopped` is set when a stop string is complete."""
        if self.stopped:
            return ""
        text = self._held + self._decoder.decode(data)
        found = min((at for at in (text.find(stop) for stop in self._stops) if at >= 0), default=-1)
        if found >= 0:
            self.stopped = True
            self._held = ""
            return text[:found]
        keep = max((overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def end(self) -> str:
        """What was still waiting, when no more tokens come."""
        held, self._held = self._held, ""
        return held

    @property
    def whole(self) -> bool:
        """Whether nothing waits: all tokens so far are fully in the text that left."""
        return not self._held and not self._decoder.getstate()[0]


def overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that is a beginning of `stop`, but not all of it."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
