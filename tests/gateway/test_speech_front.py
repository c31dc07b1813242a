"""POST /tts and /audio/speech, GET /audio/voices, over a door in memory."""

from __future__ import annotations

import base64
import io
import wave
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from cxp2p.client import Hear, Spoken
from cxp2p.errors import AnswerRefused, CxError, InsufficientCredit, JobFailed, JobRefused, NoNode, PeerUnreachable
from cxp2p.records import FailureCode, RefusalCode, Service
from cxp2p_gateway import audio, reading, voices
from cxp2p_gateway.asking import Caller
from cxp2p_gateway.audio import AudioForm
from doors import Answer, MemoryDoor, ask, card, front, outcome_of
from speakers import sound_of, text_of
from test_faults import NO_PROVISIONS

JOE = "en_US-joe-medium"
AMY = "en_US-amy-low"
ALAN = "en_GB-alan-medium"
TTS = "/api/v1/tts"
SPEECH = "/v1/audio/speech"
GUIDE = {"text": "Hello, this is a test of text to speech.", "voice": "af_bella"}


@dataclass
class SpeakingDoor(MemoryDoor):
    """A door behind which a text is said a word at a time, `pause_s` apart; `error` comes after `words_max` words."""

    offered: tuple[str, ...] = (JOE,)
    pause_s: float = 0.1
    words_max: int = 10**6
    error: CxError | None = None
    said: list[tuple[str, str, float]] = field(default_factory=list)
    cancelled: int = 0

    def __post_init__(self) -> None:
        self.cards = (card(), *(card(voice, service=Service.SPEECH) for voice in self.offered))
        self.known |= set(self.offered)

    async def speak(
        self, caller: Caller, generation: str, voice: str, text: str, hear: Hear, *, speed: float, deadline_s: float
    ) -> Spoken:
        self.said.append((voice, text, speed))
        try:
            for number, word in enumerate(text.split()):
                await trio.sleep(self.pause_s)
                if number == self.words_max and self.error is not None:
                    raise self.error
                await hear(sound_of(word))
        except trio.Cancelled:
            self.cancelled += 1
            raise
        self.kept[generation] = [(caller.account, outcome_of().settlement)]
        return Spoken(audio_ms=20 * len("".join(text.split())), outcomes=(outcome_of(),))


async def post(door: SpeakingDoor, path: str = TTS, **options: Any) -> Answer:
    return await ask(front(door), "POST", path, **options)


def said_in(answer: Answer) -> str:
    """The letters in a WAV answer, by any reader of WAV files."""
    with wave.open(io.BytesIO(answer.body)) as reader:
        assert reader.getparams()[:3] == (1, 2, 22_050)
        return text_of(reader.readframes(10**9))


async def test_the_guides_call_answers_a_wav_file(autojump_clock: MockClock) -> None:
    """Its sizes are right, and the headers say who spoke, how long, and under which id the receipt is."""
    door = SpeakingDoor()
    answer = await post(door, body=GUIDE)

    assert answer.status == 200
    assert answer.headers["content-type"] == "audio/wav"
    assert int(answer.headers["content-length"]) == len(answer.body)
    assert said_in(answer) == "".join(GUIDE["text"].split())
    assert answer.headers["x-cx-voice"] == JOE
    assert float(answer.headers["x-cx-audio-seconds"]) == 0.02 * len("".join(GUIDE["text"].split()))
    receipt = await ask(front(door), "GET", f"/api/v1/receipts/{answer.headers['x-cx-generation-id']}")
    assert receipt.status == 200


async def test_the_voice_has_a_default(autojump_clock: MockClock) -> None:
    """`af_bella`, spoken by whoever is nearest."""
    door = SpeakingDoor(offered=(AMY, JOE))

    assert (await post(door, body={"text": "Hi"})).headers["x-cx-voice"] == AMY
    assert voices.DEFAULT == "af_bella"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({}, "Missing required parameter: text"),
        ({"text": ""}, "Missing required parameter: text"),
        ({"text": None}, "Missing required parameter: text"),
        ({"text": 5}, "Invalid value for 'text': expected a string, got a number"),
        ({"text": "x" * 10_001}, "Invalid value for 'text': 10001 characters is not between 1 and 10000"),
        ({"text": "... !?"}, "Invalid value for 'text': there is nothing in it that can be spoken"),
        ({"text": "<speak><break/></speak> 😀"}, "Invalid value for 'text': there is nothing in it that can be spoken"),
        ({"text": "\ud800"}, "Invalid value for 'text': it is not valid Unicode text"),
        ({"text": "x", "speed": 5}, "Invalid value for 'speed': 5 is not between 0.25 and 4"),
        (
            {"text": "x", "format": "midi"},
            "Invalid value for 'format': it is not one of wav, pcm, mp3, opus, flac, aac",
        ),
        ({"text": "x", "voice": 1}, "Invalid value for 'voice': expected a string, got a number"),
        ({"text": "x", "voice": "af_bela"}, "Unknown voice 'af_bela'; there are af_bella"),
    ],
)
async def test_what_is_wrong_is_named(autojump_clock: MockClock, body: dict[str, Any], text: str) -> None:
    """With 400, before any node is asked."""
    door = SpeakingDoor()
    answer = await post(door, body=body)

    assert answer.status == 400
    assert answer.json()["error"].startswith(text)
    assert not door.said


async def test_ten_thousand_letters_are_read(autojump_clock: MockClock) -> None:
    """The guide's limit is one that can be reached."""
    assert (await post(SpeakingDoor(), body={"text": "x" * 10_000})).status == 200


@pytest.mark.parametrize("form", [each.value for each in AudioForm])
async def test_openais_call_streams_every_form(autojump_clock: MockClock, form: str) -> None:
    """The first sound is sent before the last word is said."""
    body = {"model": "tts-1", "input": "One two three four.", "voice": "alloy", "response_format": form}
    answer = await post(SpeakingDoor(pause_s=1.0), SPEECH, body=body)

    assert answer.status == 200
    assert answer.complete
    assert answer.headers["content-type"] == audio.MIME[AudioForm(form)]
    assert "content-length" not in answer.headers
    assert len(answer.body) > 44
    if form in ("wav", "pcm"):
        assert answer.parts[0][0] < answer.parts[-1][0]
        assert text_of(answer.body[44 if form == "wav" else 0 :]) == "Onetwothreefour."
    if form == "pcm":
        assert answer.headers["x-cx-sample-rate"] == "22050"


async def test_openais_call_streams_events(autojump_clock: MockClock) -> None:
    """Sound in base64, and at the end the usage: characters and milliseconds."""
    body = {"model": "tts-1", "input": "One two.", "voice": "echo", "response_format": "pcm", "stream_format": "sse"}
    answer = await post(SpeakingDoor(), SPEECH, body=body)
    *parts, last = answer.events()

    assert answer.headers["content-type"].startswith("text/event-stream")
    assert {each["type"] for each in parts} == {"speech.audio.delta"}
    assert text_of(b"".join(base64.b64decode(each["audio"]) for each in parts)) == "Onetwo."
    assert last == {
        "type": "speech.audio.done",
        "usage": {"input_tokens": 8, "output_tokens": 140, "total_tokens": 148},
    }


async def test_openais_default_is_mp3_where_it_can_be_made(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the extra is missing, who names no other form is told what there is: WAV is not what they would read."""
    body = {"model": "tts-1", "input": "One.", "voice": "alloy"}
    assert (await post(SpeakingDoor(), SPEECH, body=body)).headers["content-type"] == "audio/mpeg"

    monkeypatch.setattr("cxp2p_gateway.openai.speech.forms", lambda: (AudioForm.WAV, AudioForm.PCM))
    for asked in (body, {**body, "response_format": "mp3"}):
        refused = await post(SpeakingDoor(), SPEECH, body=asked)
        assert (refused.status, refused.json()["error"]["param"]) == (400, "response_format")
        assert "wav, pcm" in refused.json()["error"]["message"]
    wav = await post(SpeakingDoor(), SPEECH, body={**body, "response_format": "wav"})
    assert wav.headers["content-type"] == "audio/wav"


@pytest.mark.parametrize("missing", ["model", "input", "voice"])
async def test_openais_call_needs_three_fields(autojump_clock: MockClock, missing: str) -> None:
    """The error names the one that is not there."""
    body = {"model": "tts-1", "input": "One.", "voice": "alloy"}
    del body[missing]
    answer = await post(SpeakingDoor(), SPEECH, body=body)

    assert (answer.status, answer.json()["error"]["param"]) == (400, missing)


async def test_a_voice_can_be_an_object_or_the_model(autojump_clock: MockClock) -> None:
    """As OpenAI's newer SDKs send it; and a model that is a voice on offer speaks, if the voice is an alias."""
    door = SpeakingDoor(offered=(ALAN, AMY, JOE))
    await post(door, SPEECH, body={"model": "tts-1", "input": "One.", "voice": {"id": "onyx"}, "instructions": "Shout"})
    await post(door, SPEECH, body={"model": ALAN, "input": "One.", "voice": "alloy"})
    await post(door, SPEECH, body={"model": ALAN, "input": "One.", "voice": AMY.upper()})

    assert [voice for voice, *_ in door.said] == [JOE, ALAN, ALAN]


async def test_the_voices_are_listed(autojump_clock: MockClock) -> None:
    """Each with its language and the aliases that it speaks for."""
    answer = await ask(front(SpeakingDoor(offered=(ALAN, AMY, JOE))), "GET", "/v1/audio/voices")
    listed = {each["id"]: each for each in answer.json()["data"]}

    assert answer.json()["object"] == "list"
    assert (listed[ALAN]["language"], listed[ALAN]["gender"], listed[AMY]["gender"]) == ("en-GB", "male", "female")
    assert {"bm_george", "bm_lewis", "fable"} <= set(listed[ALAN]["aliases"])
    assert {"af_bella", "alloy"} <= set(listed[AMY]["aliases"])
    assert {"am_adam", "onyx"} <= set(listed[JOE]["aliases"])
    assert sum(len(each["aliases"]) for each in listed.values()) == len(voices.ALIASES)


@pytest.mark.parametrize("voice", ["af_bella", "en_US-ryan-high"])
async def test_without_a_voice_on_offer_there_are_no_provisions(autojump_clock: MockClock, voice: str) -> None:
    """The documented text, for an alias and for a voice that nobody serves now."""
    door = SpeakingDoor(offered=() if voice == "af_bella" else (JOE,))
    answer = await post(door, body={"text": "Hi", "voice": voice})

    assert (answer.status, answer.json()) == (503, {"error": NO_PROVISIONS})


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NoNode("none"), 503),
        (InsufficientCredit("none"), 429),
        (JobRefused(RefusalCode.BUSY, "full"), 503),
        (JobFailed(FailureCode.ENGINE_DIED, "died"), 503),
        (AnswerRefused("not what it claims"), 503),
        (PeerUnreachable("gone"), 503),
    ],
)
async def test_a_failure_before_the_first_sound_is_a_status(
    autojump_clock: MockClock, error: CxError, status: int
) -> None:
    """Also for a whole answer after some of it came: nothing was sent yet."""
    body = {"model": "tts-1", "input": "One two.", "voice": "alloy", "response_format": "pcm"}

    assert (await post(SpeakingDoor(words_max=0, error=error), SPEECH, body=body)).status == status
    assert (await post(SpeakingDoor(words_max=3, error=error), body=GUIDE)).status == status


async def test_a_text_that_a_voice_cannot_read_is_told_so(autojump_clock: MockClock) -> None:
    """Which one, under the name that the text has in this request."""
    door = SpeakingDoor(words_max=0, error=JobFailed(FailureCode.REQUEST_UNSUPPORTED, "no sounds"))
    guides = await post(door, body={"text": "你好"})
    openais = await post(door, SPEECH, body={"model": "tts-1", "input": "你好", "voice": "alloy"})

    assert guides.status == openais.status == 400
    assert guides.json()["error"] == f"Invalid value for 'text': the voice {JOE} can read nothing of it"
    assert openais.json()["error"]["param"] == "input"


async def test_a_stream_that_breaks_off_does_not_look_whole(autojump_clock: MockClock) -> None:
    """Sound ends without its last chunk, events with an error."""
    body = {"model": "tts-1", "input": "One two three.", "voice": "alloy", "response_format": "pcm"}
    door = SpeakingDoor(words_max=1, error=PeerUnreachable("gone"))
    sound = await post(door, SPEECH, body=body)
    events = await post(door, SPEECH, body={**body, "stream_format": "sse"})

    assert (sound.status, text_of(sound.body), sound.complete) == (200, "One", False)
    assert events.complete
    assert events.events()[-1]["error"]["code"] == "upstream_disconnected"


@pytest.mark.parametrize("path", [TTS, SPEECH])
async def test_a_client_that_leaves_stops_the_work(autojump_clock: MockClock, path: str) -> None:
    """Before the first sound, and in the middle."""
    door = SpeakingDoor(pause_s=10)
    body = {"model": "tts-1", "input": "One two three.", "text": "One two three.", "voice": "alloy"}
    for leave_after_s in (5, 15):
        await post(door, path, body=body, leave_after_s=leave_after_s)

    assert door.cancelled == 2


async def test_sound_that_waits_takes_room_as_bodies_do(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway that holds all it can says so."""
    monkeypatch.setattr(reading.BodyBudget.__init__, "__defaults__", (100_000,))
    answer = await post(SpeakingDoor(), body={"text": "word " * 1000})

    assert answer.status == 503
    assert answer.headers["retry-after"]
