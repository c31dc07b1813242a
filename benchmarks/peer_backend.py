"""A model server that costs nearly nothing, for gateways that are measured: it answers each POST at once.

OpenAI's shapes, non-streamed or as events, one a word of what was asked. Prints its URL as a line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys

MODEL = "echo-at-once"


class Backend(asyncio.Protocol):
    """One connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._data = b""

    def data_received(self, data: bytes) -> None:
        self._data += data
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            length = 0
            for line in self._data[:end].lower().split(b"\r\n"):
                if line.startswith(b"content-length:"):
                    length = int(line.partition(b":")[2])
            if len(self._data) < end + 4 + length:
                return
            body = json.loads(self._data[end + 4 : end + 4 + length] or b"{}")
            self._data = self._data[end + 4 + length :]
            self._answer(body)

    def _answer(self, body: dict[str, object]) -> None:
        messages = body.get("messages")
        words = str(messages[-1]["content"]).split() if isinstance(messages, list) else []
        if not body.get("stream"):
            self._transport.write(_whole(" ".join(words), len(words)))
            return
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        self._transport.write(head)
        for word in words:
            self._event({"index": 0, "delta": {"role": "assistant", "content": f" {word}"}, "finish_reason": None})
        self._event({"index": 0, "delta": {}, "finish_reason": "stop"})
        self._transport.write(_chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    def _event(self, choice: dict[str, object]) -> None:
        said = {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": MODEL, "choices": [choice]}
        self._transport.write(_chunk(b"data: " + json.dumps(said).encode() + b"\n\n"))


def _chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def _whole(text: str, words: int) -> bytes:
    message = {"role": "assistant", "content": text}
    said = {
        "id": "c-1",
        "object": "chat.completion",
        "created": 1,
        "model": MODEL,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": words, "completion_tokens": words, "total_tokens": 2 * words},
    }
    data = json.dumps(said).encode()
    return f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Backend, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    sys.stdout.write(json.dumps({"url": f"http://127.0.0.1:{port}/v1"}) + "\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
