"""The real voice of the catalogue: how it sounds, measured, and what it takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil
import pytest
import trio

from cxp2p.paths import default_data_path
from cxp2p.records import Finish, Piece, Prices, SpeechJob, Usage
from cxp2p.sound import RATE
from cxp2p.speech import split
from cxp2p_node.catalog import look_up
from cxp2p_node.engines.speech import SpeechSettings, memory_needed, open_speech
from cxp2p_node.engines.speech_voice import CutVoice, Stop, WholeVoice, load
from cxp2p_node.models import Store
from cxp2p_node.models.voice import voice_facts

pytestmark = pytest.mark.slow

VOICE = "en_US-joe-medium"
STORY = (
    "It was the best of times, it was the worst of times. It was the age of wisdom; it was the age of foolishness! "
    "Dr. Smith paid $3.50 for six spoons of fresh snow peas, five thick slabs of blue cheese, and maybe a snack for "
    "her brother Bob. Why? Nobody knows. She can scoop these things into three red bags, and we will go meet her "
    "Wednesday at the train station, where the quick brown fox jumps over the lazy dog near the river bank. "
) * 4
QUIET = 0.01  # of full scale

Sound = npt.NDArray[np.float32]


@pytest.fixture(scope="session")
def path() -> Path:
    return Store(default_data_path("models")).pull(look_up(VOICE), lambda what, done, total: None)


def settings_of(path: Path, threads: int) -> SpeechSettings:
    return SpeechSettings(
        model=VOICE,
        path=path,
        model_digest=b"d" * 32,
        prices=Prices(input=1, output=1),
        queue_max=4,
        threads=threads,
    )


class Reader:
    """What came of some texts."""

    def __init__(self) -> None:
        self.sounds: dict[int, bytes] = {}
        self.usages: dict[int, Usage] = {}

    async def read(self, engine: object, number: int, text: str, speed: float = 1.0) -> None:
        data = bytearray()

        async def emit(piece: Piece) -> None:
            data.extend(piece.data)
            await trio.lowlevel.checkpoint()

        job = SpeechJob(model=VOICE, text=text, speed=speed)
        run = engine.run  # type: ignore[attr-defined]
        self.usages[number] = await run(job, 1, 10**7, emit, lambda in_units, cached_units: None)
        self.sounds[number] = bytes(data)


async def sounds_of(path: Path, texts: Sequence[str], *, threads: int = 1, speed: float = 1.0) -> list[Sound]:
    reader = Reader()
    async with open_speech(settings_of(path, threads)) as engine:
        for number, text in enumerate(texts):
            await reader.read(engine, number, text, speed)
    assert all(usage.finish is Finish.STOP for usage in reader.usages.values())
    return [numbers(reader.sounds[number]) for number in range(len(texts))]


def numbers(data: bytes) -> Sound:
    return (np.frombuffer(data, "<i2") / 32768).astype(np.float32)


def edges_s(sound: Sound) -> tuple[float, float]:
    """How long it is quiet at the beginning and at the end."""
    loud = np.flatnonzero(np.abs(sound) > QUIET)
    return loud[0] / RATE, (len(sound) - 1 - loud[-1]) / RATE


async def test_jobs_join_without_a_click(path: Path) -> None:
    """Each begins and ends in silence, so that what several nodes say is one recording: a step between two samples at
    the joins is a hundredth of those within the speech, at most.
    """
    jobs = split(STORY)
    sounds = await sounds_of(path, jobs)
    assert len(jobs) > 3
    at_joins = [abs(float(after[0] - before[-1])) for before, after in pairwise(sounds)]
    within = max(float(np.abs(np.diff(sound)).max()) for sound in sounds)
    assert max(at_joins) < min(0.002, within / 100)
    for sound in sounds:
        assert max(np.abs(sound[:20]).max(), np.abs(sound[-20:]).max()) < 0.05
        assert 0.05 < edges_s(sound)[1] < 0.5  # as long as one breathes
        assert abs(float(sound.mean())) < 0.01


async def test_sentences_are_equally_loud(path: Path) -> None:
    """Neither cut off nor whispered: within 6 dB of each other, of which most is the speaker's own."""
    sounds = await sounds_of(path, split(STORY))
    loudness = [20 * math.log10(float(np.sqrt(np.mean(sound[np.abs(sound) > QUIET] ** 2)))) for sound in sounds]
    assert max(loudness) - min(loudness) < 6
    assert -26 < min(loudness) < max(loudness) < -10
    assert all(0.3 < np.abs(sound).max() < 1.0 for sound in sounds)


async def test_speed_is_the_length(path: Path) -> None:
    text = split(STORY)[1]
    lengths = [len((await sounds_of(path, [text], speed=speed))[0]) for speed in (0.5, 1.0, 2.0)]
    assert 1.6 < lengths[0] / lengths[1] < 2.1  # each phoneme has whole frames, so it is not quite twice
    assert 1.4 < lengths[1] / lengths[2] < 2.1


async def test_threads_and_company_change_no_sample(path: Path) -> None:
    """What one node says another one says too, up to how processors round."""
    (alone,) = await sounds_of(path, [STORY[:300]], threads=1)
    reader = Reader()
    async with open_speech(settings_of(path, 2)) as engine, trio.open_nursery() as nursery:
        for number, text in enumerate((STORY[:300], STORY, STORY[40:400])):
            nursery.start_soon(reader.read, engine, number, text)
    together = numbers(reader.sounds[0])
    assert len(together) == len(alone)
    assert float(np.abs(together - alone).max()) * 32768 <= 2


def test_the_cut_network_says_what_pipers_own_says(path: Path, tmp_path: Path) -> None:
    """Without noise, which the whole one would draw anew each time."""
    stop = Stop()
    facts = voice_facts(path)
    still = {**facts.settings, "inference": {"noise_scale": 0, "length_scale": 1, "noise_w": 0}}
    whole = WholeVoice(still, path, 1)
    pieces = load(path, 1)
    assert isinstance(pieces, CutVoice)
    pieces._config.noise_scale = pieces._config.noise_w_scale = 0
    for text in split(STORY)[:2]:
        (one,), (other,) = pieces.shapes(text[:100], 1.0, stop)[:1], whole.shapes(text[:100], 1.0, stop)[:1]
        parts = [one.sound(at, min(at + 40, one.frames), stop) for at in range(0, one.frames, 40)]
        assert np.allclose(np.concatenate(parts), other.sound(0, other.frames, stop), atol=1e-4)


@pytest.mark.parametrize("threads", [1, 2])
async def test_its_memory_is_known_before(path: Path, threads: int) -> None:
    """At most a tenth under what it takes with all its slots at work, a quarter over."""
    settings = settings_of(path, threads)
    foreseen = memory_needed(voice_facts(path), slots=settings.slots, threads=threads)
    reader = Reader()
    async with open_speech(settings) as engine:
        async with trio.open_nursery() as nursery:
            for number in range(settings.slots):
                nursery.start_soon(reader.read, engine, number, STORY[number * 10 :][:1000])
        assert engine.worker.pid is not None
        taken = psutil.Process(engine.worker.pid).memory_info().rss
    assert 0.9 * taken < foreseen < 1.25 * taken


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("😀 🎉", (0, 0)),
        ("你好", (0, 0)),
        ("Hi 😀 there.", (0.4, 2)),
        ("<speak>Hi <break time='9s'/>there.</speak>", (0.4, 2)),
        ("x" * 10_000, (100, 1000)),
        ("111111111111 " * 20, (60, 200)),
        ("Привет, мир!", (0.5, 4)),
    ],
    ids=ascii,
)
async def test_odd_texts_have_a_length(path: Path, text: str, seconds: tuple[float, float]) -> None:
    """None for what cannot be read; and never more than is ordered for so many letters."""
    (sound,) = await sounds_of(path, [text], threads=2)
    assert seconds[0] <= len(sound) / RATE <= seconds[1]
    assert len(sound) / RATE <= 5 + 0.8 * len(text)
