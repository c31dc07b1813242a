"""The embedding engine: real llama.cpp in a real worker process, on a tiny model whose vectors are known."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import psutil
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from cxp2p.errors import JobFailed, SettingsError
from cxp2p.records import EmbedJob, FailureCode, Finish, Piece, Prices, Service, Usage
from cxp2p_node.engines.embed import INPUTS_MAX, Embed, EmbedSettings, open_embed
from cxp2p_node.engines.supervise import PIECES_ON_THE_WAY
from tiny_bert import CONTEXT, LETTERS, VOCABULARY, WIDTH, tokens_of, vector_of, write_tiny_bert
from tiny_model import write_tiny_model

pytestmark = pytest.mark.slow  # real processes

PATIENCE_S = 30.0
LONG = 1024

Input = str | tuple[int, ...]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bert(tmp_path_factory.mktemp("model") / "tiny.gguf", not_a_number=True)


@pytest.fixture(scope="session")
def slow_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One input of its whole context takes seconds."""
    return write_tiny_bert(tmp_path_factory.mktemp("model") / "slow.gguf", layers=64, context=LONG)


def settings_of(path: Path, *, context_units: int | None = None, threads: int = 2) -> EmbedSettings:
    return EmbedSettings(
        model="tiny",
        path=path,
        model_digest=b"d" * 32,
        prices=Prices(input=1, output=1),
        queue_max=4,
        context_units=context_units,
        threads=threads,
    )


def tiny(path: Path, *, context_units: int | None = None, threads: int = 2) -> AbstractAsyncContextManager[Embed]:
    return open_embed(settings_of(path, context_units=context_units, threads=threads))


def job(*inputs: Input, truncate: bool = True) -> EmbedJob:
    return EmbedJob(model="tiny", inputs=inputs, truncate=truncate)


class Heard:
    """What an asker got."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        self.counts: list[tuple[int, int]] = []
        self.done_at = 0.0

    @property
    def vectors(self) -> npt.NDArray[np.float32]:
        return np.frombuffer(b"".join(piece.data for piece in self.pieces), "<f4").reshape(-1, WIDTH)

    async def emit(self, piece: Piece) -> None:
        await trio.lowlevel.checkpoint()
        assert self.counts, "tokens are counted before the first piece"
        self.pieces.append(piece)

    def counted(self, in_units: int, cached_units: int) -> None:
        self.counts.append((in_units, cached_units))


async def ask(engine: Embed, asked: EmbedJob, heard: Heard | None = None) -> tuple[Heard, Usage]:
    heard = heard or Heard()
    with trio.fail_after(PATIENCE_S):
        usage = await engine.run(asked, 1, len(asked.inputs), heard.emit, heard.counted)
    heard.done_at = trio.current_time()
    return heard, usage


async def refused(engine: Embed, asked: EmbedJob) -> JobFailed:
    with pytest.raises(JobFailed) as failed:
        await ask(engine, asked)
    return failed.value


def same(vectors: npt.NDArray[np.float32], texts: Sequence[str], context: int = CONTEXT) -> bool:
    expected = np.stack([vector_of(tokens_of(text), context=context) for text in texts])
    return vectors.shape == expected.shape and bool(np.allclose(vectors, expected, atol=1e-3))


def texts_of(count: int, seed: int = 1) -> list[str]:
    rng = np.random.default_rng(seed)
    words = ["".join(rng.choice(list(LETTERS[:25]), rng.integers(1, 8))) for _ in range(200)]
    return [" ".join(rng.choice(words, rng.integers(1, 20))) for _ in range(count)]


async def test_the_vectors_their_order_and_the_usage(model: Path) -> None:
    texts = ["abc", "cba", "a b c", "a", "ab " * 30, "bca a"]
    async with tiny(model) as engine:
        described = engine.describe()
        assert (described.service, described.context_units, described.output_units_max) == (
            Service.EMBED,
            CONTEXT,
            INPUTS_MAX,
        )
        assert described.runtime.startswith("llama.cpp ")
        heard, usage = await ask(engine, job(*texts))
    assert same(heard.vectors, texts)
    assert np.allclose(np.linalg.norm(heard.vectors, axis=1), 1, atol=1e-6)
    in_units = sum(len(tokens_of(text)) + 2 for text in texts)
    assert heard.counts == [(in_units, 0)]
    assert usage == Usage(in_units=in_units, cached_units=0, out_units=len(texts), finish=Finish.STOP)


async def test_thousands_of_inputs_come_in_order_and_in_pieces(model: Path) -> None:
    texts = texts_of(INPUTS_MAX)
    async with tiny(model) as engine:
        heard, usage = await ask(engine, job(*texts))
    assert same(heard.vectors, texts)
    assert usage.out_units == INPUTS_MAX
    assert len(heard.pieces) > PIECES_ON_THE_WAY  # so credit was given back
    assert all(len(piece.data) == piece.units * WIDTH * 4 <= 32 * 1024 for piece in heard.pieces)
    assert len(heard.pieces) < INPUTS_MAX / 8  # a frame costs more than a vector


async def test_tokens_are_taken_as_they_are_between_the_marks(model: Path) -> None:
    async with tiny(model) as engine:
        heard, usage = await ask(engine, job("abc", tokens_of("abc"), (1,)))
        assert np.array_equal(heard.vectors[0], heard.vectors[1])
        assert np.allclose(heard.vectors[2], vector_of([1]), atol=1e-3)
        assert usage.in_units == 5 + 5 + 3
        failed = await refused(engine, job("abc", (5, VOCABULARY), truncate=False))
        assert failed.code is FailureCode.REQUEST_UNSUPPORTED
        assert "inputs[1] holds the token 57, this model's are 0 to 56" in failed.reason
        assert (await refused(engine, job((2**32 - 1,)))).code is FailureCode.REQUEST_UNSUPPORTED


async def test_a_text_without_a_word_is_its_marks_alone(model: Path) -> None:
    async with tiny(model) as engine:
        heard, usage = await ask(engine, job("", " \n\t", "\u200b"))
    assert same(heard.vectors, [""] * 3)
    assert usage.in_units == 3 * 2


async def test_what_does_not_fit_is_cut_or_refused(model: Path) -> None:
    long = "abcdefgh " * CONTEXT
    async with tiny(model) as engine:
        heard, usage = await ask(engine, job(long, "a", tokens_of(long)))
        assert same(heard.vectors, [long, "a", long])
        assert usage.in_units == CONTEXT + 3 + CONTEXT
        failed = await refused(engine, job("a", long, truncate=False))
        assert failed.code is FailureCode.CONTEXT_LENGTH
        assert "inputs[1]" in failed.reason
        assert (failed.limit, failed.actual) == (CONTEXT, 8 * CONTEXT + 2)
        assert (await refused(engine, job(tokens_of(long), truncate=False))).actual == 8 * CONTEXT + 2
        fitting = "a " * (CONTEXT - 2)
        heard, _ = await ask(engine, job(fitting, truncate=False))
        assert same(heard.vectors, [fitting])
        assert (await refused(engine, job(fitting + "a", truncate=False))).actual == CONTEXT + 1


async def test_the_operator_may_set_a_shorter_context(model: Path) -> None:
    long = "abcd " * CONTEXT
    async with tiny(model, context_units=70) as engine:
        assert engine.describe().context_units == 70
        heard, usage = await ask(engine, job(long))
    assert same(heard.vectors, [long], context=70)
    assert usage.in_units == 70


async def test_only_as_many_inputs_as_were_ordered(model: Path) -> None:
    heard = Heard()
    async with tiny(model) as engine:
        usage = await engine.run(job("abc", "b", "c"), 1, 2, heard.emit, heard.counted)
    assert same(heard.vectors, ["abc", "b"])
    assert usage == Usage(in_units=5 + 3, cached_units=0, out_units=2, finish=Finish.LENGTH)


async def test_many_jobs_at_once_each_get_their_own(model: Path) -> None:
    async def one(engine: Embed, number: int) -> None:
        texts = texts_of(1 + 40 * (number % 3), seed=number)
        heard, _ = await ask(engine, job(*texts))
        done.append(same(heard.vectors, texts))

    done: list[bool] = []
    async with tiny(model) as engine, trio.open_nursery() as nursery:
        for number in range(24):
            nursery.start_soon(one, engine, number)
    assert done == [True] * 24


async def test_a_short_job_does_not_wait_for_a_long_one(slow_model: Path) -> None:
    long, short = Heard(), Heard()
    async with tiny(slow_model) as engine, trio.open_nursery() as nursery:
        nursery.start_soon(ask, engine, job(*["abcd " * 60] * 200), long)
        while not long.pieces:
            await trio.testing.wait_all_tasks_blocked(0.01)
        await ask(engine, job("a b"), short)
        assert same(short.vectors, ["a b"], LONG)
        assert len(long.vectors) < 100
        nursery.cancel_scope.cancel()


async def test_a_cancelled_job_frees_its_encoder_within_100_ms(slow_model: Path) -> None:
    whole = "abcd " * LONG
    async with tiny(slow_model, threads=1) as engine:
        begun = trio.current_time()
        await ask(engine, job(whole))
        assert trio.current_time() - begun > 0.5  # else this test shows nothing
        for cancelled_after_s in (0.2, 0.4):
            with trio.move_on_after(cancelled_after_s):
                await engine.run(job(*[whole] * 50), 1, 50, Heard().emit, Heard().counted)
            left = trio.current_time()
            heard, _ = await ask(engine, job("a"))  # there is one encoder
            assert trio.current_time() - left < 0.2
            assert same(heard.vectors, ["a"], LONG)


async def test_a_slow_reader_holds_up_itself_and_not_the_others(model: Path) -> None:
    taken: list[Piece] = []
    reading = trio.Event()

    async def slow(piece: Piece) -> None:
        taken.append(piece)
        await reading.wait()

    texts = texts_of(INPUTS_MAX)
    async with tiny(model) as engine, trio.open_nursery() as nursery:
        nursery.start_soon(engine.run, job(*texts), 1, INPUTS_MAX, slow, Heard().counted)
        while not taken:
            await wait_all_tasks_blocked(0.01)
        [inbox] = engine.worker._jobs.values()
        with trio.fail_after(PATIENCE_S):
            while inbox.statistics().current_buffer_used < PIECES_ON_THE_WAY - 1:
                await wait_all_tasks_blocked(0.01)
        process = psutil.Process(engine.worker.pid)
        others = texts_of(100, seed=2)
        for _ in range(3):
            heard, _ = await ask(engine, job(*others))
            assert same(heard.vectors, others)
        busy_s = sum(process.cpu_times()[:2])
        await wait_all_tasks_blocked(0.3)
        assert sum(process.cpu_times()[:2]) - busy_s < 0.1  # it waits, it does not spin
        assert len(taken) == 1
        reading.set()
    vectors = np.frombuffer(b"".join(piece.data for piece in taken), "<f4").reshape(-1, WIDTH)
    assert same(vectors, texts)


async def test_a_vector_that_is_no_number_fails_its_job_alone(model: Path) -> None:
    async with tiny(model) as engine:
        whole: list[bool] = []

        async def other(texts: list[str]) -> None:
            heard, _ = await ask(engine, job(*texts))
            whole.append(same(heard.vectors, texts))

        async with trio.open_nursery() as nursery:
            for number in range(8):  # they are computed together
                nursery.start_soon(other, texts_of(20, seed=number))
            failed = await refused(engine, job("abc", "z", "b"))
    assert whole == [True] * 8
    assert failed.code is FailureCode.INTERNAL
    assert "no vector for inputs[1]" in failed.reason


async def test_a_request_that_is_no_embed_job_is_refused(model: Path) -> None:
    async with tiny(model) as engine:
        with pytest.raises(JobFailed) as failed:
            await engine.worker.run(b"\xa1\x61x\x01", 1, 1, Heard().emit, Heard().counted)
        assert failed.value.code is FailureCode.REQUEST_UNSUPPORTED
        await ask(engine, job("a"))


async def test_of_a_text_of_megabytes_only_a_beginning_is_read(model: Path) -> None:
    text = "ab cd " * 1_000_000
    async with tiny(model) as engine:
        process = psutil.Process(engine.worker.pid)
        busy_s = sum(process.cpu_times()[:2])
        heard, usage = await ask(engine, job(text))
        assert same(heard.vectors, [text[:1000]])
        assert usage.in_units == CONTEXT
        failed = await refused(engine, job(text, truncate=False))
        assert 0.9 * 4_000_000 < failed.actual < 1.1 * 4_000_000  # a guess
        assert sum(process.cpu_times()[:2]) - busy_s < 2


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV])
async def test_a_worker_that_dies_fails_its_jobs_and_comes_back(
    slow_model: Path, number: signal.Signals, caplog: pytest.LogCaptureFixture
) -> None:
    changes: list[bool] = []
    async with tiny(slow_model) as engine:
        engine.on_change(lambda: changes.append(engine.ready))
        dead = engine.worker.pid
        assert dead is not None

        async def kill(piece: Piece) -> None:
            await trio.lowlevel.checkpoint()
            if engine.worker.pid == dead:
                os.kill(dead, number)

        with pytest.raises(JobFailed) as failed, trio.fail_after(PATIENCE_S):
            await engine.run(job(*["abcd " * 100] * 500), 1, 500, kill, Heard().counted)
        assert failed.value.code is FailureCode.ENGINE_DIED
        assert not engine.ready
        heard, _ = await ask(engine, job("abc"))  # waits for the new worker
        assert same(heard.vectors, ["abc"], LONG)
        assert engine.worker.pid != dead
    assert changes[:2] == [False, True]
    assert f"killed by {number.name}" in caplog.text


async def test_the_worker_leaves_with_its_engine_in_the_middle_of_a_pack(slow_model: Path) -> None:
    async with tiny(slow_model) as engine, trio.open_nursery() as nursery:
        process = psutil.Process(engine.worker.pid)
        nursery.start_soon(ask, engine, job("abcd " * LONG))
        await wait_all_tasks_blocked(0.2)
        nursery.cancel_scope.cancel()
    assert not process.is_running()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"pooling": gguf.PoolingType.RANK}, "it ranks texts"),
        ({"context": 2}, "no room for a text"),
    ],
)
async def test_a_model_that_gives_no_vectors_is_told(tmp_path: Path, options: dict[str, object], why: str) -> None:
    path = write_tiny_bert(tmp_path / "odd.gguf", **options)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=f"tiny cannot be loaded: .*{why}"):
        async with tiny(path):
            pass


async def test_a_chat_model_is_told_to_give_no_vectors(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "chat.gguf")
    with pytest.raises(SettingsError, match="does not say how a text becomes one vector"):
        async with tiny(path):
            pass


@pytest.mark.parametrize("pooling", [gguf.PoolingType.NONE, None])
async def test_an_encoder_that_does_not_say_how_takes_the_mean(
    tmp_path: Path, pooling: gguf.PoolingType | None
) -> None:
    async with tiny(write_tiny_bert(tmp_path / "silent.gguf", pooling=pooling)) as engine:
        heard, _ = await ask(engine, job("abc", "b"))
    assert same(heard.vectors, ["abc", "b"])


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a model at all" * 100])
async def test_a_file_that_is_no_model_is_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=r"tiny cannot be loaded: .*broken\.gguf.*is it a GGUF file"):
        async with tiny(path):
            pass


@pytest.fixture
def truncated(model: Path, tmp_path: Path) -> Path:
    path = tmp_path / "short.gguf"
    path.write_bytes(model.read_bytes()[:-1000])
    return path


async def test_a_truncated_model_is_told(truncated: Path) -> None:
    with pytest.raises(SettingsError, match="tiny cannot be loaded"):
        async with tiny(truncated):
            pass


@pytest.mark.parametrize("pooling", [gguf.PoolingType.CLS, gguf.PoolingType.LAST])
async def test_other_poolings_take_one_token_for_the_text(tmp_path: Path, pooling: gguf.PoolingType) -> None:
    path = write_tiny_bert(tmp_path / "pooled.gguf", pooling=pooling)
    token = {gguf.PoolingType.CLS: 2, gguf.PoolingType.LAST: 3}[pooling]
    expected = np.eye(WIDTH)[token] - 1 / WIDTH
    async with tiny(path) as engine:
        heard, _ = await ask(engine, job("abc", "b"))
    assert np.allclose(heard.vectors, expected / np.linalg.norm(expected), atol=1e-3)
