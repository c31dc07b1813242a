"""What people do with a network: official clients, curl and our own command, on real processes and the real model."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from e2e.conftest import EMBED_MODEL, MODEL, Up

pytestmark = pytest.mark.slow

GRAVITY = [{"role": "user", "content": "What is gravity? Answer in one sentence."}]


def facts_of(answer: Any) -> dict[str, Any]:
    """The `cx` object of an answer or chunk."""
    facts: dict[str, Any] = answer.model_extra["cx"]
    return facts


def test_openai_for_python_works_unchanged(up: Up) -> None:
    client = up.client()
    asked: dict[str, Any] = {"model": MODEL, "messages": GRAVITY, "temperature": 0, "max_tokens": 40}
    plain = client.chat.completions.create(**asked)
    choice = plain.choices[0]
    assert choice.message.content
    assert "ravity" in choice.message.content
    assert plain.usage is not None
    assert plain.usage.completion_tokens <= 40
    streamed = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in streamed if chunk.choices)
    assert text == choice.message.content  # temperature 0, on either node
    assert streamed[-1].usage is not None
    assert streamed[-1].usage.completion_tokens == plain.usage.completion_tokens
    assert {chunk.id for chunk in streamed} == {streamed[0].id}
    assert MODEL in [model.id for model in client.models.list()]
    assert client.models.retrieve(MODEL).id == MODEL


async def test_openai_for_python_asynchronously(up: Up) -> None:
    # The official async client runs on asyncio; pytest-trio runs this file's tests, so it gets a process of its own.
    code = f"""
import asyncio, openai
async def main():
    async with openai.AsyncOpenAI(api_key={up.access["api_key"]!r}, base_url={up.base_url!r}) as client:
        stream = await client.chat.completions.create(
            model={MODEL!r}, messages={GRAVITY!r}, stream=True, max_tokens=20)
        async for chunk in stream:
            print(chunk.choices[0].delta.content or "", end="")
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)  # noqa: ASYNC221
    assert len(done.stdout) > 10


@pytest.mark.parametrize(
    ("change", "raised", "said"),
    [
        ({"api_key": "sk-cx-wrong"}, openai.AuthenticationError, "Invalid API key"),
        ({"model": "no-such-model"}, openai.InternalServerError, "No provisions available for the requested model"),
        ({"temperature": 3}, openai.BadRequestError, "Invalid value for 'temperature': 3 is not between 0 and 2"),
        ({"messages": []}, openai.BadRequestError, "Missing required parameter: model or messages"),
    ],
)
def test_errors_arrive_as_the_packages_own_classes(
    up: Up, change: dict[str, Any], raised: type[openai.APIStatusError], said: str
) -> None:
    asked: dict[str, Any] = {"model": MODEL, "messages": GRAVITY, **change}
    client = up.client(max_retries=0)
    if "api_key" in asked:
        client = client.with_options(api_key=asked.pop("api_key"))
    with pytest.raises(raised) as failed:
        client.chat.completions.create(**asked)
    assert said in failed.value.message
    assert failed.value.request_id is not None


def test_eight_streams_at_once_on_two_nodes_all_finish(up: Up) -> None:
    def ask(number: int) -> tuple[str, str, int]:
        with up.client(max_retries=0) as client:
            stream = client.chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": f"Tell me {number} facts about the sea."}],
                stream=True,
                stream_options={"include_usage": True},
                max_tokens=64,
            )
            chunks = list(stream)
        finish = next(
            chunk.choices[0].finish_reason for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason
        )
        usage = chunks[-1].usage
        assert usage is not None
        node = next(extra["cx"]["node"] for chunk in chunks if "cx" in (extra := chunk.model_extra or {}))
        return finish, node, usage.completion_tokens

    with ThreadPoolExecutor(8) as threads:
        ends = list(threads.map(ask, range(1, 9)))
    assert {finish for finish, _, _ in ends} <= {"stop", "length"}
    assert len({node for _, node, _ in ends}) == 2
    assert all(tokens > 0 for _, _, tokens in ends)


def test_the_curl_line_works_when_pasted(up: Up) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello!"}], "stream": True, "max_tokens": 16}
    headers = [word for name, value in up.headers.items() for word in ("-H", f"{name}: {value}")]
    command = ["curl", "-sN", f"{up.base_url}/chat/completions", *headers, "-H", "Content-Type: application/json"]
    done = subprocess.run([*command, "-d", json.dumps(body)], capture_output=True, text=True, check=True, timeout=60)
    lines = [line for line in done.stdout.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    assert all(line.startswith("data: {") for line in lines[:-1])


def test_openai_for_node_works_unchanged(up: Up, tmp_path: Path) -> None:
    if not shutil.which("npm"):
        pytest.skip("npm is not installed")
    subprocess.run(
        ["npm", "install", "--silent", "--no-audit", "--no-fund", "openai@6"], cwd=tmp_path, check=True, timeout=300
    )
    script = tmp_path / "ask.mjs"
    script.write_text("""
import OpenAI from "openai";
const client = new OpenAI({ apiKey: process.env.KEY, baseURL: process.env.URL });
const asked = { model: process.env.MODEL, messages: [{ role: "user", content: "Name a colour." }], max_tokens: 16 };
const plain = await client.chat.completions.create(asked);
let text = "", last;
for await (const chunk of await client.chat.completions.create({
  ...asked, stream: true, stream_options: { include_usage: true } })) {
  text += chunk.choices[0]?.delta?.content ?? "";
  last = chunk;
}
let fault = {};
try { await client.withOptions({ apiKey: "wrong", maxRetries: 0 }).chat.completions.create(asked); }
catch (error) { fault = { name: error.constructor.name, message: error.message, code: error.code }; }
const models = (await client.models.list()).data.map((model) => model.id);
console.log(JSON.stringify({ plain: plain.choices[0].message.content, text, usage: last.usage, fault, models }));
""")
    settings = {"KEY": up.access["api_key"], "URL": up.base_url, "MODEL": MODEL, "PATH": "/usr/local/bin:/usr/bin:/bin"}
    node = shutil.which("node")
    assert node is not None
    done = subprocess.run([node, script], env=settings, capture_output=True, text=True, check=True, timeout=60)
    got = json.loads(done.stdout)
    assert got["plain"]
    assert got["text"]
    assert got["usage"]["total_tokens"] == got["usage"]["prompt_tokens"] + got["usage"]["completion_tokens"]
    assert got["fault"] == {
        "name": "AuthenticationError",
        "message": "401 Invalid API key",
        "code": "invalid_api_key",
    }
    assert {EMBED_MODEL, MODEL} <= set(got["models"])  # and what is for other services


def test_our_own_command_asks_without_a_gateway(up: Up) -> None:
    command = [sys.executable, "-m", "cxp2p"]
    reach = ["-b", up.access["bootstrap"], "--json"]
    asked = ["chat", MODEL, "Name a colour.", "--max-tokens", "12", "--temperature", "0"]
    done = subprocess.run([*command, *asked, *reach], capture_output=True, text=True, check=True, timeout=60)
    answer = json.loads(done.stdout)
    assert answer["text"]
    assert answer["verdict"] == "accepted"
    assert answer["node"] in [node["peer"] for node in up.access["nodes"]]
    listed = subprocess.run([*command, "offers", *reach], capture_output=True, text=True, check=True, timeout=60)
    rows = [json.loads(line) for line in listed.stdout.splitlines()]
    assert {row["peer"] for row in rows} == {node["peer"] for node in up.access["nodes"]}
    assert {row["model"] for row in rows} >= {EMBED_MODEL, MODEL}


def test_a_receipt_is_kept_for_its_own_account_only(up: Up) -> None:
    asked = {"model": MODEL, "messages": GRAVITY, "max_tokens": 8}
    answer = httpx.post(f"{up.base_url}/chat/completions", json=asked, headers=up.headers, timeout=60)
    path = f"{up.base_url}/receipts/{answer.headers['x-cx-generation-id']}"
    kept = httpx.get(path, headers=up.headers).raise_for_status().json()
    assert set(kept) >= {"order", "receipt", "countersign"}
    assert httpx.get(path).status_code == 401


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_health_is_told_without_a_key(up: Up, path: str) -> None:
    root = re.sub(r"/api/v1$", "", up.base_url)
    assert httpx.get(root + path).status_code == 200
