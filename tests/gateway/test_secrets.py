"""Keys and prompts are in no log and no error, whatever is asked and however it fails, at the most talkative level."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from random import Random
from typing import Any

import pytest
from trio.testing import MockClock

from cxp2p_gateway.http import Front
from cxp2p_gateway.keys import make_key
from doors import Answer, MemoryDoor, ask, fails, front, says
from sockets import listening
from test_attacks import ALL
from test_open_routes import whole_gateway
from wires import request

PROMPT = "wJ4q the words of a prompt wJ4q"
MADE_UP = make_key(Random(7).randbytes).text
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD")


def secret_of(key: str) -> str:
    """The part of a key that must be nowhere."""
    return key.rpartition("-")[2] if key.count("-") == 3 else key[-43:]


def bodies() -> list[bytes]:
    """What is asked: right, wrong in each field, and wrong altogether; the prompt is in each."""
    right: dict[str, Any] = {
        "model": "smollm2:135m",
        "messages": [{"role": "user", "content": PROMPT}],
        "input": PROMPT,
        "text": PROMPT,
        "voice": "alloy",
        "urls": ["http://localhost/"],
    }
    wrong: list[Any] = [
        {**right, field: value}
        for field in ("messages", "stop", "tools", "response_format", "temperature", "metadata", "user", "stream")
        for value in (PROMPT, [PROMPT], {PROMPT: PROMPT}, [{"role": PROMPT, "content": PROMPT}])
    ]
    wrong += [{**right, "messages": [{"role": "user", "content": [{"type": PROMPT, "text": PROMPT}]}]}]
    wrong += [{**right, "stream": True}, {**right, "model": "asleep:1b"}, {**right, "input": [PROMPT, 7]}, [PROMPT]]
    broken = [f'{{"messages": "{PROMPT}'.encode(), PROMPT.encode(), f'{{"{PROMPT}": NaN}}'.encode()]
    deep = [b'{"a":' * 70 + json.dumps(PROMPT).encode() + b"}" * 70]
    return [json.dumps(each).encode() for each in (right, *wrong)] + broken + deep


def paths(app: Front) -> list[str]:
    return sorted({re.sub(r"\{[^}]*\}", "x", route.path) for route in app.routes})


def seen(answer: Answer) -> str:
    return f"{answer.raw_headers!r} {answer.body!r}"


async def everything(app: Front, key: str) -> str:
    """All answers to all methods of all paths, each with a body in turn, with the right key and with others."""
    answers = []
    asked = bodies()
    turn = 0
    for path in paths(app):
        for method in METHODS:
            for headers in (
                [("authorization", f"Bearer {key}")],
                [("authorization", f"Bearer {MADE_UP}")],
                [("authorization", f"Basic {MADE_UP}"), ("x-user-id", MADE_UP), ("cookie", f"session={MADE_UP}")],
            ):
                headers.append(("content-type", "application/json"))
                answers.append(await ask(app, method, path, headers=headers, body=asked[turn % len(asked)]))
                turn += 1
    for body in asked:
        answers.append(await ask(app, "POST", "/v1/chat/completions", body=body, key=key))
    return "\n".join(seen(answer) for answer in answers)


@pytest.mark.slow
async def test_a_whole_gateway_tells_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Every path of it, at level debug: neither its key nor a prompt is in a log, an answer or a page."""
    caplog.set_level(logging.DEBUG)
    async with whole_gateway(tmp_path) as gateway:
        assert gateway.first is not None
        key = gateway.first.key
        told = await everything(gateway.front, key)
        made = await ask(gateway.front, "POST", "/v1/keys", body={"name": "mine"}, key=key)
    new = made.json()["key"]
    assert new.startswith("sk-cx-")
    assert len(told) > 100_000
    for text in (told, caplog.text):
        for secret in (secret_of(key), secret_of(MADE_UP), secret_of(new), "wJ4q"):
            assert secret not in text
    assert '"status":401' in caplog.text


@pytest.mark.parametrize("work", [says("Hello"), fails(RuntimeError(PROMPT)), fails(ValueError(PROMPT), "a", "b")])
async def test_a_job_that_breaks_tells_nobody(
    work: Any, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    """A bug's message may quote what it broke on: only its place is logged."""
    caplog.set_level(logging.DEBUG)
    app = front(MemoryDoor(work=work))
    for body in bodies():
        assert "wJ4q" not in seen(await ask(app, "POST", "/v1/chat/completions", body=body))
    assert "wJ4q" not in caplog.text


async def test_a_key_in_the_wrong_place_is_not_kept_in_a_log(caplog: pytest.LogCaptureFixture) -> None:
    """In a path, a query, a title, an agent, an id, a model's name, or a line that is no header."""
    caplog.set_level(logging.DEBUG)
    places = [
        request(path=f"/v1/models/{MADE_UP}"),
        request(path=f"/{MADE_UP}?key={MADE_UP}"),
        request(path=f"/health?api_key={MADE_UP}"),
        request(X_Title=MADE_UP, User_Agent=f"me/{MADE_UP}", Referer=f"https://x/{MADE_UP}"),
        request(X_Client_Request_Id=MADE_UP, X_Stainless_Retry_Count=MADE_UP),
        request("POST", "/v1/chat/completions", {"model": MADE_UP, "messages": [{"role": "user", "content": "x"}]}),
        request("POST", "/v1/audio/speech", {"model": "x", "input": "x", "voice": MADE_UP}),
        request(MADE_UP),
        f"GET /health HTTP/1.1\r\nAuthorization Bearer {MADE_UP}\r\n\r\n".encode(),
        f"{MADE_UP}\r\n\r\n".encode(),
    ]
    async with listening() as here:
        for data in places:
            async with here.connect() as client:
                await client.say(data)
                reply = await client.reply()
                assert reply is not None
                assert secret_of(MADE_UP) not in reply.body.decode()
        for data in ALL.values():
            await here.tell(data.replace(b"X: y", f"X: {MADE_UP}".encode()))
    assert secret_of(MADE_UP) not in caplog.text
