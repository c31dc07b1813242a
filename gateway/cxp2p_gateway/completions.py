"""POST /chat/completions: how OpenAI's chat is asked for and answered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cxp2p.records import Piece
from cxp2p_gateway import openai
from cxp2p_gateway.chat import Script
from cxp2p_gateway.choices import Choice, Work
from cxp2p_gateway.openai import ChatAsk


@dataclass(frozen=True, slots=True)
class Completion:
    """A request for a chat completion."""

    chat: ChatAsk
    prefix: str = "chatcmpl-"
    held: bool = False

    def whole(self, work: Work) -> object:
        choices = [
            choice.whole.choice(work.ask, work.generation, choice.reason, choice.index)
            for choice in work.choices
            if choice.whole is not None
        ]
        return openai.completion(work.ask, work.generation, work.created_s, choices, work.usage, work.cx)

    def script(self, work: Work) -> Script:
        return _Chunked(work)


def completion_of(body: dict[str, Any]) -> Completion:
    """What a body asks for. Raises Fault."""
    return Completion(openai.chat_ask(body))


class _Chunked:
    """Writes the chunks of all choices."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._chunks = [
            openai.Chunks(work.ask, work.generation, work.created_s, choice.index) for choice in work.choices
        ]

    def begin(self) -> bytes:
        """The first chunks of all choices in their order, once: OpenAI's own client takes the first it sees for 0."""
        return b"".join(chunks.role() for chunks in self._chunks)

    def piece(self, choice: Choice, piece: Piece) -> bytes:
        return self._chunks[choice.index].piece(piece)

    def ended(self, choice: Choice) -> bytes:
        return self._chunks[choice.index].finish(choice.reason, None)

    def end(self, last: Choice) -> bytes:
        work, chunks = self._work, self._chunks[last.index]
        if work.ask.include_usage:
            return chunks.finish(last.reason, None) + chunks.usage(work.usage, work.cx) + openai.DONE
        return chunks.finish(last.reason, work.cx) + openai.DONE

    def fault(self, error: Mapping[str, str | None]) -> bytes | None:
        return None
