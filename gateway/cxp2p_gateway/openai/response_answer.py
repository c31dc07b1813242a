"""Answers of the Responses API: pieces become output items, whole or as the events of a stream."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from cxp2p.records import Logprob, Piece
from cxp2p_gateway import sse
from cxp2p_gateway.openai.answer import Whole, logprobs_object
from cxp2p_gateway.openai.response_ask import ResponseAsk

PREFIX: Final = "resp_"


class Status(StrEnum):
    """How far a response is, or one of its items."""

    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    INCOMPLETE = "incomplete"
    FAILED = "failed"


class Kind(StrEnum):
    """What an output item is."""

    REASONING = "reasoning"
    MESSAGE = "message"
    CALL = "function_call"


ID_PREFIXES: Final = {Kind.REASONING: "rs", Kind.MESSAGE: "msg", Kind.CALL: "fc"}


@dataclass(slots=True)
class Item:
    """One output item as it grows: a text that is thought or said, or the arguments of a call."""

    kind: Kind
    index: int
    made: str
    name: str = ""
    call: int = 0
    logprobs: list[Logprob] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    @property
    def id(self) -> str:
        return f"{ID_PREFIXES[self.kind]}_{self.made}_{self.index}"

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def part(self) -> dict[str, object]:
        """The content of a text."""
        if self.kind is Kind.REASONING:
            return {"type": "reasoning_text", "text": self.text}
        return {"type": "output_text", "text": self.text, "annotations": [], "logprobs": _tokens(self.logprobs)}

    def json(self, status: Status) -> dict[str, object]:
        """The item; one in progress is still empty."""
        head = {"id": self.id, "type": self.kind}
        content = [] if status is Status.IN_PROGRESS else [self.part()]
        match self.kind:
            case Kind.REASONING:
                return {**head, "summary": [], "content": content, "status": status}
            case Kind.MESSAGE:
                return {**head, "role": "assistant", "content": content, "status": status}
        call_id = f"call_{self.made}_{self.call}"
        return {**head, "call_id": call_id, "name": self.name, "arguments": self.text, "status": status}


@dataclass(frozen=True, slots=True)
class Head:
    """What a response is, apart from its output."""

    ask: ResponseAsk
    generation: str
    created_s: int

    @property
    def made(self) -> str:
        return self.generation.removeprefix(PREFIX)

    def json(self, status: Status, output: Sequence[Mapping[str, object]], **more: object) -> dict[str, object]:
        """The response object."""
        return {
            "id": self.generation,
            "object": "response",
            "created_at": self.created_s,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "model": self.ask.chat.job.model,
            "output": output,
            **self.ask.repeated,
            "usage": None,
            **more,
        }

    def ended(self, output: Sequence[Item], reason: str, counts: Mapping[str, Any], cx: object) -> dict[str, object]:
        """The response at its end. `reason`: why the model stopped; `counts`: the usage of a chat."""
        status = Status.INCOMPLETE if reason == "length" else Status.COMPLETED
        more: dict[str, object] = {"usage": response_usage(counts)}
        if status is Status.INCOMPLETE:
            more["incomplete_details"] = {"reason": "max_output_tokens"}
        if cx is not None:
            more["cx"] = cx
        items = [item.json(_ended(item, output, status)) for item in output]
        return self.json(status, items, **more)


def items_of(whole: Whole, made: str, *, logprobs: bool) -> list[Item]:
    """The output items of an answer that is there as a whole."""
    items: list[Item] = []
    if whole.reasoning:
        items.append(Item(Kind.REASONING, 0, made, texts=[whole.reasoning]))
    if whole.text or not whole.calls:
        heard = whole.logprobs if logprobs else []
        items.append(Item(Kind.MESSAGE, len(items), made, texts=[whole.text], logprobs=heard))
    for number, (name, arguments) in enumerate(whole.calls):
        items.append(Item(Kind.CALL, len(items), made, name=name, call=number, texts=[arguments]))
    return items


def response_usage(counts: Mapping[str, Any]) -> dict[str, object]:
    """A chat's usage in the words of the Responses API."""
    cached = counts["prompt_tokens_details"]["cached_tokens"]
    return {
        "input_tokens": counts["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": counts["completion_tokens"],
        "output_tokens_details": dict(counts["completion_tokens_details"]),
        "total_tokens": counts["total_tokens"],
    }


class ResponseEvents:
    """Makes the events of one response that is streamed.

    A thought or a text ends where something else begins; calls may grow side by side, and end with the response.
    """

    def __init__(self, ask: ResponseAsk, generation: str, created_s: int) -> None:
        self._head = Head(ask, generation, created_s)
        self._logprobs = ask.chat.job.logprobs is not None
        self._items: list[Item] = []
        self._open: dict[int, Item] = {}
        self._calls: dict[int, Item] = {}
        self._sent = 0

    def begin(self) -> bytes:
        """The first two events, the first time; then nothing."""
        if self._sent:
            return b""
        started = self._head.json(Status.IN_PROGRESS, [])
        return self._event("response.created", response=started) + self._event("response.in_progress", response=started)

    def piece(self, piece: Piece) -> bytes:
        """The events of one piece."""
        data = b""
        if piece.reasoning:
            data += self._told(Kind.REASONING, piece.reasoning, ())
        heard = piece.logprobs if self._logprobs else ()
        if piece.text or heard:
            data += self._told(Kind.MESSAGE, piece.text, heard)
        for part in piece.calls:
            if part.name is not None and part.number not in self._calls:
                data += self._close_texts()
                item = self._added(Kind.CALL, name=part.name, call=part.number)
                self._calls[part.number] = item
                data += self._item_event("added", item, Status.IN_PROGRESS)
            called = self._calls.get(part.number)
            if called is not None and part.arguments:
                called.texts.append(part.arguments)
                data += self._at(called, "response.function_call_arguments.delta", delta=part.arguments)
        return data

    def end(self, reason: str, counts: Mapping[str, Any], cx: object) -> bytes:
        """The last events of a whole answer. An empty one is an empty message."""
        data = b"" if self._items else self._told(Kind.MESSAGE, "", ())
        status = Status.INCOMPLETE if reason == "length" else Status.COMPLETED
        for item in list(self._open.values()):
            data += self._closed(item, _ended(item, self._items, status))
        return data + self._event(f"response.{status}", response=self._head.ended(self._items, reason, counts, cx))

    def fault(self, error: Mapping[str, str | None]) -> bytes:
        """The last event of an answer that broke off. `error`: an error object as a chat's stream would send it."""
        told = {"code": "server_error", "message": error["message"]}
        output = [
            item.json(Status.INCOMPLETE if item.index in self._open else Status.COMPLETED) for item in self._items
        ]
        failed = self._head.json(Status.FAILED, output, error=told)
        return self.begin() + self._event("response.failed", response=failed)

    def _told(self, kind: Kind, text: str, logprobs: Sequence[Logprob]) -> bytes:
        """A text of a kind goes on, or begins."""
        data, item = b"", next((each for each in self._open.values() if each.kind is kind), None)
        if item is None:
            data += self._close_texts()
            item = self._added(kind)
            data += self._item_event("added", item, Status.IN_PROGRESS)
            data += self._at(item, "response.content_part.added", content_index=0, part=item.part())
        item.texts.append(text)
        if kind is Kind.REASONING:
            return data + self._at(item, "response.reasoning_text.delta", content_index=0, delta=text)
        item.logprobs += logprobs
        return data + self._at(
            item, "response.output_text.delta", content_index=0, delta=text, logprobs=_tokens(logprobs)
        )

    def _added(self, kind: Kind, *, name: str = "", call: int = 0) -> Item:
        item = Item(kind, len(self._items), self._head.made, name=name, call=call)
        self._items.append(item)
        self._open[item.index] = item
        return item

    def _close_texts(self) -> bytes:
        texts = [item for item in self._open.values() if item.kind is not Kind.CALL]
        return b"".join(self._closed(item, Status.COMPLETED) for item in texts)

    def _closed(self, item: Item, status: Status) -> bytes:
        del self._open[item.index]
        match item.kind:
            case Kind.CALL:
                data = self._at(item, "response.function_call_arguments.done", name=item.name, arguments=item.text)
            case Kind.REASONING:
                data = self._at(item, "response.reasoning_text.done", content_index=0, text=item.text)
            case Kind.MESSAGE:
                heard = _tokens(item.logprobs)
                data = self._at(item, "response.output_text.done", content_index=0, text=item.text, logprobs=heard)
        if item.kind is not Kind.CALL:
            data += self._at(item, "response.content_part.done", content_index=0, part=item.part())
        return data + self._item_event("done", item, status)

    def _item_event(self, what: str, item: Item, status: Status) -> bytes:
        return self._event(f"response.output_item.{what}", output_index=item.index, item=item.json(status))

    def _at(self, item: Item, kind: str, **more: object) -> bytes:
        return self._event(kind, item_id=item.id, output_index=item.index, **more)

    def _event(self, kind: str, **more: object) -> bytes:
        event = {"type": kind, **more, "sequence_number": self._sent}
        self._sent += 1
        return f"event: {kind}\n".encode() + sse.event(json.dumps(event, ensure_ascii=False, separators=(",", ":")))


def _ended(item: Item, items: Sequence[Item], status: Status) -> Status:
    """How an item ended: where an answer was cut off, it was in the last one."""
    return status if item is items[-1] else Status.COMPLETED


def _tokens(logprobs: Sequence[Logprob]) -> object:
    return logprobs_object(logprobs)["content"]
