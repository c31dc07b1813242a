"""Several choices, streamed calls and forms by official clients in two languages, sync and async, unchanged."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from e2e.conftest import MODEL, Up

pytestmark = pytest.mark.slow

COLOURS: Any = [{"role": "user", "content": "Name a colour and say why you like it."}]
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 30}, "unit": {"enum": ["C", "F"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
SCHEMA: Any = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green", "blue"]}, "level": {"type": "integer", "maximum": 9}},
    "required": ["colour", "level"],
    "additionalProperties": False,
}


def test_four_choices_are_four_different_answers(up: Up) -> None:
    """And the same four again for the same seed, where all are made by one node each time or not."""
    asked: Any = {"model": MODEL, "messages": COLOURS, "n": 4, "max_tokens": 24, "temperature": 1, "seed": 7}
    with up.client(max_retries=0) as client:
        first = client.chat.completions.create(**asked)
    texts = [choice.message.content for choice in first.choices]
    assert [choice.index for choice in first.choices] == [0, 1, 2, 3]
    assert len(set(texts)) == 4
    assert first.usage is not None
    assert first.usage.completion_tokens <= 4 * 24
    assert first.usage.prompt_tokens < 60
    assert first.usage.total_tokens == first.usage.prompt_tokens + first.usage.completion_tokens
    assert first.model_extra is not None
    assert len(first.model_extra["cx"]) == 4
    kept = httpx.get(f"{up.base_url}/receipts/{first.id}", headers=up.headers).raise_for_status().json()
    assert len(kept["data"]) == 4
    assert sum(each["receipt"]["fields"]["out_units"] for each in kept["data"]) == first.usage.completion_tokens
    assert len({each["order"]["fields"]["order_id"] for each in kept["data"]}) == 4
    assert sorted(each["order"]["fields"]["seed"] for each in kept["data"]) == [7, 8, 9, 10]


def test_four_choices_stream_beside_each_other(up: Up) -> None:
    """Every chunk is of one of them; each begins with its role, ends with its reason, and the usage is of all."""
    texts: dict[int, str] = defaultdict(str)
    ends: dict[int, str] = {}
    order: list[int] = []
    usage = None
    with up.client(max_retries=0) as client:
        for chunk in client.chat.completions.create(
            model=MODEL,
            messages=COLOURS,
            n=4,
            max_tokens=40,
            temperature=1,
            stream=True,
            stream_options={"include_usage": True},
        ):
            usage = chunk.usage or usage
            for choice in chunk.choices:
                assert choice.index not in ends
                assert (choice.delta.role == "assistant") is (choice.index not in order)
                order.append(choice.index)
                texts[choice.index] += choice.delta.content or ""
                if choice.finish_reason:
                    ends[choice.index] = choice.finish_reason
    assert set(texts) == set(ends) == {0, 1, 2, 3}
    assert all(texts.values())
    assert order[:4] == [0, 1, 2, 3]
    assert sum(left != right for left, right in pairwise(order)) > 8
    assert usage is not None
    assert usage.completion_tokens <= 160


def test_four_choices_of_a_form_are_all_of_it(up: Up) -> None:
    """Also streamed, put together by the client itself."""
    form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}
    asked: Any = {"model": MODEL, "messages": COLOURS, "n": 4, "temperature": 1, "response_format": form}
    with up.client(max_retries=0) as client:
        plain = client.chat.completions.create(**asked, max_tokens=60)
        with client.chat.completions.stream(**asked, max_tokens=60) as stream:
            streamed = stream.get_final_completion()
    for answer in (plain, streamed):
        assert len(answer.choices) == 4
        for choice in answer.choices:
            assert set(json.loads(choice.message.content or "")) == {"colour", "level"}


async def test_calls_and_choices_by_the_asynchronous_client(up: Up) -> None:
    code = f"""
import asyncio, json, openai
async def main():
    async with openai.AsyncOpenAI(api_key={up.access["api_key"]!r}, base_url={up.base_url!r}) as client:
        asked = dict(model={MODEL!r}, messages={COLOURS!r}, max_tokens=80, temperature=1)
        async with client.chat.completions.stream(**asked, tools=[{TOOL!r}], tool_choice="required", n=2) as stream:
            async for event in stream:
                pass
            final = await stream.get_final_completion()
        calls = [call.function.arguments for choice in final.choices for call in choice.message.tool_calls]
        texts = await asyncio.gather(*(client.chat.completions.create(**asked) for _ in range(4)))
        print(json.dumps([calls, [text.choices[0].message.content for text in texts]]))
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)  # noqa: ASYNC221
    calls, texts = json.loads(done.stdout)
    assert len(calls) >= 2
    assert all(set(json.loads(call)) == {"city", "unit"} for call in calls)
    assert all(texts)


NODE_SCRIPT = """
import OpenAI from "openai";
const client = new OpenAI({ apiKey: process.env.KEY, baseURL: process.env.URL, maxRetries: 0 });
const [messages, tool, schema] = JSON.parse(process.env.GIVEN);
const asked = { model: process.env.MODEL, messages, max_tokens: 100, temperature: 1 };
const runner = client.chat.completions.stream({ ...asked, tools: [tool], tool_choice: "required" });
const streamed = (await runner.finalChatCompletion()).choices[0];
const plain = (await client.chat.completions.create({ ...asked, tools: [tool], tool_choice: "required" })).choices[0];
const several = (await client.chat.completions.create({ ...asked, n: 3, max_tokens: 16 })).choices;
const chunks = {};
for await (const chunk of await client.chat.completions.create({ ...asked, n: 3, max_tokens: 16, stream: true }))
  for (const { index, delta } of chunk.choices) chunks[index] = (chunks[index] ?? "") + (delta.content ?? "");
const parsed = await client.chat.completions.parse({ ...asked,
  response_format: { type: "json_schema", json_schema: { name: "x", schema, strict: true } } });
let fault = {};
try { await client.chat.completions.create({ ...asked, n: 9 }); }
catch (error) { fault = { name: error.constructor.name, param: error.param, code: error.code }; }
console.log(JSON.stringify({
  calls: [streamed, plain].map((each) => each.message.tool_calls.map((call) => call.function.arguments)),
  reasons: [streamed.finish_reason, plain.finish_reason], several: several.map((each) => each.index), chunks,
  answer: parsed.choices[0].message.content, fault }));
"""


def test_calls_and_choices_by_openai_for_node(up: Up, tmp_path: Path) -> None:
    """Its own runner puts the calls together; its own parser reads the form."""
    if not shutil.which("npm"):
        pytest.skip("npm is not installed")
    install = ["npm", "install", "--silent", "--no-audit", "--no-fund", "openai@6"]
    subprocess.run(install, cwd=tmp_path, check=True, timeout=300)
    script = tmp_path / "ask.mjs"
    script.write_text(NODE_SCRIPT)
    settings = {
        "KEY": up.access["api_key"],
        "URL": up.base_url,
        "MODEL": MODEL,
        "GIVEN": json.dumps([COLOURS, TOOL, SCHEMA]),
        "PATH": "/usr/local/bin:/usr/bin:/bin",
    }
    node = shutil.which("node")
    assert node is not None
    done = subprocess.run([node, script], env=settings, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    for calls in got["calls"]:
        assert calls
        assert all(set(json.loads(call)) == {"city", "unit"} for call in calls)
    assert got["reasons"] == ["tool_calls", "tool_calls"]
    assert got["several"] == [0, 1, 2]
    assert set(got["chunks"]) == {"0", "1", "2"}
    assert set(json.loads(got["answer"])) == {"colour", "level"}
    assert got["fault"] == {"name": "BadRequestError", "param": "n", "code": "out_of_range"}
