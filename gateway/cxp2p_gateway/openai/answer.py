"""Answers in OpenAI's JSON: pieces become chunks of a stream, or one whole completion."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from cxp2p.client import Outcome, Settlement
from cxp2p.receipts import digest
from cxp2p.records import CallPart, Finish, Logprob, Piece
from cxp2p_gateway import sse
from cxp2p_gateway.openai.ask import ChatAsk

NODE_PREFIX_LENGTH: Final = 16  # of a peer id: the first 8 characters are the same for every Ed25519 key
FINISH_REASONS: Final = {Finish.STOP: "stop", Finish.LENGTH: "length"}

DONE: Final = sse.event("[DONE]")


class Chunks:
    """Makes the chunks of one choice that is streamed. Mostly only the text changes, so only it is encoded."""

    def __init__(self, ask: ChatAsk, generation: str, created_s: int, index: int = 0) -> None:
        head = {
            "id": generation,
            "object": "chat.completion.chunk",
            "created": created_s,
            "model": ask.job.model,
        }
        self._head = sse.one_line(_json(head)[:-1])
        self._generation, self._index = generation, index
        self._older_calls = ask.older_calls
        self._usage = ',"usage":null' if ask.include_usage else ""
        self._before = f'data: {self._head},"choices":[{{"index":{index},"delta":{{"content":'.encode()
        self._after = f'}},"logprobs":null,"finish_reason":null}}]{self._usage}}}\n\n'.encode()
        self._begun = False

    def role(self) -> bytes:
        """The choice's first chunk, the first time; then nothing."""
        if self._begun:
            return b""
        self._begun = True
        return self._choice('{"role":"assistant","content":""}', "null", "")

    def piece(self, piece: Piece) -> bytes:
        """The chunks of one piece; none if it holds nothing that a client sees."""
        if piece.text and not (piece.logprobs or piece.calls or piece.reasoning):
            return self._before + sse.one_line(_json(piece.text)).encode() + self._after
        delta: dict[str, object] = {}
        if piece.reasoning:
            delta["reasoning_content"] = piece.reasoning
        if piece.text:
            delta["content"] = piece.text
        if piece.calls and self._older_calls:
            delta["function_call"] = _older_call(piece.calls)
        elif piece.calls:
            delta["tool_calls"] = [self._call(part) for part in piece.calls]
        if not delta and not piece.logprobs:
            return b""
        logprobs = _json(logprobs_object(piece.logprobs)) if piece.logprobs else "null"
        return self._choice(sse.one_line(_json(delta)), "null", "", sse.one_line(logprobs))

    def finish(self, reason: str, cx: object) -> bytes:
        """The chunk that says why the answer ended."""
        return self._choice("{}", f'"{reason}"', _extra(cx))

    def usage(self, counts: dict[str, object], cx: object) -> bytes:
        """The chunk without choices that only clients get who asked for it. `counts`: see `usage`."""
        return f'data: {self._head},"choices":[],"usage":{_json(counts)}{_extra(cx)}}}\n\n'.encode()

    def _call(self, part: CallPart) -> dict[str, object]:
        if part.name is None:
            return {"index": part.number, "function": {"arguments": part.arguments}}
        function = {"name": part.name, "arguments": part.arguments}
        call_id = _call_id(self._generation, self._index, part.number)
        return {"index": part.number, "id": call_id, "type": "function", "function": function}

    def _choice(self, delta: str, reason: str, extra: str, logprobs: str = "null") -> bytes:
        choice = f'{{"index":{self._index},"delta":{delta},"logprobs":{logprobs},"finish_reason":{reason}}}'
        return f'data: {self._head},"choices":[{choice}]{self._usage}{extra}}}\n\n'.encode()


class Whole:
    """Gathers the pieces of one choice."""

    def __init__(self) -> None:
        self.size = 0
        self._texts: list[str] = []
        self._reasoning: list[str] = []
        self._names: dict[int, str] = {}
        self._arguments: dict[int, list[str]] = {}
        self.logprobs: list[Logprob] = []

    @property
    def text(self) -> str:
        return "".join(self._texts)

    @property
    def reasoning(self) -> str:
        return "".join(self._reasoning)

    @property
    def calls(self) -> list[tuple[str, str]]:
        """Name and arguments of each call, in order."""
        return [(name, "".join(self._arguments[number])) for number, name in sorted(self._names.items())]

    def take(self, piece: Piece) -> None:
        """Adds a piece. `size` is then about the characters that are held."""
        self._texts.append(piece.text)
        self._reasoning.append(piece.reasoning)
        self.logprobs += piece.logprobs
        self.size += len(piece.text) + len(piece.reasoning)
        self.size += sum(64 * (1 + len(each.top)) for each in piece.logprobs)
        for part in piece.calls:
            if part.name is not None:
                self._names.setdefault(part.number, part.name)
            self._arguments.setdefault(part.number, []).append(part.arguments)
            self.size += len(part.arguments) + len(part.name or "")

    def choice(self, ask: ChatAsk, generation: str, reason: str, index: int = 0) -> dict[str, object]:
        """One choice of a completion."""
        text = self.text
        message: dict[str, object] = {"role": "assistant", "content": text, "refusal": None}
        if reasoning := self.reasoning:
            message["reasoning_content"] = reasoning
        calls = [{"name": name, "arguments": arguments} for name, arguments in self.calls]
        if calls:
            message["content"] = text or None
        if calls and ask.older_calls:
            message["function_call"] = calls[0]
        elif calls:
            message["tool_calls"] = [
                {"id": _call_id(generation, index, number), "type": "function", "function": function}
                for number, function in enumerate(calls)
            ]
        logprobs = logprobs_object(self.logprobs) if ask.job.logprobs is not None else None
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason}


def completion(
    ask: ChatAsk,
    generation: str,
    created_s: int,
    choices: Sequence[dict[str, object]],
    counts: dict[str, object],
    cx: object,
) -> dict[str, object]:
    """The whole answer of a request that is not streamed. `counts`: see `usage`."""
    body: dict[str, object] = {
        "id": generation,
        "object": "chat.completion",
        "created": created_s,
        "model": ask.job.model,
        "choices": choices,
        "usage": counts,
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


def _call_id(generation: str, index: int, number: int) -> str:
    made = generation.removeprefix("chatcmpl-")
    return f"call_{made}_{index}_{number}" if index else f"call_{made}_{number}"


def _older_call(parts: Sequence[CallPart]) -> dict[str, str]:
    """What these parts say of the one call that there was before tools."""
    first = [part for part in parts if part.number == 0]
    name = next((part.name for part in first if part.name is not None), None)
    arguments = "".join(part.arguments for part in first)
    return {"arguments": arguments} if name is None else {"name": name, "arguments": arguments}


def finish_reason(settlement: Settlement, *, called: bool, older_calls: bool = False) -> str | None:
    """OpenAI's word for how a job ended; None if it did not end by itself, so that the answer is not whole."""
    reason = FINISH_REASONS.get(settlement.receipt.finish)
    if called and reason == "stop":
        return "function_call" if older_calls else "tool_calls"
    return reason


def reasoning_units(piece: Piece) -> int:
    """How many tokens of a piece are of the reasoning. In the one where it turns into an answer: by its letters."""
    said = len(piece.text) + sum(len(part.arguments) + len(part.name or "") for part in piece.calls)
    thought = len(piece.reasoning)
    return len(piece.token_ids) * thought // (thought + said) if thought else 0


def usage(settlements: Sequence[Settlement], reasoning: int = 0) -> dict[str, object]:
    """Token counts that both sides signed, of all choices: a prompt counts once, however many choices it has.

    `reasoning`: how many of the tokens were thought, and not said.
    """
    first = settlements[0]
    prompt = first.countersign.in_units
    made = sum(each.countersign.out_units for each in settlements)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": made,
        "total_tokens": prompt + made,
        "prompt_tokens_details": {"cached_tokens": first.receipt.cached_units},
        "completion_tokens_details": {"reasoning_tokens": min(reasoning, made)},
    }


def cx_object(outcome: Outcome, refused: int = 0) -> dict[str, object]:
    """How a choice came about, for clients that ask. `route`: by load is the one rule of choice there is yet.

    `refused`: how many answers were not what they had to be, before this one.
    """
    return {
        "node": outcome.node[:NODE_PREFIX_LENGTH],
        "attempts": outcome.attempts + refused,
        "resumed": 0,
        "queue_ms": outcome.queued_ms,
        "route": "load",
        "found": {"via": outcome.found_via, "lookup_ms": outcome.lookup_ms},
        "receipt": digest(outcome.settlement.receipt_envelope).hex(),
    }


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _extra(cx: object) -> str:
    return "" if cx is None else f',"cx":{_json(cx)}'
