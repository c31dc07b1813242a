"""The Responses API by official clients in two languages, sync and async, unchanged."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from e2e.conftest import MODEL, Up

pytestmark = pytest.mark.slow

COLOUR: Any = {"model": MODEL, "input": "Name a colour and say why you like it."}
TOOL: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather in a city.",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 30}, "unit": {"enum": ["C", "F"]}},
        "required": ["city", "unit"],
        "additionalProperties": False,
    },
}
SCHEMA: Any = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green", "blue"]}, "level": {"type": "integer", "maximum": 9}},
    "required": ["colour", "level"],
    "additionalProperties": False,
}
FORM: Any = {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA, "strict": True}}


def test_openai_for_python(up: Up) -> None:
    """Whole and streamed are the same text at temperature 0; the receipt is found by the response's id."""
    with up.client(max_retries=0) as client:
        plain = client.responses.create(**COLOUR, instructions="Be brief.", temperature=0, max_output_tokens=300)
        with client.responses.stream(
            **COLOUR, instructions="Be brief.", temperature=0, max_output_tokens=300
        ) as stream:
            heard = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
            final = stream.get_final_response()
        raw = list(client.responses.create(**COLOUR, max_output_tokens=4, stream=True))
    assert plain.status == "completed"
    assert plain.output_text == heard == final.output_text
    assert plain.usage is not None
    assert final.usage is not None
    assert final.usage.output_tokens == plain.usage.output_tokens
    assert plain.usage.total_tokens == plain.usage.input_tokens + plain.usage.output_tokens
    assert raw[-1].type == "response.incomplete"
    assert raw[-1].response.incomplete_details is not None
    assert raw[-1].response.incomplete_details.reason == "max_output_tokens"
    assert [event.sequence_number for event in raw] == list(range(len(raw)))
    kept = httpx.get(f"{up.base_url}/receipts/{plain.id}", headers=up.headers).raise_for_status().json()
    assert kept["receipt"]["fields"]["out_units"] == plain.usage.output_tokens


def test_a_call_is_made_and_answered(up: Up) -> None:
    """The items of one answer go back as they came, with the call's output, as OpenAI's guide has it."""
    with up.client(max_retries=0) as client:
        asked: Any = {"model": MODEL, "tools": [TOOL], "max_output_tokens": 100}
        turns: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
        with client.responses.stream(**asked, input=turns, tool_choice="required") as stream:
            first = stream.get_final_response()
        calls = [item for item in first.output if item.type == "function_call"]
        assert calls
        assert all(set(json.loads(call.arguments)) == {"city", "unit"} for call in calls)
        turns += [item.model_dump(exclude={"parsed_arguments"}) for item in first.output]
        turns += [{"type": "function_call_output", "call_id": call.call_id, "output": "rain"} for call in calls]
        second = client.responses.create(**asked, input=turns, tool_choice="none")
    assert second.output_text


def test_a_form_is_kept(up: Up) -> None:
    with up.client(max_retries=0) as client:
        plain = client.responses.create(**COLOUR, text=FORM, max_output_tokens=60)
        with client.responses.stream(**COLOUR, text=FORM, max_output_tokens=60) as stream:
            streamed = stream.get_final_response()
    for answer in (plain, streamed):
        assert set(json.loads(answer.output_text)) == {"colour", "level"}


def test_nothing_is_stored_and_it_is_said(up: Up) -> None:
    with up.client(max_retries=0) as client:
        assert (client.responses.create(**COLOUR, store=True, max_output_tokens=4).model_extra or {})["store"] is False
        with pytest.raises(openai.BadRequestError) as failed:
            client.responses.create(**COLOUR, previous_response_id="resp_1")
    assert failed.value.param == "previous_response_id"
    assert "keeps no responses" in failed.value.message


async def test_the_asynchronous_client(up: Up) -> None:
    """Its stream is put together, and four answers come at once."""
    code = f"""
import asyncio, json, openai
async def main():
    async with openai.AsyncOpenAI(api_key={up.access["api_key"]!r}, base_url={up.base_url!r}) as client:
        async with client.responses.stream(**{COLOUR!r}, text={FORM!r}, max_output_tokens=60) as stream:
            async for event in stream:
                pass
            final = await stream.get_final_response()
        texts = await asyncio.gather(*(client.responses.create(**{COLOUR!r}, max_output_tokens=20) for _ in range(4)))
        print(json.dumps([final.output_text, [text.output_text for text in texts]]))
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)  # noqa: ASYNC221
    assert done.returncode == 0, done.stderr
    formed, texts = json.loads(done.stdout)
    assert set(json.loads(formed)) == {"colour", "level"}
    assert all(texts)


NODE_SCRIPT = """
import OpenAI from "openai";
const client = new OpenAI({ apiKey: process.env.KEY, baseURL: process.env.URL, maxRetries: 0 });
const [asked, tool, form] = JSON.parse(process.env.GIVEN);
const plain = await client.responses.create({ ...asked, temperature: 0, max_output_tokens: 300 });
const runner = client.responses.stream({ ...asked, temperature: 0, max_output_tokens: 300 });
let heard = "";
runner.on("response.output_text.delta", (event) => { heard += event.delta; });
const final = await runner.finalResponse();
const called = await client.responses.stream({ ...asked, tools: [tool], tool_choice: "required",
  max_output_tokens: 100 }).finalResponse();
const parsed = await client.responses.parse({ ...asked, text: form, max_output_tokens: 60 });
const kinds = [];
for await (const event of await client.responses.create({ ...asked, max_output_tokens: 4, stream: true }))
  kinds.push(event.type);
let fault = {};
try { await client.responses.create({ ...asked, previous_response_id: "resp_1" }); }
catch (error) { fault = { name: error.constructor.name, param: error.param, code: error.code }; }
console.log(JSON.stringify({ plain: plain.output_text, heard, final: final.output_text, kinds, fault,
  calls: called.output.map((item) => item.arguments), parsed: parsed.output_parsed }));
"""


def test_openai_for_node(up: Up, tmp_path: Path) -> None:
    """Its own runner puts the events together; its own parser reads the form."""
    if not shutil.which("npm"):
        pytest.skip("npm is not installed")
    install = ["npm", "install", "--silent", "--no-audit", "--no-fund", "openai@6"]
    subprocess.run(install, cwd=tmp_path, check=True, timeout=300)
    script = tmp_path / "ask.mjs"
    script.write_text(NODE_SCRIPT)
    settings = {
        "KEY": up.access["api_key"],
        "URL": up.base_url,
        "GIVEN": json.dumps([COLOUR, TOOL, FORM]),
        "PATH": "/usr/local/bin:/usr/bin:/bin",
    }
    node = shutil.which("node")
    assert node is not None
    done = subprocess.run([node, script], env=settings, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    assert got["plain"]
    assert got["plain"] == got["heard"] == got["final"]
    assert got["calls"]
    assert all(set(json.loads(call)) == {"city", "unit"} for call in got["calls"])
    assert set(got["parsed"]) == {"colour", "level"}
    assert got["kinds"][0] == "response.created"
    assert got["kinds"][-1] == "response.incomplete"
    assert got["fault"] == {
        "name": "BadRequestError",
        "param": "previous_response_id",
        "code": "unsupported_parameter",
    }
