"""The speech engine: real Piper in a real worker process, on a tiny voice that says tones."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import AbstractAsyncContextManager
from functools import partial
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import psutil
import pytest
import trio

from cxp2p.errors import JobFailed, SettingsError
from cxp2p.records import FailureCode, Finish, Piece, Prices, Service, SpeechJob, Usage
from cxp2p.sound import RATE, milliseconds
from cxp2p_node.config import ModelSettings
from cxp2p_node.engines import speech
from cxp2p_node.engines.opening import loadable, open_engine
from cxp2p_node.engines.speech import Speech, SpeechSettings, open_speech
from cxp2p_node.engines.thread_faults import EXIT_FAULT
from cxp2p_node.models import Store
from cxp2p_node.models.header import HeaderError
from cxp2p_node.models.voice import read_settings, voice_digest
from tiny_voice import FRAMES_PER_PHONEME, HOP, settings_of, tiny_network, write_tiny_voice

pytestmark = pytest.mark.slow  # real processes

PATIENCE_S = 30.0
VOICE = "en_US-tiny-medium"
TEXT = "Hello there, my friend. How are you? I am well."


@pytest.fixture(scope="session")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_voice(tmp_path_factory.mktemp("voice") / "tiny.onnx")


def tiny(path: Path, *, threads: int = 2) -> AbstractAsyncContextManager[Speech]:
    settings = SpeechSettings(
        model=VOICE,
        path=path,
        model_digest=b"d" * 32,
        prices=Prices(input=1, output=1),
        queue_max=4,
        threads=threads,
    )
    return open_speech(settings)


class Heard:
    """What an asker got."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        self.counts: list[tuple[int, int]] = []
        self.begun = trio.Event()

    @property
    def data(self) -> bytes:
        return b"".join(piece.data for piece in self.pieces)

    async def emit(self, piece: Piece) -> None:
        await trio.lowlevel.checkpoint()
        assert self.counts, "characters are counted before the first piece"
        self.pieces.append(piece)
        self.begun.set()

    def counted(self, in_units: int, cached_units: int) -> None:
        self.counts.append((in_units, cached_units))


async def ask(
    engine: Speech, text: str, *, speed: float = 1.0, max_out: int = 10**7, heard: Heard | None = None
) -> tuple[Heard, Usage]:
    heard = heard or Heard()
    job = SpeechJob(model=VOICE, text=text, speed=speed)
    with trio.fail_after(PATIENCE_S):
        usage = await engine.run(job, 1, max_out, heard.emit, heard.counted)
    return heard, usage


async def test_a_text_is_said_and_counted(path: Path) -> None:
    async with tiny(path) as engine:
        described = engine.describe()
        heard, usage = await ask(engine, TEXT)

    assert (described.service, described.model, described.context_units) == (Service.SPEECH, VOICE, 10_000)
    assert described.runtime.startswith("piper ")
    assert heard.counts == [(len(TEXT), 0)]
    assert usage == Usage(
        in_units=len(TEXT), cached_units=0, out_units=milliseconds(len(heard.data)), finish=Finish.STOP
    )
    assert len(heard.data) % (2 * HOP * FRAMES_PER_PHONEME) == 0
    assert len(heard.pieces) > 3
    assert np.abs(np.frombuffer(heard.data, "<i2")).max() > 3000


async def test_it_always_sounds_the_same(path: Path) -> None:
    """Whatever the number of threads, the worker, and what else is said at the same time: so others can go on."""
    said: list[bytes] = []
    for threads in (1, 3):
        async with tiny(path, threads=threads) as engine, trio.open_nursery() as nursery:
            nursery.start_soon(ask, engine, "Another text, which is rather long. " * 20)
            for _ in range(2):
                heard, _ = await ask(engine, TEXT)
                said.append(heard.data)
    assert len(set(said)) == 1


@pytest.mark.parametrize("threads", [1, 2])
async def test_many_texts_at_once_are_told_apart(path: Path, threads: int) -> None:
    texts = [f"Text number {number}. It has {number} sentences more. " + "Yes. " * number for number in range(6)]
    alone: list[bytes] = []
    together: dict[str, bytes] = {}
    async with tiny(path, threads=threads) as engine:
        for text in texts:
            alone.append((await ask(engine, text))[0].data)

        async def one(text: str) -> None:
            together[text] = (await ask(engine, text))[0].data

        async with trio.open_nursery() as nursery:
            for text in texts:
                nursery.start_soon(one, text)
    assert [together[text] for text in texts] == alone


@pytest.mark.parametrize(
    ("text", "silent"),
    [
        ("😀 👩‍👩‍👧 🇩🇪", True),
        ("... !? — *", True),
        ("你好。こんにちは。", True),
        ("Hello 你好 😀 there.", False),
        ("<speak>Hello <break time='3s'/><emphasis>there</emphasis></speak>", False),
        ("a [[h@loU]] b", False),
        ("x" * 10_000, False),
        ("9" * 300, False),
        ("W W W " * 100, False),
        ("\u202e\u200d\ufeffHi\u00ad there\x00\x07", False),
        ("1,000,000 & 50% of $3.50 = £2 @ 3°C #7", False),
        ("a" + "\u0301" * 500, False),
    ],
    ids=lambda value: ascii(value)[:24] if isinstance(value, str) else None,
)
async def test_odd_texts_have_a_defined_sound(path: Path, text: str, silent: bool) -> None:
    """Or none, which is no error of the node; never more than is ordered for so many letters."""
    async with tiny(path) as engine:
        heard, usage = await ask(engine, text, max_out=5_000 + 800 * len(text))
    assert usage.finish is Finish.STOP
    assert (usage.out_units == 0) == silent
    assert usage.out_units == milliseconds(len(heard.data))
    assert usage.in_units == len(text)


async def test_faster_is_not_longer(path: Path) -> None:
    """The tiny voice has one length for all phonemes, so that only the limits can be seen here."""
    async with tiny(path) as engine:
        for speed in (0.25, 4.0):
            _, usage = await ask(engine, TEXT, speed=speed)
            assert usage.finish is Finish.STOP


async def test_nobody_gets_more_than_was_ordered(path: Path) -> None:
    async with tiny(path) as engine:
        heard, usage = await ask(engine, TEXT, max_out=1500)
    assert usage.finish is Finish.LENGTH
    assert usage.out_units == milliseconds(len(heard.data)) <= 1500


async def test_whoever_leaves_stops_the_work(path: Path) -> None:
    """And the next one is served at once."""
    async with tiny(path, threads=1) as engine:
        heard = Heard()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(ask, engine, "A sentence, and more of it. " * 300, heard=heard))
            await heard.begun.wait()
            nursery.cancel_scope.cancel()
        assert engine.worker.pid is not None
        worker = psutil.Process(engine.worker.pid)
        await ask(engine, "Hi.")
        before = sum(worker.cpu_times()[:2])
        await ask(engine, "Hi.")
        assert sum(worker.cpu_times()[:2]) - before < 0.5


async def test_a_worker_that_is_killed_comes_back(path: Path) -> None:
    """Its job fails so that it moves on; the next one is done by a fresh worker."""
    async with tiny(path) as engine:
        heard = Heard()

        async def kill() -> None:
            await heard.begun.wait()
            assert engine.worker.pid is not None
            os.kill(engine.worker.pid, signal.SIGKILL)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(kill)
            with pytest.raises(JobFailed) as failed:
                await ask(engine, "A sentence, and more of it. " * 300, heard=heard)
        assert failed.value.code is FailureCode.ENGINE_DIED
        with trio.fail_after(PATIENCE_S):
            await engine.worker.until_ready(PATIENCE_S)
        _, usage = await ask(engine, TEXT)
    assert usage.finish is Finish.STOP


@pytest.mark.parametrize(("told", "code"), [(b"", 0), (b"\xff" * 64, EXIT_FAULT)], ids=["nothing", "no frame"])
def test_the_worker_ends_with_its_node_and_says_what_broke_it(path: Path, told: bytes, code: int) -> None:
    """Also in the middle of its start."""
    arguments = json.dumps({"path": str(path), "threads": 1})
    done = subprocess.run(
        [sys.executable, "-m", speech.WORKER, arguments], input=told, capture_output=True, timeout=PATIENCE_S
    )
    assert done.returncode == code
    assert (b"Traceback" in done.stderr) == (code == EXIT_FAULT)


# From settings to the engine.


async def test_a_file_that_ends_in_onnx_is_a_voice(path: Path, tmp_path: Path) -> None:
    """Also without the word speech in the settings; its digest is of both its files."""
    model = ModelSettings(name=VOICE, path=path, threads=1)
    found = await loadable(model, Store(tmp_path))
    assert found is not None
    assert found.described.service is Service.SPEECH
    assert found.described.model_digest == voice_digest(path)
    assert found.bytes_needed > found.file_bytes
    async with open_engine(model, Store(tmp_path)) as engine:
        assert engine.describe() == found.described


async def test_a_voice_that_is_no_voice_is_told_before_it_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(tiny_network()[:-100])
    with pytest.raises(HeaderError, match=r"cannot be loaded from .*broken\.onnx: it is not an ONNX file"):
        await loadable(ModelSettings(name="broken", path=path), Store(tmp_path))


@pytest.mark.parametrize(
    ("network", "why"),
    [
        (tiny_network(decoder="other").replace(b"ConvTranspose", b"NoSuchThing__"), "onnxruntime cannot load it"),
        (tiny_network().replace(b"LeakyRelu", b"LeakyRule"), "onnxruntime cannot load it"),
    ],
)
async def test_a_network_that_nobody_can_run_ends_the_start(tmp_path: Path, network: bytes, why: str) -> None:
    """With the reason, and without a second try."""
    path = write_tiny_voice(tmp_path / "odd.onnx", network=network)
    with pytest.raises(SettingsError, match=why):
        async with tiny(path):
            pass


async def test_a_language_that_piper_does_not_have_ends_the_start(tmp_path: Path) -> None:
    path = write_tiny_voice(tmp_path / "odd.onnx", settings_of(espeak={"voice": "xx-nobody"}))
    with pytest.raises(SettingsError, match="eSpeak cannot read 'xx-nobody'"):
        async with tiny(path):
            pass


async def test_settings_that_change_are_another_voice(tmp_path: Path) -> None:
    """What was offered is not loaded any more: its digest was told."""
    path = write_tiny_voice(tmp_path / "tiny.onnx")
    found = await loadable(ModelSettings(name=VOICE, path=path, threads=1), Store(tmp_path))
    assert found is not None
    before = read_settings(path)
    write_tiny_voice(path, settings_of(inference={"length_scale": 2}))
    assert read_settings(path) != before
    with pytest.raises(SettingsError, match="is another file than at the start"):
        async with found.open():
            pass


async def test_without_piper_it_is_said_which_extra_has_it(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> str:
        raise PackageNotFoundError("piper-tts")

    monkeypatch.setattr(speech, "piper_here", missing)
    with pytest.raises(SettingsError, match=r"pip install 'cxp2p\[node,speech\]'"):
        await loadable(ModelSettings(name=VOICE, path=path), Store(tmp_path))


def test_a_second_of_sound_is_a_thousand_milliseconds() -> None:
    """In the worker and in the library alike."""
    assert milliseconds(2 * RATE) == 1000
