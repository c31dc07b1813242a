"""No model: says the last message back, word by word. For first runs, tests and simulations."""

from __future__ import annotations

import re
from collections.abc import Callable
from hashlib import sha256

import trio

from cxp2p.records import Capability, ChatJob, Finish, Job, Load, Piece, Prices, Service, Usage
from cxp2p_node.engines import Counted, Emit
from cxp2p_node.engines.text import TextFilter

CONTEXT_UNITS = 4096
WORD = re.compile(r"\s*\S+|\s+$")


class Echo:
    """The engine. A token is a word with the space before it, and its id is its number in the answer."""

    ready = True

    def __init__(
        self, model: str, prices: Prices, *, slots: int = 4, queue_max: int = 32, units_per_s: float = 200.0
    ) -> None:
        self._model = model
        self._prices = prices
        self._slots = slots
        self._queue_max = queue_max
        self._pause_s = 1 / units_per_s

    def on_change(self, call: Callable[[], None]) -> None:
        """Nothing here ever changes."""

    def describe(self) -> Capability:
        return Capability(
            service=Service.CHAT,
            model=self._model,
            model_digest=sha256(b"cxp2p echo 1").digest(),
            runtime="echo 1",
            context_units=CONTEXT_UNITS,
            output_units_max=CONTEXT_UNITS,
            prices=self._prices,
            slots=self._slots,
            queue_max=self._queue_max,
            load=Load(running=0, queued=0, first_piece_ms=0, units_per_s=0, loading_ms=0),
        )

    async def run(self, job: Job, seed: int, max_out: int, emit: Emit, counted: Counted) -> Usage:
        assert isinstance(job, ChatJob)  # no other service is described
        in_units = sum(len(WORD.findall(message.content)) for message in job.messages)
        counted(in_units, 0)
        text = TextFilter(job.stop)
        out_units = 0
        pending: list[int] = []
        finish = Finish.STOP
        for number, word in enumerate(WORD.findall(job.messages[-1].content)):
            if out_units + len(pending) >= max_out:
                finish = Finish.LENGTH
                break
            await trio.sleep(self._pause_s)
            pending.append(number)
            said = text.feed(word.encode(errors="replace"))
            if text.whole or text.stopped:
                await emit(Piece(text=said, token_ids=tuple(pending)))
                out_units += len(pending)
                pending = []
            elif said:
                await emit(Piece(text=said, token_ids=()))
            if text.stopped:
                break
        if pending:
            await emit(Piece(text=text.end(), token_ids=tuple(pending)))
            out_units += len(pending)
        return Usage(in_units=in_units, cached_units=0, out_units=out_units, finish=finish)
