"""The API's documented calls as they are documented, host and credentials aside: nodes serve models of those names.

Small models stand behind the large ones' names; what is shown is that the calls work, not what a large model says.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import wave
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from benchmarks.network import Front, open_network
from cxp2p.paths import default_data_path
from cxp2p_node.catalog import look_up
from cxp2p_node.models import Store
from demo.site import site
from e2e.conftest import EMBED_MODEL, MODEL, VOICE

pytestmark = pytest.mark.slow

HOST = "https://cxmpute.cloud/api"

CHAT = """curl -sS -X POST https://cxmpute.cloud/api/v1/chat/completions \\
  -H "Authorization: Bearer YOUR_API_KEY" \\
  -H "X-User-Id: YOUR_USER_ID" \\
  -H "Content-Type: application/json" \\
  -d '{
"model": "llama3.1:8b",
"messages": [
{"role": "user", "content": "Write a haiku about AI"}
],
"temperature": 0.8
}'"""
EMBEDDINGS = """curl -sS -X POST https://cxmpute.cloud/api/v1/embeddings \\
  -H "Authorization: Bearer YOUR_API_KEY" \\
  -H "X-User-Id: YOUR_USER_ID" \\
  -H "Content-Type: application/json" \\
  -d '{
"model": "nomic-embed-text",
"input": "This is a sample text for embedding"
}'"""
SPEECH = """curl -sS -X POST https://cxmpute.cloud/api/v1/tts \\
  -H "Authorization: Bearer YOUR_API_KEY" \\
  -H "X-User-Id: YOUR_USER_ID" \\
  -H "Content-Type: application/json" \\
  -d '{
"text": "Welcome to Cxmpute!",
"voice": "af_bella"
}' \\
  --output speech.wav"""
SCRAPE = """curl -sS -X POST https://cxmpute.cloud/api/v1/scrape \\
  -H "Authorization: Bearer YOUR_API_KEY" \\
  -H "X-User-Id: YOUR_USER_ID" \\
  -H "Content-Type: application/json" \\
  -d '{
"urls": ["https://docs.cxmpute.cloud"],
"format": "markdown"
}'"""
PYTHON = """
import openai
client = openai.OpenAI(
    api_key="YOUR_API_KEY",
    base_url="https://cxmpute.cloud/api/v1",
    default_headers={"X-User-Id": "YOUR_USER_ID"}
)
response = client.chat.completions.create(
    model="llama3.1:8b",
    messages=[
        {"role": "user", "content": "Hello!"}
    ]
)
print(response.choices[0].message.content)
"""
JAVASCRIPT = """
import OpenAI from 'openai';
const openai = new OpenAI({
  apiKey: 'YOUR_API_KEY',
  baseURL: 'https://cxmpute.cloud/api/v1',
  defaultHeaders: {
    'X-User-Id': 'YOUR_USER_ID'
  }
});
const completion = await openai.chat.completions.create({
  messages: [{ role: 'user', content: 'Hello!' }],
  model: 'llama3.1:8b',
});
console.log(completion.choices[0].message.content);
"""


def _file(name: str) -> str:
    return json.dumps(str(Store(default_data_path("models")).pull(look_up(name), lambda what, done, total: None)))


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    """A network whose node has all four services, ready for each."""
    chat, embed = [await trio.to_thread.run_sync(_file, name) for name in (MODEL, EMBED_MODEL)]
    models = (
        f'[[models]]\nname = "llama3.1:8b"\npath = {chat}\nslots = 2\n'
        f'[[models]]\nname = "nomic-embed-text"\npath = {embed}\n'
        f'[[models]]\nname = "{VOICE}"\n[[models]]\nname = "web"\nengine = "scrape"\n[scrape]\nallow = ["127.0.0.1"]\n'
    )
    async with open_network(tmp_path, models) as opened:
        yield opened


async def run(front: Front, folder: Path, text: str, *command: str) -> str:
    """What a documented call says, when this network's address and credentials stand in it."""
    key = front.headers["Authorization"].removeprefix("Bearer ")
    text = text.replace(HOST, front.base_url.removesuffix("/v1"))
    text = text.replace("YOUR_API_KEY", key).replace("YOUR_USER_ID", front.headers["X-User-Id"])
    done = await trio.run_process(
        [*command, text], cwd=folder, capture_stdout=True, capture_stderr=True, check=False, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


async def test_the_documented_calls_work(front: Front, tmp_path: Path) -> None:
    """A young gateway waits for its first node, so that no call has to be made twice."""
    with trio.fail_after(240):
        chat = json.loads(await run(front, tmp_path, CHAT, "bash", "-c"))
        assert set(chat) >= {"id", "object", "created", "model", "choices", "usage"}
        assert (chat["object"], chat["model"]) == ("chat.completion", "llama3.1:8b")
        assert chat["choices"][0]["message"]["content"]

        vectors = json.loads(await run(front, tmp_path, EMBEDDINGS, "bash", "-c"))
        assert (vectors["object"], vectors["model"]) == ("list", "nomic-embed-text")
        assert len(vectors["data"][0]["embedding"]) > 100
        assert vectors["usage"]["prompt_tokens"] == vectors["usage"]["total_tokens"] > 0

        await run(front, tmp_path, SPEECH, "bash", "-c")
        with wave.open(str(tmp_path / "speech.wav")) as sound:
            assert (sound.getframerate(), sound.getnchannels(), sound.getsampwidth()) == (22_050, 1, 2)
            assert sound.getnframes() > 10_000

        with site() as address:
            scrape = SCRAPE.replace("https://docs.cxmpute.cloud", address)
            (page,) = json.loads(await run(front, tmp_path, scrape, "bash", "-c"))["results"]
        assert (page["url"], page["success"]) == (address, True)
        assert page["content"].startswith("# ")
        assert set(page["metadata"]) >= {"title", "description"}

        assert (await run(front, tmp_path, PYTHON, sys.executable, "-c")).strip()


async def test_the_documented_javascript_works(front: Front, tmp_path: Path) -> None:
    """With the official package."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    install = ["npm", "install", "--silent", "--no-audit", "--no-fund", "openai@6"]
    await trio.run_process(install, cwd=tmp_path, stdout=subprocess.DEVNULL)
    with trio.fail_after(120):
        said = await run(front, tmp_path, JAVASCRIPT, "node", "--input-type=module", "-e")
    assert said.strip()
