"""Embeddings as people ask for them: official clients, curl, the library; real processes, the real model."""

from __future__ import annotations

import base64
import json
import math
import shutil
import struct
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest

from e2e.conftest import EMBED_MODEL, MODEL, Up, start

pytestmark = pytest.mark.slow

EATING = ["A man is eating food.", "A man is eating a piece of bread."]
COSINE = 0.755  # of these two, by the model's makers' own implementation
MANY = [f"Sentence {number} tells of town {number * 7} and of those who live there." for number in range(600)]


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True)) / (math.hypot(*one) * math.hypot(*other))


def test_openai_for_python_works_unchanged(up: Up) -> None:
    client = up.client()
    by_default = client.embeddings.create(model=EMBED_MODEL, input=EATING)
    as_floats = client.embeddings.create(model=EMBED_MODEL, input=EATING, encoding_format="float")
    one, other = [each.embedding for each in by_default.data]

    assert cosine(one, other) == pytest.approx(COSINE, abs=0.002)
    assert [len(one), len(other)] == [384, 384]
    assert [math.hypot(*one), math.hypot(*other)] == pytest.approx([1, 1], abs=1e-5)
    for each, same in zip(by_default.data, as_floats.data, strict=True):
        assert cosine(each.embedding, same.embedding) == pytest.approx(1, abs=1e-5)
        assert each.index == same.index
    assert by_default.model == EMBED_MODEL
    assert by_default.usage.prompt_tokens == by_default.usage.total_tokens == 19
    alone = client.embeddings.create(model=EMBED_MODEL, input=EATING[0])
    assert cosine(alone.data[0].embedding, one) > 0.9999


async def test_openai_for_python_asynchronously(up: Up) -> None:
    # The official async client runs on asyncio; pytest-trio runs this file's tests, so it gets a process of its own.
    code = f"""
import asyncio, json, openai
async def main():
    async with openai.AsyncOpenAI(api_key={up.access["api_key"]!r}, base_url={up.base_url!r}) as client:
        asked = [client.embeddings.create(model={EMBED_MODEL!r}, input=text) for text in {EATING!r}]
        print(json.dumps([answer.data[0].embedding for answer in await asyncio.gather(*asked)]))
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)  # noqa: ASYNC221
    one, other = json.loads(done.stdout)
    assert cosine(one, other) == pytest.approx(COSINE, abs=0.002)


def test_the_guides_curl_line(up: Up) -> None:
    body = {"model": EMBED_MODEL, "input": "This is a sample text for embedding"}
    headers = [word for name, value in up.headers.items() for word in ("-H", f"{name}: {value}")]
    command = ["curl", "-s", f"{up.base_url}/embeddings", *headers, "-H", "Content-Type: application/json"]
    done = subprocess.run([*command, "-d", json.dumps(body)], capture_output=True, text=True, check=True, timeout=60)
    answer = json.loads(done.stdout)
    (vector,) = [each.pop("embedding") for each in answer["data"]]

    assert answer == {
        "object": "list",
        "data": [{"object": "embedding", "index": 0}],
        "model": EMBED_MODEL,
        "usage": {"prompt_tokens": 11, "total_tokens": 11},  # with its beginning and end
    }
    assert math.hypot(*vector) == pytest.approx(1, abs=1e-5)


def test_openai_for_node_works_unchanged(up: Up, tmp_path: Path) -> None:
    """It decodes base64 without a look: numbers instead would be garbage to it."""
    if not shutil.which("npm"):
        pytest.skip("npm is not installed")
    subprocess.run(
        ["npm", "install", "--silent", "--no-audit", "--no-fund", "openai@6"], cwd=tmp_path, check=True, timeout=300
    )
    script = tmp_path / "embed.mjs"
    script.write_text("""
import OpenAI from "openai";
const client = new OpenAI({ apiKey: process.env.KEY, baseURL: process.env.URL });
const asked = { model: process.env.MODEL, input: JSON.parse(process.env.TEXTS) };
const vectors = async (more) =>
  (await client.embeddings.create({ ...asked, ...more })).data.map((each) => each.embedding);
let fault = {};
try { await client.embeddings.create({ ...asked, input: ["a", ""] }); }
catch (error) { fault = { name: error.constructor.name, code: error.code, param: error.param }; }
console.log(JSON.stringify({ base64: await vectors({}), float: await vectors({ encoding_format: "float" }), fault }));
""")
    settings = {
        "KEY": up.access["api_key"],
        "URL": up.base_url,
        "MODEL": EMBED_MODEL,
        "TEXTS": json.dumps(EATING),
        "PATH": "/usr/local/bin:/usr/bin:/bin",
    }
    node = shutil.which("node")
    assert node is not None
    done = subprocess.run([node, script], env=settings, capture_output=True, text=True, check=True, timeout=60)
    got = json.loads(done.stdout)
    for vectors in (got["base64"], got["float"]):
        assert [len(vector) for vector in vectors] == [384, 384]
        assert cosine(*vectors) == pytest.approx(COSINE, abs=0.002)
    assert got["fault"] == {"name": "BadRequestError", "code": "out_of_range", "param": "input[1]"}


def test_many_texts_go_to_both_nodes_and_come_back_in_order(up: Up) -> None:
    with up.client(max_retries=0) as client:
        raw = client.embeddings.with_raw_response.create(model=EMBED_MODEL, input=MANY)
        answer = raw.parse()
        some = [0, 1, 150, 299, 300, 598, 599]
        alone = client.embeddings.create(model=EMBED_MODEL, input=[MANY[index] for index in some])
    cx: Any = (answer.model_extra or {})["cx"]

    assert [each.index for each in answer.data] == list(range(len(MANY)))
    for index, same in zip(some, alone.data, strict=True):
        assert cosine(answer.data[index].embedding, same.embedding) > 0.9999
    assert len({each["node"] for each in cx}) == 2
    kept = httpx.get(f"{up.base_url}/receipts/{raw.headers['x-cx-generation-id']}", headers=up.headers).json()["data"]
    assert len(kept) == len(cx) > 2
    assert sum(each["receipt"]["fields"]["in_units"] for each in kept) == answer.usage.prompt_tokens
    assert sum(each["receipt"]["fields"]["out_units"] for each in kept) == len(MANY)
    assert len({each["receipt"]["fields"]["model_digest"] for each in kept}) == 1


@pytest.mark.parametrize(
    ("change", "raised", "said"),
    [
        ({"input": []}, openai.BadRequestError, "Missing required parameter: model or input"),
        ({"input": [[1, 2]]}, openai.BadRequestError, "check_embedding_ctx_length=False"),
        ({"dimensions": 64}, openai.BadRequestError, "Unsupported parameter 'dimensions'"),
        ({"model": MODEL}, openai.InternalServerError, "No provisions available for the requested model"),
        (
            {"input": "word " * 600, "extra_body": {"truncate": False}},
            openai.BadRequestError,
            "This model's maximum context length is",
        ),
    ],
)
def test_errors_arrive_as_the_packages_own_classes(
    up: Up, change: dict[str, Any], raised: type[openai.APIStatusError], said: str
) -> None:
    with up.client(max_retries=0) as client, pytest.raises(raised) as failed:
        client.embeddings.create(**{"model": EMBED_MODEL, "input": "x", **change})
    assert said in failed.value.message


def test_a_text_that_is_too_long_is_cut_unless_that_is_not_wanted(up: Up) -> None:
    with up.client() as client:
        long = client.embeddings.create(model=EMBED_MODEL, input="word " * 600)
        longer = client.embeddings.create(model=EMBED_MODEL, input="word " * 700)
    assert long.usage.prompt_tokens == longer.usage.prompt_tokens <= 512
    assert cosine(long.data[0].embedding, longer.data[0].embedding) > 0.9999


def test_the_largest_body_is_answered(up: Up) -> None:
    """16 MiB of one text are a long text, cut like any other; one byte more is refused."""
    room = 16 * 1024 * 1024 - len(json.dumps({"model": EMBED_MODEL, "input": ""}))
    for more, status in ((0, 200), (1, 413)):
        sent = json.dumps({"model": EMBED_MODEL, "input": ("word " * (room // 5 + 1))[: room + more]})
        headers = {**up.headers, "Content-Type": "application/json"}
        answer = httpx.post(f"{up.base_url}/embeddings", content=sent, headers=headers, timeout=120)
        assert answer.status_code == status


def test_an_embedding_model_is_listed_as_one(up: Up) -> None:
    listed = httpx.get(f"{up.base_url}/models/{EMBED_MODEL}", headers=up.headers).json()
    assert listed["architecture"] == {"input_modalities": ["text"], "output_modalities": ["embeddings"]}
    assert listed["supported_parameters"] == ["encoding_format", "truncate"]
    assert listed["providers"]["count"] == 2


def test_the_command_prints_a_vector_a_line(up: Up) -> None:
    """Of its arguments, or of the lines of its standard input."""
    command = [sys.executable, "-m", "cxp2p", "embed", EMBED_MODEL, "-b", up.access["bootstrap"]]
    for texts, piped in ((EATING, None), (["-"], "\n".join(EATING))):
        done = subprocess.run([*command, *texts], capture_output=True, text=True, check=True, timeout=60, input=piped)
        one, other = [json.loads(line) for line in done.stdout.splitlines()]
        assert cosine(one, other) == pytest.approx(COSINE, abs=0.002)
    empty = subprocess.run([*command, "-"], capture_output=True, text=True, timeout=60, input="")
    assert empty.returncode == 2
    assert "standard input is empty" in empty.stderr


def test_a_node_killed_in_the_middle_is_not_seen(tmp_path: Path) -> None:
    """Half of the work was on it: the answer is whole and in order all the same."""
    with start(tmp_path) as own:
        answers: list[httpx.Response] = []

        def ask() -> None:
            body = {"model": EMBED_MODEL, "input": MANY * 3, "encoding_format": "base64"}
            answers.append(httpx.post(f"{own.base_url}/embeddings", json=body, headers=own.headers, timeout=300))

        asking = threading.Thread(target=ask)
        asking.start()
        threading.Event().wait(3.0)
        assert asking.is_alive()
        psutil.Process(own.access["nodes"][0]["pid"]).kill()
        asking.join()
        (answer,) = answers
        assert answer.status_code == 200, answer.text
        data = answer.json()["data"]
        assert [each["index"] for each in data] == list(range(3 * len(MANY)))
        for index in (0, 1, 299, 599):
            same = [struct.unpack("<384f", base64.b64decode(data[index + n * 600]["embedding"])) for n in range(3)]
            assert cosine(same[0], same[1]) > 0.9999
            assert cosine(same[0], same[2]) > 0.9999
