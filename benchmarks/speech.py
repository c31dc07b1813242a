"""Speech through the whole network (gateway, libp2p, node), beside Piper's own HTTP server: the same voice and texts.

Ten sentences, one after another; how early the first sound is there; and a text of 3,000 characters, which two nodes of
one thread each read together. The server has no network behind it, is not streamed, and reads a text by itself: with
all cores of this machine, and with one thread, as one of the nodes has.
"""

from __future__ import annotations

import io
import json
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import wave
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Final, TypeAlias

import click
import httpx
import trio

from benchmarks.figures import Figure, Goal, Rate
from benchmarks.network import HERE, Front, open_network
from cxp2p.paths import default_data_path
from cxp2p_node.catalog import look_up
from cxp2p_node.engines.serving import threads_for
from cxp2p_node.models import Store
from cxp2p_node.models.voice import SETTINGS_ENDING, read_settings
from cxp2p_node.processors import cores_usable

VOICE = "en_US-joe-medium"
ROUNDS = 5
LONG_ROUNDS = 3
LONG_LETTERS = 3_000
START_S = 60.0
PATIENCE_S = 300.0
PEER = "piper.http_server"
PEER_ALONE = "piper.http_server, one thread"

SENTENCES: Final = (
    "Welcome!",
    "How are you today, my friend?",
    "The train to London leaves in five minutes.",
    "Please call Stella and ask her to bring these things.",
    "She can scoop these things into three red bags, and we will go.",
    "The quick brown fox jumps over the lazy dog near the river bank.",
    "A rainbow is a division of white light into many beautiful colors.",
    "When the sunlight strikes raindrops in the air, they act as a prism and form a rainbow.",
    "It was the best of times, it was the worst of times, it was the age of wisdom.",
    "People look for the pot of gold at its end, but no one ever finds it, says the old legend.",
)

Say: TypeAlias = Callable[[str], Awaitable[float]]
"""Takes a text, returns how many seconds of sound came; done when all of it is there."""


def measure(seconds: float) -> list[Figure]:
    """Sentences a second, the first sound, characters a second of a long text. Takes about three minutes."""
    if find_spec("flask") is None or find_spec("piper") is None:
        raise click.ClickException("the peer is missing: pip install 'cxp2p[speech,bench]'")
    path = Store(default_data_path("models")).pull(look_up(VOICE), lambda what, done, total: None)
    return trio.run(_measure, path)


async def _measure(path: Path) -> list[Figure]:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        peer = await stack.enter_async_context(_peer(path, folder, 0))
        short = await _short(folder, peer)
        alone = await stack.enter_async_context(_peer(path, folder, 1))
        return [*short, *await _long(folder, {PEER: peer, PEER_ALONE: alone})]


async def _short(folder: Path, peer: Say) -> list[Figure]:
    """One node, which has all cores."""
    models = f'[[models]]\nname = "{VOICE}"\nthreads = {threads_for(cores_usable())}\n'
    rates: dict[str, list[float]] = {"ours": [], "peer": []}
    firsts: dict[str, list[float]] = {"ours": [], "peer": []}
    async with open_network(folder / "short", models) as front, _client(front) as client:
        ours = _through(client)
        await _until_offered(client)
        for round_ in range(ROUNDS + 1):
            for name, say in (("ours", ours), ("peer", peer)):
                took = [await _timed(say, sentence) for sentence in SENTENCES]
                if round_:  # the first one warms up
                    rates[name].append(len(SENTENCES) / sum(took))
                    firsts["peer"] += [1000 * each for each in took] if name == "peer" else []
            if round_:
                firsts["ours"] += [await _first_ms(client, sentence) for sentence in SENTENCES]
    return [
        Figure(
            name="10 sentences, one after another, sentences/s",
            ours=Rate.of(rates["ours"]),
            peer=Rate.of(rates["peer"]),
            peer_is=PEER,
            goal=Goal(ratio=1.0),
        ),
        Figure(
            name="ms to the first sound, median (peer: to all of it)",
            ours=_spread(firsts["ours"]),
            peer=_spread(firsts["peer"]),
            peer_is=PEER,
            goal=Goal(value_max=150.0),
        ),
    ]


async def _long(folder: Path, peers: Mapping[str, Say]) -> list[Figure]:
    """Two nodes of one thread each."""
    models = f'[[models]]\nname = "{VOICE}"\nthreads = 1\n'
    text = " ".join(SENTENCES * (LONG_LETTERS // len(" ".join(SENTENCES)) + 1))[: LONG_LETTERS - 1].rstrip() + "."
    rates: dict[str, list[float]] = {"ours": [], **{name: [] for name in peers}}
    async with open_network(folder / "long", models, nodes=2) as front, _client(front) as client:
        says = {"ours": _through(client), **peers}
        await _until_offered(client, nodes=2)
        for say in says.values():
            await say(" ".join(SENTENCES[:3]))
        for _ in range(LONG_ROUNDS):
            for name, say in says.items():
                rates[name].append(len(text) / await _timed(say, text))
    return [
        Figure(
            name=f"a text of {LONG_LETTERS:,}, two nodes of one thread, characters/s",
            ours=Rate.of(rates["ours"]),
            peer=Rate.of(rates[name]),
            peer_is=name,
            goal=Goal(ratio=1.6),
        )
        for name in peers
    ]


async def _timed(say: Say, text: str) -> float:
    begun = time.perf_counter()
    length_s = await say(text)
    took_s = time.perf_counter() - begun
    if not 0.02 * len(text) < length_s < 0.2 * len(text) + 1:
        raise click.ClickException(f"{length_s:.1f} s of sound for {len(text)} characters")
    return took_s


def _spread(values: list[float]) -> Rate:
    return Rate(median=statistics.median(values), least=min(values), most=max(values))


# Ours.


def _client(front: Front) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=front.base_url, headers=front.headers, timeout=PATIENCE_S)


def _through(client: httpx.AsyncClient) -> Say:
    async def say(text: str) -> float:
        answer = (await client.post("/tts", json={"text": text, "voice": VOICE})).raise_for_status()
        return _length_s(answer.content)

    return say


async def _first_ms(client: httpx.AsyncClient, text: str) -> float:
    body = {"model": "tts-1", "input": text, "voice": VOICE, "response_format": "pcm"}
    begun = time.perf_counter()
    first_ms = 0.0
    async with client.stream("POST", "/audio/speech", json=body) as answer:
        answer.raise_for_status()
        async for _ in answer.aiter_bytes():
            first_ms = first_ms or 1000 * (time.perf_counter() - begun)
    return first_ms


async def _until_offered(client: httpx.AsyncClient, nodes: int = 1) -> None:
    with trio.fail_after(START_S):
        while True:
            models = (await client.get("/models")).raise_for_status().json()["data"]
            if any(model["id"] == VOICE and model["providers"]["count"] >= nodes for model in models):
                return
            await trio.sleep(0.1)


def _length_s(data: bytes) -> float:
    with wave.open(io.BytesIO(data)) as file:
        frames: int = file.getnframes()
        rate: int = file.getframerate()
        return frames / rate


# The peer.


@asynccontextmanager
async def _peer(path: Path, folder: Path, threads: int) -> AsyncIterator[Say]:
    """Piper's server with the voice in two files, as it wants it."""
    voice = folder / f"{VOICE}.onnx"
    if not voice.exists():
        shutil.copyfile(path, voice)
        voice.with_name(voice.name + SETTINGS_ENDING).write_bytes(read_settings(path))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = json.dumps({"path": str(voice), "port": port, "threads": threads})
    process = await trio.lowlevel.open_process(
        [sys.executable, str(HERE / "peer_speech.py"), settings], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S) as client:

            async def say(text: str) -> float:
                answer = (await client.post("/synthesize", json={"text": text})).raise_for_status()
                return _length_s(answer.content)

            await _until_listening(client)
            yield say
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def _until_listening(client: httpx.AsyncClient) -> None:
    with trio.fail_after(START_S):
        while True:
            try:
                (await client.get("/info")).raise_for_status()
            except httpx.TransportError:
                await trio.sleep(0.1)
            else:
                return
