"""Texts read aloud as people ask for it: official clients, odd texts; real processes, the real voice."""

from __future__ import annotations

import base64
import io
import json
import shutil
import subprocess
import wave
from pathlib import Path
from typing import Any

import av
import httpx
import openai
import pytest

from cxp2p.sound import RATE, SAMPLE_BYTES
from cxp2p.units import audio_ms_max
from e2e.conftest import VOICE, Up

pytestmark = pytest.mark.slow

TEXT = "Hello there, my friend. This is said by a node, and heard by its maker's own client!"
SECONDS = (3.5, 9.0)  # that one needs for it
ASKED: dict[str, Any] = {"model": "tts-1", "voice": "alloy", "input": TEXT}
ALOUD_MAX_S = 120


def seconds_of_wav(data: bytes) -> float:
    """Of a stream, whose head does not know its length."""
    with wave.open(io.BytesIO(data)) as reader:
        assert reader.getparams()[:3] == (1, SAMPLE_BYTES, RATE)
        return len(reader.readframes(len(data))) / SAMPLE_BYTES / RATE


def seconds_of(data: bytes) -> float:
    """Of a file of any form, by FFmpeg's libraries."""
    with av.open(io.BytesIO(data), mode="r") as source:
        return float(sum(frame.samples / frame.sample_rate for frame in source.decode(audio=0)))


def seconds_of_pcm(data: bytes) -> float:
    return len(data) / SAMPLE_BYTES / RATE


def test_openai_for_python_works_unchanged(up: Up) -> None:
    """Every form is the same sound, so it is as long."""
    client = up.client(max_retries=0)
    pcm = client.audio.speech.create(**ASKED, response_format="pcm").content
    wav = client.audio.speech.create(**ASKED, response_format="wav").content
    by_default = client.audio.speech.create(**ASKED)

    assert SECONDS[0] < seconds_of_pcm(pcm) < SECONDS[1]
    assert seconds_of_wav(wav) == seconds_of_pcm(pcm)
    assert wav.endswith(pcm)
    assert by_default.response.headers["content-type"] == "audio/mpeg"
    assert by_default.response.headers["x-cx-voice"] == VOICE
    assert seconds_of(by_default.content) == pytest.approx(seconds_of_pcm(pcm), abs=0.1)
    for form in ("flac", "opus", "aac"):
        data = client.audio.speech.create(**ASKED, response_format=form).content
        assert seconds_of(data) == pytest.approx(seconds_of_pcm(pcm), abs=0.1), form


def test_openai_for_python_hears_it_as_it_comes(up: Up) -> None:
    """In many parts, or as events with the units at the end."""
    client = up.client(max_retries=0)
    with client.audio.speech.with_streaming_response.create(**ASKED, response_format="pcm") as answer:
        parts = list(answer.iter_bytes())
    with client.audio.speech.with_streaming_response.create(
        **ASKED, response_format="pcm", stream_format="sse"
    ) as answer:
        events = [json.loads(line.removeprefix("data: ")) for line in answer.iter_lines() if line]
    *deltas, done = events

    assert len(parts) > 3
    assert {each["type"] for each in deltas} == {"speech.audio.delta"}
    assert b"".join(base64.b64decode(each["audio"]) for each in deltas) == b"".join(parts)
    assert done["type"] == "speech.audio.done"
    assert done["usage"]["input_tokens"] == len(TEXT)
    assert done["usage"]["output_tokens"] == pytest.approx(1000 * seconds_of_pcm(b"".join(parts)), abs=5)


def test_speed_and_voice_are_heeded(up: Up) -> None:
    client = up.client(max_retries=0)
    usual, slow, fast = (
        seconds_of_pcm(client.audio.speech.create(**ASKED, response_format="pcm", speed=speed).content)
        for speed in (1, 0.5, 2)
    )
    assert slow > 1.5 * usual > 2 * fast
    with pytest.raises(openai.BadRequestError) as failed:
        client.audio.speech.create(**{**ASKED, "voice": "nobody at all"})
    assert failed.value.param == "voice"


def test_openai_for_node_works_unchanged(up: Up, tmp_path: Path) -> None:
    if not shutil.which("npm"):
        pytest.skip("npm is not installed")
    subprocess.run(
        ["npm", "install", "--silent", "--no-audit", "--no-fund", "openai@6"], cwd=tmp_path, check=True, timeout=300
    )
    script = tmp_path / "speak.mjs"
    script.write_text("""
import OpenAI from "openai";
import { writeFile } from "node:fs/promises";
const client = new OpenAI({ apiKey: process.env.KEY, baseURL: process.env.URL, maxRetries: 0 });
const asked = JSON.parse(process.env.ASKED);
for (const form of ["wav", "pcm", "mp3"]) {
  const answer = await client.audio.speech.create({ ...asked, response_format: form });
  await writeFile(`said.${form}`, Buffer.from(await answer.arrayBuffer()));
}
let parts = 0, bytes = 0;
const streamed = await client.audio.speech.create({ ...asked, response_format: "pcm" });
for await (const part of streamed.body) { parts += 1; bytes += part.length; }
const events = await client.audio.speech.create({ ...asked, response_format: "pcm", stream_format: "sse" });
const told = (await events.text()).split("\\n\\n").filter(Boolean).map((each) => JSON.parse(each.slice(6)));
let fault = {};
try { await client.audio.speech.create({ ...asked, input: "?!" }); }
catch (error) { fault = { name: error.constructor.name, code: error.code, param: error.param }; }
console.log(JSON.stringify({ parts, bytes, voice: streamed.headers.get("x-cx-voice"), last: told.at(-1), fault }));
""")
    settings = {
        "KEY": up.access["api_key"],
        "URL": up.base_url,
        "ASKED": json.dumps(ASKED),
        "PATH": "/usr/local/bin:/usr/bin:/bin",
    }
    node = shutil.which("node")
    assert node is not None
    done = subprocess.run(
        [node, script], env=settings, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=ALOUD_MAX_S
    )
    got = json.loads(done.stdout)
    pcm = (tmp_path / "said.pcm").read_bytes()
    assert SECONDS[0] < seconds_of_pcm(pcm) < SECONDS[1]
    assert (tmp_path / "said.wav").read_bytes().endswith(pcm)
    assert seconds_of((tmp_path / "said.mp3").read_bytes()) == pytest.approx(seconds_of_pcm(pcm), abs=0.1)
    assert got["bytes"] == len(pcm)
    assert got["parts"] > 3
    assert got["voice"] == VOICE
    assert got["last"]["type"] == "speech.audio.done"
    assert got["fault"] == {"name": "BadRequestError", "code": "out_of_range", "param": "input"}


def tts(up: Up, text: str, **fields: Any) -> httpx.Response:
    body = {"text": text, **fields}
    return httpx.post(f"{up.base_url}/tts", json=body, headers=up.headers, timeout=ALOUD_MAX_S)


def test_a_whole_answer_knows_its_length(up: Up) -> None:
    """In its head, in a header, and in what was signed."""
    answer = tts(up, TEXT).raise_for_status()
    generation = answer.headers["x-cx-generation-id"]
    signed = httpx.get(f"{up.base_url}/receipts/{generation}", headers=up.headers).raise_for_status().json()
    receipts = [each["receipt"]["fields"] for each in signed.get("data") or [signed]]
    with wave.open(io.BytesIO(answer.content)) as reader:
        seconds = reader.getnframes() / RATE

    assert answer.headers["content-type"] == "audio/wav"
    assert len(answer.content) == 44 + int(seconds * RATE) * SAMPLE_BYTES
    assert float(answer.headers["x-cx-audio-seconds"]) == pytest.approx(seconds, abs=0.01)
    assert sum(each["out_units"] for each in receipts) == pytest.approx(1000 * seconds, abs=10)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Missing required parameter: text"),
        (" \n\t", "there is nothing in it that can be spoken"),
        ("... !? — *", "there is nothing in it that can be spoken"),
        ("😀 👩‍👩‍👧 🇩🇪", "there is nothing in it that can be spoken"),
        ("<speak><break time='3s'/></speak>", "there is nothing in it that can be spoken"),
        ("x" * 10_001, "10001 characters is not between 1 and 10000"),
        ("你好。こんにちは。", f"the voice {VOICE} can read nothing of it"),
    ],
    ids=["empty", "blank", "signs", "emoji", "tags", "too long", "another script"],
)
def test_what_nobody_can_say_is_refused(up: Up, text: str, said: str) -> None:
    """With 400, in words."""
    answer = tts(up, text)

    assert answer.status_code == 400, answer.text
    assert said in answer.json()["error"]


@pytest.mark.parametrize(
    ("odd", "like"),
    [
        ("Hello 😀 there 🎉.", "Hello there."),
        ("<speak>Hello <break time='9s'/><emphasis>there</emphasis>.</speak>", "Hello there."),
        ("Hello 你好 there.", "Hello there."),
        ("\ufeffHello\u00ad \u200dthere\x00.", "Hello there."),
        ("Ｈｅｌｌｏ 𝐭𝐡𝐞𝐫𝐞.", "Hello there."),  # noqa: RUF001
        ("Hello [[h@l'oU]] there.", None),
        ("Привет, мир! Ça va? Γειά.", None),
    ],
    ids=["emoji", "tags", "another script", "invisible", "other forms", "phonemes", "alphabets"],
)
def test_odd_texts_are_read_as_documented(up: Up, odd: str, like: str | None) -> None:
    """What cannot be read is left out, so that it takes no time; a voice says other texts with other pauses."""
    seconds = seconds_of_wav(tts(up, odd).raise_for_status().content)

    assert 0.4 < seconds < 8
    if like is not None:
        assert seconds == pytest.approx(seconds_of_wav(tts(up, like).raise_for_status().content), abs=0.4)


def test_ten_thousand_letters_without_a_space_are_read(up: Up) -> None:
    """As many jobs; it ends within what may be ordered for them."""
    text = "tomato" * 1_666 + "rice"
    answer = tts(up, text).raise_for_status()

    assert len(text) == 10_000
    assert 200 < seconds_of_wav(answer.content) < audio_ms_max(len(text), 1) / 1000
