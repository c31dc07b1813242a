"""Embeddings beside llama.cpp's own server engine and beside plain llama-cpp-python: the same model file.

1,000 texts of 5 to 200 words, asked for in lists, through the whole network (gateway, libp2p, node: the peers have none
of that) and of the engine alone; and one short text after another, as a search does it. All are loaded, and take turns
with every list, so that a busy machine slows all of them.
"""

from __future__ import annotations

import base64
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeAlias

import click
import httpx
import trio

from benchmarks.figures import Figure, Goal, Rate
from benchmarks.network import open_network
from cxp2p.paths import default_data_path
from cxp2p.records import EmbedJob, Piece, Prices
from cxp2p_node.catalog import look_up
from cxp2p_node.engines.embed import Embed, EmbedSettings, open_embed
from cxp2p_node.engines.serving import threads_for
from cxp2p_node.models import Store
from cxp2p_node.processors import cores_usable

MODEL = "all-minilm-l6-v2"
CONTEXT = 512
TEXTS = 1000
LIST = 100  # texts in one job
WORDS_MIN, WORDS_MAX = 5, 200
SHORT_WORDS = 16
SHORTS = 20  # in each round
SEED = 7
THREADS = threads_for(cores_usable())
SLOTS = 4  # of the server engine; with 16 it was no quicker
PEERS: Final[Mapping[str, str]] = MappingProxyType(
    {"xllamacpp": "xllamacpp server engine", "llama-cpp-python": "llama-cpp-python"}
)
PEER_PROGRAM = Path(__file__).with_name("peer_embed.py")
PATIENCE_S = 120.0
GOAL = Goal(ratio=1.5)

# Words as they come in English texts, the frequent ones more often than the others.
WORD_LIST: Final = (
    "the of and to in a is that for it as was with be by on not he his but at are this have from or had an they which "
    "one you were all her she there would their we him been has when who will no more if out so up said what its about "
    "than into them can only other time new some could these two may first then do any like my now over such our man "
    "even most made after also well must before back see through way where get much go good years should because each "
    "people those world still between life being under three never last place same another while great state year "
    "house government children water history machine learning network temperature northern mountain agreement "
    "particularly restaurant development engineering photosynthesis electromagnetic constitutional unemployment "
    "neighbourhood"
)
WORDS: Final = WORD_LIST.split()

Ask: TypeAlias = Callable[[list[str]], Awaitable[float]]
"""Takes texts, returns how many seconds their vectors took."""


def measure(seconds: float) -> list[Figure]:
    """Texts a second, in lists and one after another. Takes minutes."""
    if find_spec("xllamacpp") is None:
        raise click.ClickException("the peer is missing: pip install 'cxp2p[bench]'")
    entry = look_up(MODEL)
    path = Store(default_data_path("models")).pull(entry, lambda what, done, total: None)
    return trio.run(_measure, path)


async def _measure(path: Path) -> list[Figure]:
    async with AsyncExitStack() as stack:
        asks = {
            "network": await stack.enter_async_context(_network()),
            "ours": await stack.enter_async_context(_ours(path)),
        }
        for peer in PEERS:
            asks[peer] = await stack.enter_async_context(_peer(path, peer))
        texts = random_texts(TEXTS + LIST)
        lists = [texts[start : start + LIST] for start in range(0, len(texts), LIST)]
        listed: dict[str, list[float]] = {name: [] for name in asks}
        single: dict[str, list[float]] = {name: [] for name in asks}
        for round_, some in enumerate(lists):
            shorts = [" ".join(text.split()[:SHORT_WORDS]) for text in some[:SHORTS]]
            for name, ask in asks.items():
                took_s = await ask(some)
                short_s = [await ask([short]) for short in shorts]
                if round_:  # the first one warms up
                    listed[name].append(len(some) / took_s)
                    single[name].append(len(shorts) / sum(short_s))
    return [
        Figure(
            name=f"{what}, {where}, texts/s",
            ours=Rate.of(rates[whose]),
            peer=Rate.of(rates[peer]),
            peer_is=peer_is,
            goal=goal,
        )
        for what, rates, goal in ((f"lists of {LIST}", listed, GOAL), (f"one of ≤{SHORT_WORDS} words", single, None))
        for where, whose in (("through the network", "network"), ("the engine alone", "ours"))
        for peer, peer_is in PEERS.items()
    ]


def random_texts(count: int) -> list[str]:
    """The same texts every time."""
    rng = random.Random(SEED)
    weights = [1 / (rank + 10) for rank in range(len(WORDS))]
    return [" ".join(rng.choices(WORDS, weights, k=rng.randint(WORDS_MIN, WORDS_MAX))) for _ in range(count)]


@asynccontextmanager
async def _network() -> AsyncIterator[Ask]:
    """Gateway, libp2p and a node, asked over HTTP as the official packages ask: one connection, base64."""
    with tempfile.TemporaryDirectory() as folder:
        models = f'[[models]]\nname = "{MODEL}"\nthreads = {THREADS}\n'
        async with (
            open_network(Path(folder), models) as front,
            httpx.AsyncClient(headers=front.headers, timeout=PATIENCE_S) as client,
        ):

            async def ask(texts: list[str]) -> float:
                body = {"model": MODEL, "input": texts, "encoding_format": "base64"}
                begun = time.perf_counter()
                answer = await client.post(f"{front.base_url}/embeddings", json=body)
                answer.raise_for_status()
                vectors = [base64.b64decode(each["embedding"]) for each in answer.json()["data"]]
                took_s = time.perf_counter() - begun
                assert len(vectors) == len(texts)
                return took_s

            await ask(["hello"])
            yield ask


@asynccontextmanager
async def _ours(path: Path) -> AsyncIterator[Ask]:
    settings = EmbedSettings(
        model=MODEL, path=path, model_digest=bytes(32), prices=Prices(input=0, output=0), queue_max=1, threads=THREADS
    )
    async with open_embed(settings) as engine:
        yield lambda texts: _one(engine, texts)


async def _one(engine: Embed, texts: list[str]) -> float:
    async def emit(piece: Piece) -> None:
        await trio.lowlevel.checkpoint()

    begun = time.perf_counter()
    job = EmbedJob(model=MODEL, inputs=tuple(texts))
    usage = await engine.run(job, 1, len(texts), emit, lambda in_units, cached_units: None)
    assert usage.out_units == len(texts)
    return time.perf_counter() - begun


@asynccontextmanager
async def _peer(path: Path, peer: str) -> AsyncIterator[Ask]:
    """A peer in a process of its own, asked by lines of JSON; what the pipe costs is not counted."""
    settings = {"peer": peer, "path": str(path), "slots": SLOTS, "context": CONTEXT, "threads": THREADS}
    process = await trio.lowlevel.open_process(
        [sys.executable, str(PEER_PROGRAM), json.dumps(settings)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    async def answer() -> float:
        line = b""
        while not line.endswith(b"\n"):
            data = await stdout.receive_some()
            if not data:
                raise click.ClickException(f"{peer} ended with exit code {await process.wait()}")
            line += data
        return float(line.splitlines()[-1])

    async def ask(texts: list[str]) -> float:
        await stdin.send_all(json.dumps(texts).encode() + b"\n")
        return await answer()

    try:
        await answer()
        yield ask
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
