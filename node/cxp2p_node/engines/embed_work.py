"""The jobs of an embedding worker, and what its encoders compute of them. Safe to use from several threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from cxp2p.records import FailureCode, Finish, Piece
from cxp2p_node.engines.embed_encoder import Encoder, Vector
from cxp2p_node.engines.frames import Alive, Counted, Credit, Done, Failed, Made, Message, Start, Stop, pack
from cxp2p_node.engines.packs import Packs, Pick

THREAD_UNITS = 4  # a lone pack gets a thread for so many tokens; more would only wait for each other
PIECE_BYTES = 8 * 1024  # vectors leave in pieces of about this size,
PIECE_S = 0.25  # or after this time
PIECE_BYTES_MAX = 32 * 1024  # half a frame of the network
STUCK_S = 120.0  # so long for one pack is of no use: there is no beat any more, and the node ends this process


@dataclass(slots=True, eq=False)
class Job:
    """A job whose inputs are read. The first `whole` vectors are done without a gap, the first `sent` are gone."""

    number: int
    inputs: Sequence[Sequence[int]]
    credit: int
    finish: Finish
    sent_at: float
    vectors: list[bytes | None]
    whole: int = 0
    sent: int = 0

    def put(self, place: int, vector: bytes) -> None:
        self.vectors[place] = vector
        while self.whole < len(self.vectors) and self.vectors[self.whole] is not None:
            self.whole += 1

    @property
    def done(self) -> bool:
        return self.whole == len(self.vectors)

    def piece(self) -> Piece:
        """The next vectors that are done, as many as a piece takes."""
        data = bytearray()
        count = 0
        for vector in self.vectors[self.sent : self.whole]:
            assert vector is not None
            if count and len(data) + len(vector) > PIECE_BYTES_MAX:
                break
            data += vector
            count += 1
        self.vectors[self.sent : self.sent + count] = [b""] * count
        self.sent += count
        return Piece(data=bytes(data), units=count)

    def pending_bytes(self) -> int:
        return sum(len(vector or b"") for vector in self.vectors[self.sent : self.whole])


@dataclass(slots=True, eq=False)
class Runner:
    """An encoder, its share of the threads, and what it computes now. `wide`: it has the threads of the others too."""

    encoder: Encoder
    threads: int
    picks: Sequence[Pick] = ()
    wide: bool = False
    begun_at: float = 0.0


class Work:
    """What is to be done, and who does it."""

    def __init__(self, runners: Sequence[Runner], packs: Packs, out: BinaryIO) -> None:
        self._runners = runners
        self._threads = sum(runner.threads for runner in runners)
        self._packs = packs
        self._out = out
        self._read: set[int] = set()  # jobs that are being read
        self._jobs: dict[int, Job] = {}
        self._change = threading.Condition()

    # Jobs, as the node has them.

    def expect(self, number: int) -> None:
        """A job has come, and its inputs will be read."""
        with self._change:
            self._read.add(number)

    def wanted(self, number: int) -> bool:
        """Whether a job that is being read was not stopped meanwhile."""
        with self._change:
            return number in self._read

    def enter(self, start: Start, inputs: Sequence[Sequence[int]], finish: Finish) -> None:
        """A job's inputs are read: it is in the queue now. `finish` is how it will have ended."""
        with self._change:
            if start.job not in self._read:
                return
            self._read.discard(start.job)
            unmade: list[bytes | None] = [None] * len(inputs)
            self._jobs[start.job] = Job(start.job, inputs, start.credit, finish, time.monotonic(), unmade)
            sizes = [len(tokens) for tokens in inputs]
            self._packs.add(start.job, sizes)
            self._say(Counted(job=start.job, in_units=sum(sizes), cached_units=0))
            self._out.flush()
            self._change.notify_all()

    def refuse(self, failed: Failed) -> None:
        """A job that was read cannot be done."""
        with self._change:
            if failed.job in self._read:
                self._read.discard(failed.job)
                self._say(failed)
                self._out.flush()

    def hear(self, message: Message) -> None:
        """What the node says of a job that it has started."""
        with self._change:
            match message:
                case Credit(job=number, pieces=pieces) if number in self._jobs:
                    self._jobs[number].credit += pieces
                    self._send(self._jobs[number])
                    self._out.flush()
                    self._change.notify_all()
                case Stop(job=number):
                    self._read.discard(number)
                    self._leave(number)

    def beat(self) -> None:
        """Tells the node that nothing hangs here, if so."""
        with self._change:
            now = time.monotonic()
            if all(not runner.picks or now - runner.begun_at < STUCK_S for runner in self._runners):
                self._say(Alive())
                self._out.flush()

    # Computing.

    def run(self, runner: Runner) -> None:
        """Computes one pack after another, for ever; in a thread of its own."""
        while True:
            with self._change:
                inputs, threads, unwanted = self._begin(runner)
            vectors = runner.encoder.embed(inputs, threads, unwanted)
            if vectors is not None and len(vectors) > 1 and not all(vector.any() for vector in vectors):
                # One input that is too much for the model spoils those beside it: find out which.
                vectors = [each for one in inputs for each in runner.encoder.embed([one], threads, None) or ()]
            with self._change:
                self._end(runner, vectors)

    def _begin(self, runner: Runner) -> tuple[list[Sequence[int]], int, Callable[[], bool] | None]:
        """Waits for a pack; its inputs, how many threads it gets, and how to know that it is not wanted any more."""
        while not (picks := self._take(runner)):
            self._change.wait()
        units = sum(pick.units for pick in picks)
        threads = runner.threads
        if self._packs.empty and not any(other.picks for other in self._runners):
            threads = max(threads, min(self._threads, units // THREAD_UNITS))
        runner.picks, runner.wide, runner.begun_at = picks, threads > runner.threads, time.monotonic()

        def unwanted() -> bool:
            return not any(pick.job in self._jobs for pick in picks)

        if not self._packs.empty:
            self._change.notify_all()  # the next runner's turn
        inputs = [self._jobs[pick.job].inputs[pick.place] for pick in picks]
        return inputs, threads, unwanted if units > self._packs.goal else None

    def _take(self, runner: Runner) -> Sequence[Pick]:
        """A pack for a runner; none while another one has all threads, or while one before it has nothing to do."""
        before = self._runners[: self._runners.index(runner)]
        if any(other.wide for other in self._runners) or not all(other.picks for other in before):
            return ()
        return self._packs.take(runner.encoder.units_max)

    def _end(self, runner: Runner, vectors: Sequence[Vector] | None) -> None:
        picks = runner.picks
        if vectors is not None:
            self._packs.done(sum(pick.units for pick in picks), time.monotonic() - runner.begun_at)
        runner.picks, runner.wide = (), False
        for pick, vector in zip(picks, vectors or (), strict=vectors is not None):
            job = self._jobs.get(pick.job)
            if job is None:
                continue
            if vector.any():
                job.put(pick.place, vector.astype("<f4").tobytes())
            else:
                reason = f"the model gave no vector for inputs[{pick.place}]"
                self._say(Failed(job=job.number, code=FailureCode.INTERNAL, reason=reason, limit=0, actual=0))
                self._leave(job.number)
        for number in {pick.job: None for pick in picks}:
            if number in self._jobs:
                self._send(self._jobs[number])
        self._out.flush()
        self._change.notify_all()

    # Speaking.

    def _send(self, job: Job) -> None:
        """Sends what is worth a piece. Without credit it waits, and the job with it: a slow reader holds up itself."""
        now = time.monotonic()
        while job.credit > 0 and (pending := job.pending_bytes()):
            if not (job.done or pending >= PIECE_BYTES or now - job.sent_at >= PIECE_S):
                break
            self._say(Made(job=job.number, piece=job.piece()))
            job.credit -= 1
            job.sent_at = now
        if job.sent == len(job.vectors):
            self._say(Done(job=job.number, finish=job.finish))
            self._leave(job.number)
        else:
            self._packs.pause(job.number, job.credit <= 0)

    def _leave(self, number: int) -> None:
        self._jobs.pop(number, None)
        self._packs.drop(number)

    def _say(self, message: Message) -> None:
        self._out.write(pack(message))
