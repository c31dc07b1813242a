"""The process that holds an embedding model: jobs in on standard input, vectors out on standard output.

Run by `engines.embed`, never by a person. It ends when standard input closes, whatever it is doing: an orphan must not
keep a model in memory. One thread listens, one makes tokens of texts, and each encoder has a thread of its own: on a
processor two encoders of one thread each do more than one of two, as nobody waits for the other.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, TypeAlias

import llama_cpp

from cxp2p.errors import JobFailed, RemoteProtocolError, one_line
from cxp2p.records import EmbedJob, FailureCode, Finish
from cxp2p.wire import decode
from cxp2p_node.engines.embed_encoder import TILE_UNITS
from cxp2p_node.engines.embed_inputs import Inputs
from cxp2p_node.engines.embed_model import EmbedModel
from cxp2p_node.engines.embed_work import Runner, Work
from cxp2p_node.engines.frames import Failed, Frames, Loaded, Start, Unfit, pack
from cxp2p_node.engines.llama_library import LoadError
from cxp2p_node.engines.packs import Packs
from cxp2p_node.engines.thread_faults import end_with_traceback

SLICE_S = 0.005  # how long one job's texts are read before it is another job's turn
SWITCH_S = 0.001  # an encoder that has finished waits no longer for the thread that reads
EXIT_UNFIT = 3
BEAT_S = 5.0

Inbox: TypeAlias = "queue.SimpleQueue[Start]"


class Reading:
    """Makes tokens of texts, in turns: a job of megabytes does not keep the others waiting."""

    def __init__(self, model: EmbedModel, work: Work, inbox: Inbox) -> None:
        self._model = model
        self._work = work
        self._inbox = inbox
        self._turns: list[tuple[Start, Inputs]] = []

    def run(self) -> None:
        beat_at = time.monotonic()
        while True:
            self._listen()
            self._turns = [(start, inputs) for start, inputs in self._turns if not self._read(start, inputs)]
            if time.monotonic() - beat_at >= BEAT_S:
                beat_at = time.monotonic()
                self._work.beat()

    def _listen(self) -> None:
        """Takes in new jobs; waits for one if there is nothing to read."""
        try:
            start = self._inbox.get(block=not self._turns, timeout=BEAT_S)
        except queue.Empty:
            return
        if not self._work.wanted(start.job):
            return
        try:
            job = decode(EmbedJob, start.request)
        except RemoteProtocolError as error:
            self._refuse(start, JobFailed(FailureCode.REQUEST_UNSUPPORTED, str(error)))
        else:
            self._turns.append((start, Inputs(job, start.max_out, self._model)))

    def _read(self, start: Start, inputs: Inputs) -> bool:
        """One turn of a job. True: it was the last one."""
        if not self._work.wanted(start.job):
            return True
        end = time.monotonic() + SLICE_S
        try:
            if not inputs.read(lambda: time.monotonic() >= end):
                return False
        except JobFailed as error:
            self._refuse(start, error)
        else:
            self._work.enter(start, inputs.tokens, Finish.STOP if inputs.all_wanted else Finish.LENGTH)
        return True

    def _refuse(self, start: Start, error: JobFailed) -> None:
        reason = error.reason[:512]
        self._work.refuse(Failed(job=start.job, code=error.code, reason=reason, limit=error.limit, actual=error.actual))


def listen(source: BinaryIO, work: Work, inbox: Inbox) -> None:
    """Reads commands until standard input closes, then ends the process, also in the middle of a pack."""
    frames = Frames()
    while data := os.read(source.fileno(), 1 << 16):
        for message in frames.feed(data):
            if isinstance(message, Start):
                work.expect(message.job)
                inbox.put(message)
            else:
                work.hear(message)
    os._exit(0)


def runners_of(model: EmbedModel, packs: Sequence[int], threads: int) -> list[Runner]:
    """The encoders, each tried out: the first pack is slow, and a file with a fault may end the process here."""
    share = max(1, threads // len(packs))
    runners = [Runner(model.encoder(units_max, share), share) for units_max in packs]
    tokens = [*model.marks[0], *model.tokenize("Hello"), *model.marks[1]]
    for runner in runners:
        for units in (1, min(TILE_UNITS, model.context_units)):
            runner.encoder.embed([(tokens * units or [0] * units)[:units]], runner.threads, None)
    return runners


def main() -> None:
    """`python -m cxp2p_node.engines.embed_worker '{"path": …, "context_units": …, "packs": […], …}'`."""
    settings = json.loads(sys.argv[1])
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # llama.cpp prints to standard output now and then; frames must stay alone
    sys.setswitchinterval(SWITCH_S)
    threading.excepthook = end_with_traceback
    try:
        model = EmbedModel(
            Path(settings["path"]), context_units=settings["context_units"], gpu_layers=settings["gpu_layers"]
        )
        runners = runners_of(model, settings["packs"], settings["threads"])
    except LoadError as error:
        out.write(pack(Unfit(reason=str(error)[:512])))
        out.flush()
        raise SystemExit(EXIT_UNFIT) from None
    runtime = f"llama.cpp {llama_cpp.__version__} {model.description()}"
    out.write(pack(Loaded(runtime=one_line(runtime, 128), context_units=model.context_units)))
    out.flush()
    inbox: Inbox = queue.SimpleQueue()
    work = Work(runners, Packs(min(settings["packs"])), out)
    for runner in runners:
        threading.Thread(target=work.run, args=(runner,), daemon=True).start()
    threading.Thread(target=listen, args=(sys.stdin.buffer, work, inbox), daemon=True).start()
    Reading(model, work, inbox).run()


if __name__ == "__main__":
    main()
