"""Answers in OpenAI's JSON: pieces become chunks of a stream, or one whole completion."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from cxp2p.client import Outcome, Settlement
from cxp2p.records import CallPart, Finish, Logprob, Piece
from cxp2p_gateway import sse
from cxp2p_gateway.openai.ask import ChatAsk

NODE_PREFIX_LENGTH: Final = 16  # of a peer id: the first 8 characters are the same for every Ed25519 key
FINISH_REASONS: Final = {Finish.STOP: "stop", Finish.LENGTH: "length"}

DONE: Final = sse.event("[DONE]")


class Chunks:
    """Makes the chunks of one streamed answer. Mostly only the text changes, so only it is encoded."""

    def __init__(self, ask: ChatAsk, generation: str, created_s: int) -> None:
        head = {
            "id": generation,
            "object": "chat.completion.chunk",
            "created": created_s,
            "model": ask.job.model,
        }
        self._head = sse.one_line(_json(head)[:-1])
        self._generation = generation
        self._usage = ',"usage":null' if ask.include_usage else ""
        self._before = f'data: {self._head},"choices":[{{"index":0,"delta":{{"content":'.encode()
        self._after = f'}},"logprobs":null,"finish_reason":null}}]{self._usage}}}\n\n'.encode()
        self.role = self._choice('{"role":"assistant","content":""}', "null", "")
        self.called = False

    def piece(self, piece: Piece) -> bytes:
        """The chunks of one piece; none if it holds nothing that a client sees."""
        self.called = self.called or bool(piece.calls)
        if piece.text and not (piece.logprobs or piece.calls or piece.reasoning):
            return self._before + sse.one_line(_json(piece.text)).encode() + self._after
        delta: dict[str, object] = {}
        if piece.reasoning:
            delta["reasoning_content"] = piece.reasoning
        if piece.text:
            delta["content"] = piece.text
        if piece.calls:
            delta["tool_calls"] = [self._call(part) for part in piece.calls]
        if not delta and not piece.logprobs:
            return b""
        logprobs = _json(logprobs_object(piece.logprobs)) if piece.logprobs else "null"
        return self._choice(sse.one_line(_json(delta)), "null", "", sse.one_line(logprobs))

    def finish(self, reason: str, cx: dict[str, object] | None) -> bytes:
        """The chunk that says why the answer ended."""
        return self._choice("{}", f'"{reason}"', _extra(cx))

    def usage(self, settlement: Settlement, cx: dict[str, object] | None) -> bytes:
        """The chunk without choices that only clients get who asked for it."""
        return f'data: {self._head},"choices":[],"usage":{_json(usage(settlement))}{_extra(cx)}}}\n\n'.encode()

    def _call(self, part: CallPart) -> dict[str, object]:
        if part.name is None:
            return {"index": part.number, "function": {"arguments": part.arguments}}
        function = {"name": part.name, "arguments": part.arguments}
        call_id = _call_id(self._generation, part.number)
        return {"index": part.number, "id": call_id, "type": "function", "function": function}

    def _choice(self, delta: str, reason: str, extra: str, logprobs: str = "null") -> bytes:
        choice = f'{{"index":0,"delta":{delta},"logprobs":{logprobs},"finish_reason":{reason}}}'
        return f'data: {self._head},"choices":[{choice}]{self._usage}{extra}}}\n\n'.encode()


class Whole:
    """Gathers the pieces of an answer that is not streamed."""

    def __init__(self) -> None:
        self.size = 0
        self._texts: list[str] = []
        self._reasoning: list[str] = []
        self._names: dict[int, str] = {}
        self._arguments: dict[int, list[str]] = {}
        self._logprobs: list[Logprob] = []

    @property
    def called(self) -> bool:
        return bool(self._names)

    def take(self, piece: Piece) -> None:
        """Adds a piece. `size` is then about the characters that are held."""
        self._texts.append(piece.text)
        self._reasoning.append(piece.reasoning)
        self._logprobs += piece.logprobs
        self.size += len(piece.text) + len(piece.reasoning)
        self.size += sum(64 * (1 + len(each.top)) for each in piece.logprobs)
        for part in piece.calls:
            if part.name is not None:
                self._names.setdefault(part.number, part.name)
            self._arguments.setdefault(part.number, []).append(part.arguments)
            self.size += len(part.arguments) + len(part.name or "")

    def choice(self, ask: ChatAsk, generation: str, reason: str) -> dict[str, object]:
        """The one choice of a completion."""
        text = "".join(self._texts)
        message: dict[str, object] = {"role": "assistant", "content": text, "refusal": None}
        if reasoning := "".join(self._reasoning):
            message["reasoning_content"] = reasoning
        if self._names:
            message["content"] = text or None
            message["tool_calls"] = [
                {
                    "id": _call_id(generation, number),
                    "type": "function",
                    "function": {"name": name, "arguments": "".join(self._arguments[number])},
                }
                for number, name in sorted(self._names.items())
            ]
        logprobs = logprobs_object(self._logprobs) if ask.job.logprobs is not None else None
        return {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": reason}


def completion(
    ask: ChatAsk,
    generation: str,
    created_s: int,
    whole: Whole,
    reason: str,
    outcome: Outcome,
    cx: dict[str, object] | None,
) -> dict[str, object]:
    """The whole answer of a request that is not streamed."""
    body: dict[str, object] = {
        "id": generation,
        "object": "chat.completion",
        "created": created_s,
        "model": ask.job.model,
        "choices": [whole.choice(ask, generation, reason)],
        "usage": usage(outcome.settlement),
    }
    return body if cx is None else body | {"cx": cx}


def logprobs_object(logprobs: Sequence[Logprob]) -> dict[str, object]:
    """Log probabilities; a token whose bytes are no whole characters shows U+FFFD and its bytes."""
    content = []
    for each in logprobs:
        top = [_token(other.data, other.logprob) for other in each.top]
        content.append({**_token(each.data, each.logprob), "top_logprobs": top})
    return {"content": content, "refusal": None}


def _token(data: bytes, logprob: float) -> dict[str, object]:
    return {"token": data.decode(errors="replace"), "logprob": logprob, "bytes": list(data)}


def _call_id(generation: str, number: int) -> str:
    return f"call_{generation.removeprefix('chatcmpl-')}_{number}"


def finish_reason(settlement: Settlement, *, called: bool) -> str | None:
    """OpenAI's word for how a job ended; None if it did not end by itself, so that the answer is not whole."""
    reason = FINISH_REASONS.get(settlement.receipt.finish)
    return "tool_calls" if called and reason == "stop" else reason


def usage(settlement: Settlement) -> dict[str, object]:
    """Token counts that both sides signed."""
    agreed = settlement.countersign
    return {
        "prompt_tokens": agreed.in_units,
        "completion_tokens": agreed.out_units,
        "total_tokens": agreed.in_units + agreed.out_units,
        "prompt_tokens_details": {"cached_tokens": settlement.receipt.cached_units},
    }


def cx_object(outcome: Outcome) -> dict[str, object]:
    """How an answer came about, for clients that ask. `route`: by load is the one rule of choice there is yet."""
    return {
        "node": outcome.node[:NODE_PREFIX_LENGTH],
        "attempts": outcome.attempts,
        "resumed": 0,
        "queue_ms": outcome.queued_ms,
        "route": "load",
        "found": {"via": outcome.found_via, "lookup_ms": outcome.lookup_ms},
    }


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _extra(cx: dict[str, object] | None) -> str:
    return "" if cx is None else f',"cx":{_json(cx)}'
