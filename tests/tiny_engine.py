"""The llama engine on a tiny model, and somebody who asks it."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path

import trio

from cxp2p.records import ChatJob, Message, Piece, Prices, Role, Sampling, Usage
from cxp2p_node.engines.llama import Llama, LlamaSettings, open_llama

PATIENCE_S = 60.0
GREEDY = Sampling(temperature=0)


def tiny(path: Path, *, slots: int = 2, context_units: int | None = None) -> AbstractAsyncContextManager[Llama]:
    return open_llama(
        LlamaSettings(
            model="tiny",
            path=path,
            model_digest=b"d" * 32,
            prices=Prices(input=1, output=1),
            slots=slots,
            queue_max=4,
            context_units=context_units,
            threads=1,
        )
    )


def job(
    text: str = "hello",
    *,
    stop: tuple[str, ...] = (),
    role: Role = Role.USER,
    system: str = "",
    salt: bytes = b"",
    sampling: Sampling = GREEDY,
) -> ChatJob:
    before = (Message(role=Role.SYSTEM, content=system),) if system else ()
    return ChatJob(
        model="tiny",
        messages=(*before, Message(role=role, content=text)),
        stop=stop,
        sampling=sampling,
        cache_salt=salt,
    )


class Heard:
    """What an asker got, and when."""

    def __init__(self) -> None:
        self.asked_at = trio.current_time()
        self.pieces: list[Piece] = []
        self.times: list[float] = []
        self.counts: list[tuple[int, int]] = []
        self.begun = trio.Event()

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)

    @property
    def token_ids(self) -> tuple[int, ...]:
        return tuple(token for piece in self.pieces for token in piece.token_ids)

    @property
    def cached(self) -> int:
        """How many tokens of the prompt were not computed for this job."""
        return self.counts[-1][1]

    @property
    def wait_s(self) -> float:
        """Until the first piece."""
        return self.times[0] - self.asked_at

    async def emit(self, piece: Piece) -> None:
        await trio.lowlevel.checkpoint()
        self.pieces.append(piece)
        self.times.append(trio.current_time())
        self.begun.set()

    def counted(self, in_units: int, cached_units: int) -> None:
        self.counts.append((in_units, cached_units))


async def ask(
    engine: Llama, asked: ChatJob, max_out: int = 100, seed: int = 1, patience_s: float = PATIENCE_S
) -> tuple[Heard, Usage]:
    heard = Heard()
    with trio.fail_after(patience_s):
        usage = await engine.run(asked, seed, max_out, heard.emit, heard.counted)
    return heard, usage


async def ask_all(engine: Llama, asked: list[ChatJob], max_out: int = 100) -> list[tuple[Heard, Usage]]:
    """All at the same moment."""
    answers: dict[int, tuple[Heard, Usage]] = {}

    async def one(number: int) -> None:
        answers[number] = await ask(engine, asked[number], max_out)

    async with trio.open_nursery() as nursery:
        for number in range(len(asked)):
            nursery.start_soon(one, number)
    return [answers[number] for number in range(len(asked))]
