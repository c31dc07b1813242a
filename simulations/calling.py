"""An HTTP client for a gateway in the same process: it speaks ASGI to the front, and may leave before the end."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import trio
from starlette.types import ASGIApp, Message

CHAT_PATH: Final = "/api/v1/chat/completions"


@dataclass(slots=True)
class Answer:
    """What a caller got. `parts` with the time of each; `complete` once the body ended, `cut` if the gateway died.

    `left`: the caller did not wait for the end.
    """

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    parts: list[tuple[float, bytes]] = field(default_factory=list)
    complete: bool = False
    left: bool = False
    cut: bool = False

    @property
    def body(self) -> bytes:
        return b"".join(data for _, data in self.parts)

    def json(self) -> Any:
        """The body as JSON; None if it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    def events(self) -> list[Any]:
        """The events of a stream, `[DONE]` as the string that it is."""
        datas = [line[6:] for line in self.body.decode().split("\n") if line.startswith("data: ")]
        return [data if data == "[DONE]" else json.loads(data) for data in datas]


async def post(app: ASGIApp, path: str, key: str, body: Mapping[str, object], leave_after_s: float | None) -> Answer:
    """Posts JSON, and returns what came until the end, or until the caller left."""
    answer = Answer()
    ends_at = trio.current_time() + leave_after_s if leave_after_s is not None else float("inf")
    pending = [json.dumps(body).encode()]

    async def receive() -> Message:
        if pending:
            return {"type": "http.request", "body": pending.pop(), "more_body": False}
        await trio.sleep_until(ends_at)
        answer.left = not answer.complete
        return {"type": "http.disconnect"}

    await app(_scope(path, key), receive, _taker(answer))
    return answer


def _taker(answer: Answer) -> Callable[[Message], Any]:
    async def send(message: Message) -> None:
        await trio.lowlevel.checkpoint()
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            answer.parts.append((trio.current_time(), message.get("body", b"")))
            answer.complete = not message.get("more_body", False)

    return send


def _scope(path: str, key: str) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"authorization", f"Bearer {key}".encode()), (b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
