"""What the log says: one line for each request, in the form asked for, and nothing that is nobody's business."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from trio.testing import MockClock

from cxp2p.errors import NoNode
from cxp2p.program import JsonLines, LogForm, set_up_logging
from cxp2p_gateway.keys import without_keys
from doors import CHAT, KEY, MemoryDoor, ask, chat_body, fails, front, hangs, says
from wires import chat, request, served

SECRET = "sk-cx-abcd2345-zZ9_-zZ9_-zZ9_-zZ9_-zZ9_-zZ9_-zZ9_-zZ9"
PROMPT = "the prompt that nobody may read"
SAID = "the answer that nobody may read"


@pytest.fixture
def restored() -> Iterator[None]:
    """The root logger as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(params=list(LogForm))
def lines(request: pytest.FixtureRequest, restored: None, monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a gateway with this form would have written so far, at the level that says most."""
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    set_up_logging("debug", request.param)
    return written


async def test_neither_prompts_nor_answers_nor_keys_are_logged(lines: io.StringIO, autojump_clock: MockClock) -> None:
    """However a request ends, and wherever a careless client has put its key."""
    messages = [{"role": "user", "content": PROMPT}]
    headers = {"X-Title": SECRET, "HTTP-Referer": f"https://example.com/?{SECRET}", "User-Agent": f"curl {SECRET}"}
    headers |= {"X-Client-Request-Id": SECRET, "X-User-Id": SECRET}
    for door in (
        MemoryDoor(work=says(SAID)),
        MemoryDoor(work=hangs),
        MemoryDoor(work=fails(NoNode(PROMPT))),
        MemoryDoor(work=fails(ValueError(PROMPT))),  # a bug that quotes what it was given
        MemoryDoor(work=fails(ValueError(PROMPT), SAID)),
    ):
        app = front(door)
        for stream in (False, True):
            body = chat_body(messages=messages, stream=stream)
            await ask(app, "POST", CHAT, body=body, leave_after_s=20)
            await ask(app, "POST", f"{CHAT}?key={SECRET}", body=body, headers=headers, key=SECRET)
        await ask(app, "POST", CHAT, body=chat_body(messages=messages, model=SECRET))
        await ask(app, "POST", CHAT, body=chat_body(messages=messages, temperature=PROMPT))
        await ask(app, "POST", CHAT, body=PROMPT.encode())
        await ask(app, "GET", f"/v1/models/{SECRET}", headers=headers)
        await ask(app, "GET", f"/{SECRET}")
    async with served() as here:
        await here.ask(chat(messages=messages, headers={"X_Title": SECRET}))
        await here.ask(request("GET", f"/{SECRET}"), "GET")
        await here.ask(f"GET /{SECRET} {SECRET}\r\nAuthorization: Bearer {SECRET}\r\n\r\n".encode(), "GET")

    text = lines.getvalue()
    assert len(text.splitlines()) > 40
    assert not any(word in text for word in (PROMPT, SAID, "zZ9", KEY))


async def test_json_has_one_object_for_each_request(restored: None, autojump_clock: MockClock) -> None:
    """With all that is known of it, by name."""
    records: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    access = logging.getLogger("cxp2p.gateway.access")
    access.addHandler(handler := Keep())
    access.setLevel(logging.INFO)
    try:
        answer = await ask(front(MemoryDoor()), "POST", CHAT, body=chat_body(), headers={"X-Title": "a\nb"})
    finally:
        access.removeHandler(handler)
    (record,) = records
    line = JsonLines().format(record)
    said: dict[str, Any] = json.loads(line)

    assert "\n" not in line
    assert (said["level"], said["logger"], said["event"]) == ("info", "cxp2p.gateway.access", "request")
    assert said["at"].endswith("+00:00")
    assert (said["status"], said["method"], said["path"]) == (200, "POST", CHAT)
    assert (said["request_id"], said["account"], said["key"]) == (answer.headers["x-request-id"], "account-1", "key-1")
    assert json.loads(record.getMessage()).items() <= said.items()


def test_json_lines_are_lines() -> None:
    """Whatever is said, a traceback too, one line can be read back."""
    try:
        raise ValueError("one\ntwo")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "x.py", 1, "three\nfour %s", ("\x1b[31m",), sys.exc_info())
    line = JsonLines().format(record)
    said = json.loads(line)

    assert len(line.splitlines()) == 1
    assert (said["level"], said["message"]) == ("error", "three\nfour \x1b[31m")
    assert said["traceback"].endswith("ValueError: one\ntwo")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (SECRET, "sk-cx-abcd2345***"),
        (f"/v1/models/{SECRET}/x", "/v1/models/sk-cx-abcd2345***/x"),
        ("sk-proj-Abc123_def", "sk-***"),
        ("disk-4096 task-12345", "disk-4096 task-12345"),
        ("abcd2345", "abcd2345"),
    ],
)
def test_keys_are_hidden(text: str, told: str) -> None:
    """The id of ours stays, so that its holder can be told; other people's go as a whole."""
    assert without_keys(text) == told
