"""POST /responses: how OpenAI's Responses API is asked for and answered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cxp2p.records import Piece
from cxp2p_gateway import openai
from cxp2p_gateway.chat import Script
from cxp2p_gateway.choices import Choice, Work
from cxp2p_gateway.openai import ChatAsk, ResponseAsk


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request for a response. All of it is held, because a stream's last events repeat it."""

    ask: ResponseAsk
    prefix: str = "resp_"
    held: bool = True

    @property
    def chat(self) -> ChatAsk:
        return self.ask.chat

    def whole(self, work: Work) -> object:
        choice, head = work.choices[0], openai.Head(self.ask, work.generation, work.created_s)
        assert choice.whole is not None
        items = openai.items_of(choice.whole, head.made, logprobs=self.chat.job.logprobs is not None)
        return head.ended(items, choice.reason, work.usage, work.cx)

    def script(self, work: Work) -> Script:
        return _Evented(work, openai.ResponseEvents(self.ask, work.generation, work.created_s))


def response_of(body: dict[str, Any]) -> Wanted:
    """What a body asks for. Raises Fault."""
    return Wanted(openai.response_ask(body))


@dataclass(frozen=True, slots=True)
class _Evented:
    """Writes the events of the one choice there is."""

    work: Work
    events: openai.ResponseEvents

    def begin(self) -> bytes:
        return self.events.begin()

    def piece(self, choice: Choice, piece: Piece) -> bytes:
        return self.events.piece(piece)

    def ended(self, choice: Choice) -> bytes:
        return b""

    def end(self, last: Choice) -> bytes:
        return self.events.end(last.reason, self.work.usage, self.work.cx)

    def fault(self, error: Mapping[str, str | None]) -> bytes | None:
        return self.events.fault(error)
