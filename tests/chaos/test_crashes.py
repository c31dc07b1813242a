"""Real workers that break: files of every kind of damage, kills at any moment, too little memory. The node stays.

Each node serves a second model that is whole, and that must not notice anything.
"""

from __future__ import annotations

import os
import re
import resource
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import pytest
import trio

from cxp2p.client import Net
from cxp2p.errors import CxError, SettingsError
from cxp2p.records import ChatJob, Message, Piece, Role, Sampling, Service
from cxp2p_node.app import Node, _open_engines
from cxp2p_node.config import MemorySettings, ModelSettings, NodeSettings
from cxp2p_node.engines.llama import Llama, LlamaSettings, open_llama
from cxp2p_node.engines.opening import loadable
from cxp2p_node.engines.shelf import Shelf, Shelved, open_shelf
from cxp2p_node.models import Store
from tiny_model import ANSWER, write_tiny_model
from worlds import PRICES, Ledgerbook, World, settled, world

pytestmark = pytest.mark.slow

PATIENCE_S = 60.0
OFFER_S_MAX = 1.0  # until askers know of a change


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("crashes") / "good.gguf")


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("crashes") / "endless.gguf", loop=True, context=1 << 14)


def put(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def got(path: Path) -> bytes:
    return path.read_bytes()


@dataclass
class Place:
    """A node with real workers in a world, and an asker beside it."""

    here: World
    node: Node
    net: Net
    books: Ledgerbook

    async def ask(self, model: str, max_tokens: int | None = None, begun: trio.Event | None = None) -> str:
        return await ask(self.net, self.books, model, max_tokens, begun)

    def offered(self) -> set[str]:
        """The models that the asker knows of."""
        entry = self.net.discovery.directory.get(self.node.network.peer)
        return set() if entry is None else {each.model for each in entry.offer.capabilities}

    def llama(self, model: str) -> Llama:
        shelved = self.node.benches[Service.CHAT, model].engine
        assert isinstance(shelved, Shelved)
        assert isinstance(shelved.engine, Llama)
        return shelved.engine

    @property
    def shelf(self) -> Shelf:
        shelved = next(iter(self.node.benches.values())).engine
        assert isinstance(shelved, Shelved)
        return shelved._shelf


async def ask(
    net: Net,
    books: Ledgerbook,
    model: str,
    max_tokens: int | None = None,
    begun: trio.Event | None = None,
    text: str = "hello",
) -> str:
    texts: list[str] = []

    async def take(piece: Piece) -> None:
        await trio.lowlevel.checkpoint()
        if begun is not None:
            begun.set()
        texts.append(piece.text)

    messages = (Message(role=Role.USER, content=text),)
    job = ChatJob(model=model, messages=messages, max_tokens=max_tokens, sampling=Sampling(temperature=0))
    with trio.fail_after(PATIENCE_S):
        await net.run(job, take, books)
    return "".join(texts)


def models_of(paths: dict[str, Path]) -> tuple[ModelSettings, ...]:
    return tuple(
        ModelSettings(name=name, path=path, slots=2, context_units=512, threads=1) for name, path in paths.items()
    )


@asynccontextmanager
async def place_of(store: Path, paths: dict[str, Path], mib: int = 2000) -> AsyncIterator[Place]:
    """A node that was told to serve these files, as `cxp2p node run` does it."""
    settings = NodeSettings(models=models_of(paths), memory=MemorySettings(models_mib_max=mib))
    async with AsyncExitStack() as stack:
        engines, unusable = await _open_engines(settings, Store(store), stack)
        here = await stack.enter_async_context(world())
        node = replace(await here.node(*engines), unusable=unusable)
        net = await here.asker()
        await settled(net, 1)
        yield Place(here, node, net, Ledgerbook())


# Files.


def changed(data: bytes, seed: int, *, header: bool) -> bytes:
    """A file of which some bytes are others now: within the first hundred of fields, or anywhere."""
    rng = Random(seed)
    damaged = bytearray(data)
    end = 600 if header else len(data)
    for _ in range(rng.choice([1, 3, 30])):
        damaged[rng.randrange(4, end)] = rng.randrange(256)
    return bytes(damaged)


@pytest.mark.parametrize("seed", range(12))
async def test_a_file_with_other_bytes_in_it_harms_nobody(good: Path, tmp_path: Path, seed: int) -> None:
    """Whether it is refused, or dies while it is loaded, or loads and answers nonsense."""
    bad = put(tmp_path / "bad.gguf", changed(got(good), seed, header=seed < 8))
    async with place_of(tmp_path, {"bad": bad, "good": good}) as place:
        assert await place.ask("good") == ANSWER
        if "bad" in place.node.faults:
            assert place.offered() == {"good"}
        else:
            with suppress(CxError):
                await place.ask("bad", max_tokens=10)
        await trio.sleep(2.1)  # an asker that saw the node fail leaves it alone for two seconds
        assert await place.ask("good") == ANSWER


@pytest.mark.parametrize("left", [0, 3, 4, 24, 100, 5_000, 100_000, -320, -1])
async def test_a_file_that_was_cut_is_refused_before_it_is_loaded(
    good: Path, tmp_path: Path, left: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says so, and how long it is; a node that has nothing else does not start."""
    cut = put(tmp_path / "cut.gguf", got(good)[:left])
    async with AsyncExitStack() as stack:
        engines, unusable = await _open_engines(
            NodeSettings(models=models_of({"cut": cut, "good": good})), Store(tmp_path), stack
        )
        assert [engine.describe().model for engine in engines] == ["good"]
        assert re.search(r"cut cannot be loaded from .*cut\.gguf: it is not", unusable["cut"])
        assert "it is not offered until the file is replaced" in caplog.text
    with pytest.raises(SettingsError, match=r"cut cannot be loaded from .*cut\.gguf: it is not"):
        async with AsyncExitStack() as stack:
            await _open_engines(NodeSettings(models=models_of({"cut": cut})), Store(tmp_path), stack)


@pytest.mark.parametrize(
    ("made", "why"),
    [
        ({"architecture": "martian"}, r"llama\.cpp cannot load bad\.gguf: unknown model architecture: 'martian'"),
        # In the first decode.
        (
            {"half": ("output_norm.weight",)},
            r"killed by SIGABRT: binary-ops\.cpp:\d+: binary_op: unsupported types: .*f16",
        ),
    ],
)
async def test_a_model_that_llama_cannot_run_is_not_offered(
    good: Path, tmp_path: Path, made: dict[str, str], why: str
) -> None:
    """An architecture that it does not know, and a tensor that it calls abort() for. Others serve; the log says why."""
    bad = write_tiny_model(tmp_path / "bad.gguf", **made)  # type: ignore[arg-type]
    async with place_of(tmp_path, {"bad": bad, "good": good}) as place:
        assert re.search(rf"bad cannot be loaded: {why}", place.node.faults["bad"])
        assert place.offered() == {"good"}
        assert await place.ask("good") == ANSWER


async def test_a_file_that_is_replaced_is_not_served_under_the_digest_of_the_old_one(
    good: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two models take turns; the file of one becomes another. It leaves the offer, and returns with the old file."""
    other = put(tmp_path / "other.gguf", got(good))
    async with place_of(tmp_path, {"good": good, "other": other}, mib=100) as place:
        assert await place.ask("other") == ANSWER
        assert await place.ask("good") == ANSWER
        put(other, b"GGUF" + bytes(1000))
        with pytest.raises(CxError):
            await place.ask("other")
        await trio.sleep(OFFER_S_MAX)
        assert place.offered() == {"good"}
        assert "other.gguf is another file than at the start: start the node again" in caplog.text
        await trio.sleep(1.1)
        assert await place.ask("good") == ANSWER
        put(other, got(good))
        with trio.fail_after(PATIENCE_S):
            while "other" in place.node.faults:
                await place.shelf._news.wait()
        await trio.sleep(OFFER_S_MAX)
        assert place.offered() == {"good", "other"}


# Kills.


async def test_a_worker_that_is_killed_leaves_the_offer_within_a_second_and_comes_back(
    good: Path, endless: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its job fails, and the other model's does not notice."""
    async with place_of(tmp_path, {"endless": endless, "good": good}) as place:
        worker = place.llama("endless").worker
        before = worker.pid
        assert before is not None

        begun = trio.Event()

        async def doomed() -> None:
            with pytest.raises(CxError):
                await place.ask("endless", begun=begun)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(doomed)
            await begun.wait()
            command, worker._command = worker._command, ("/bin/sleep", "1.5")  # it does not come back at once
            os.kill(before, signal.SIGKILL)
            await trio.sleep(OFFER_S_MAX)
            assert place.offered() == {"good"}
        worker._command = command
        with trio.fail_after(PATIENCE_S):
            await worker.until_ready(PATIENCE_S)
        await trio.sleep(OFFER_S_MAX)
        assert place.offered() == {"good", "endless"}
        await trio.sleep(1.1)
        assert await place.ask("good") == ANSWER
        assert await place.ask("endless", max_tokens=20) == (ANSWER.removesuffix("z")[:19])
    assert "the worker of endless ended (killed by SIGKILL (out of memory?))" in caplog.text


@pytest.mark.parametrize("seed", range(3))
async def test_kills_at_random_moments_cut_no_answer_short(good: Path, tmp_path: Path, seed: int) -> None:
    """Twenty in a row on two nodes, of workers that load, wait and compute; answers are whole or failed."""
    rng = Random(seed)
    async with place_of(tmp_path, {"good": good}) as place:
        second = await _another(place, good, tmp_path)
        workers = [place.llama("good").worker, second.worker]
        done = failed = 0
        async with trio.open_nursery() as nursery:

            async def jobs() -> None:
                nonlocal done, failed
                while True:
                    try:
                        assert await place.ask("good") == ANSWER
                        done += 1
                    except CxError:
                        failed += 1
                        await trio.sleep(0.2)

            for _ in range(3):
                nursery.start_soon(jobs)
            for number in range(20):
                await trio.sleep(rng.uniform(0, 0.4))
                pid = workers[number % 2].pid
                if pid is not None:
                    os.kill(pid, rng.choice([signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV]))
            nursery.cancel_scope.cancel()
        assert done
        with trio.fail_after(PATIENCE_S):
            for worker in workers:
                await worker.until_ready(PATIENCE_S)
        await place.net.find("good", PATIENCE_S)
        assert await place.ask("good") == ANSWER
        assert not place.books.held


async def _another(place: Place, path: Path, store: Path) -> Llama:
    """A second node in the same world; what it serves."""
    (settings,) = models_of({"good": path})
    found = await loadable(settings, Store(store))
    assert found is not None
    shelf = await place.here.stack.enter_async_context(open_shelf([found], 10**10))
    await place.here.node(*shelf.models)
    await settled(place.net, 2)
    engine = shelf.models[0].engine
    assert isinstance(engine, Llama)
    return engine


# Memory.


async def test_a_model_that_needs_more_than_there_is_is_refused_and_not_killed(good: Path, tmp_path: Path) -> None:
    """By the estimate, before anything is loaded: the error has the numbers."""
    paths = {"good": good}
    with pytest.raises(SettingsError, match=r"good needs \d+ MiB of memory, and 50 MiB are allowed: lower `slots`"):
        async with place_of(tmp_path, paths, mib=50):
            pass


async def test_a_worker_without_memory_is_refused_by_llama_and_the_others_serve_on(
    good: Path, endless: Path, tmp_path: Path
) -> None:
    """The estimate was wrong, or another program was faster: the worker may map less than the model needs."""
    (whole,) = models_of({"good": good})
    found = await loadable(whole, Store(tmp_path))
    assert found is not None
    greedy = LlamaSettings(
        model="greedy",
        path=endless,
        model_digest=b"d" * 32,
        prices=PRICES,
        slots=64,
        queue_max=4,
        context_units=1 << 14,
        threads=1,
    )
    described = replace(found.described, model="greedy", slots=64)
    large = replace(found, described=described, open=lambda: open_llama(greedy, address_bytes_max=1 << 30))
    async with open_shelf([large, found], 10**12) as shelf:
        assert [model.ready for model in shelf.models] == [False, True]
        assert shelf.models[0].fault.startswith("greedy cannot be loaded: no room for 64 times 16384 tokens: lower")
        async with world() as here:
            await here.node(*shelf.models)
            net = await here.asker()
            await settled(net, 1)
            assert await ask(net, Ledgerbook(), "good") == ANSWER


async def test_a_worker_that_runs_out_of_memory_at_work_is_replaced_and_the_others_serve_on(
    good: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A limit that falls below what its next job needs: the job fails, the log says why, and the model comes back."""
    large = put(tmp_path / "large.gguf", got(good))
    async with place_of(tmp_path, {"large": large, "good": good}) as place:
        worker = place.llama("large").worker
        before = worker.pid
        assert before is not None
        resource.prlimit(before, resource.RLIMIT_AS, (1 << 20, 1 << 20))  # not a page more than it has
        text = "hello " * 2_500_000
        with pytest.raises(CxError):
            await ask(place.net, place.books, "large", text=text)
        await trio.sleep(OFFER_S_MAX)
        assert place.offered() >= {"good"}
        assert await place.ask("good") == ANSWER
        with trio.fail_after(PATIENCE_S):
            await worker.until_ready(PATIENCE_S)
        assert worker.pid != before
        await place.net.find("large", PATIENCE_S)
        assert await place.ask("large") == ANSWER
    assert re.search(r"the worker of large ended \((exit code [1-9]\d*|killed by SIG(ABRT|SEGV)): \w", caplog.text)


def test_the_list_of_damages_is_what_it_says(good: Path) -> None:
    """Each seed changes the file, and keeps its length."""
    data = good.read_bytes()
    damaged: Sequence[bytes] = [changed(data, seed, header=True) for seed in range(12)]
    assert all(len(each) == len(data) and each != data for each in damaged)
