"""A node that works for one asker until it is killed: `python dying_node.py FILE ROUND [POINT TIMES]`.

FILE holds its papers. What the asker hears is said on standard output as it is heard: `asked ORDER`, `accepted LANE`,
`units LANE COUNT`, `receipt ENVELOPE`, `agreed LANE`, in hex. With a POINT the process kills itself when it has come
there so many times.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import trio

from cxp2p.errors import CxError
from cxp2p.identity import Identity, Kind, identity_from_seed, open_envelope
from cxp2p.net.memory import MemoryNetwork
from cxp2p.net.pump import Conversation, converse
from cxp2p.receipts import Lane, Terms, digest, make_order, request_commit
from cxp2p.records import (
    Accepted,
    Ask,
    Cancel,
    Countersign,
    CountersignSent,
    Finish,
    Job,
    Order,
    Piece,
    Receipt,
    ReceiptSent,
    Usage,
    Verdict,
    VoucherSent,
)
from cxp2p.vouchers import due, make_voucher
from cxp2p.wire import decode, encode
from cxp2p_node.app import run_node
from cxp2p_node.engines import Counted, Emit
from cxp2p_node.papers.sqlite import SqlitePapers, open_papers
from worlds import ScriptedEngine, World, capability, chat_job, world

NODE = identity_from_seed(b"n" * 32)
ASKER = identity_from_seed(b"g" * 32)
REQUEST = encode(chat_job("go"))
SALT = b"s" * 16
CALLS = ("take", "vouch", "finish", "lose", "settle")
POINTS = (*(f"{when} {call}" for call in CALLS for when in ("before", "after")), "before commit", "receipt sealed")
LONG, SHORT = 9_000, 300  # the long ones need vouchers
AT_ONCE = 4
JOBS_MAX = 400


def say(*words: object) -> None:
    """Said before anything else happens, whatever happens then."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


@dataclass
class Death:
    """Where this process ends."""

    point: str = ""
    times: int = 0

    def come(self, point: str) -> None:
        if point == self.point:
            self.times -= 1
            if self.times == 0:
                os.kill(os.getpid(), signal.SIGKILL)


class DyingPapers:
    """The papers on disk, of a process that may end before or after each call."""

    def __init__(self, papers: SqlitePapers, death: Death) -> None:
        self._papers = papers
        self._death = death

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._papers, name)
        if name not in CALLS:
            return call

        async def dying(*arguments: Any) -> Any:
            self._death.come(f"before {name}")
            value = await call(*arguments)
            self._death.come(f"after {name}")
            return value

        return dying


class DyingIdentity(Identity):
    """Signs, and may die with a receipt that nobody has seen."""

    death = Death()

    def seal(self, kind: Kind, body: bytes) -> bytes:
        envelope = super().seal(kind, body)
        if kind is Kind.RECEIPT:
            self.death.come("receipt sealed")
        return envelope


@dataclass
class FastEngine(ScriptedEngine):
    """Makes as many tokens as were ordered, 500 in each piece; every ninth job fails."""

    context_units: int = 65_536
    output_units_max: int = 65_536
    slots: int = AT_ONCE
    runs: list[int] = field(default_factory=list)

    async def run(self, job: Job, seed: int, max_out: int, emit: Emit, counted: Counted) -> Usage:
        self.started += 1
        number = self.started
        counted(1, 0)
        for start in range(0, max_out, 500):
            ids = tuple(range(start, min(max_out, start + 500)))
            if number % 9 == 0 and start:
                raise self.fault
            await emit(Piece(text="x", token_ids=ids))
        return Usage(in_units=1, cached_units=0, out_units=max_out, finish=Finish.LENGTH)


@dataclass
class HandAsker:
    """Orders in its lanes, sends vouchers, and agrees to most receipts."""

    here: World
    network: MemoryNetwork
    turn: int
    rng: Random
    jobs: int = 0

    async def work(self, number: int) -> None:
        """One lane: its jobs, one after another, until it breaks; then a new one."""
        lane = self._lane(number)
        while self.jobs < JOBS_MAX:
            self.jobs += 1
            try:
                with trio.fail_after(10):
                    after = await self._job(lane)
            except (CxError, trio.TooSlowError):
                after = None
            lane = after or self._lane(number)

    def _lane(self, number: int) -> Lane:
        return Lane(lane=bytes([self.turn, number]) + self.rng.randbytes(14))

    async def _job(self, lane: Lane) -> Lane | None:
        terms = Terms(
            gateway=ASKER.peer,
            node=NODE.peer,
            capability=capability(),
            request_commit=request_commit(SALT, REQUEST),
            max_in=100,
            max_out=self.rng.choice([LONG, SHORT, SHORT]),
            seed=1,
        )
        order = make_order(terms, lane, self.rng.randbytes(16), self.here.wall_ms())
        envelope = ASKER.seal(Kind.ORDER, encode(order))
        async with converse(self.network, NODE.peer) as talk:
            say("asked", envelope.hex())
            await talk.say(Ask(order=envelope, salt=SALT, request=REQUEST))
            receipt = await self._hear(talk, order, lane)
            if receipt is None:
                return None
            if self.rng.random() < 0.1:  # leaves without an answer
                return None
            await self._agree(talk, receipt)
            charge = decode(Receipt, open_envelope(Kind.RECEIPT, receipt).body).charge
            return Lane(lane=lane.lane, seq=lane.seq + 1, head=digest(receipt), cum_charge=lane.cum_charge + charge)

    async def _hear(self, talk: Conversation, order: Order, lane: Lane) -> bytes | None:
        units, said, cancels = 0, 0, self.rng.random() < 0.1
        while True:
            match await talk.hear():
                case Accepted():
                    say("accepted", order.lane.hex(), order.seq)
                case Piece(token_ids=token_ids):
                    units += len(token_ids)
                    say("units", order.lane.hex(), order.seq, units)
                    if cancels:
                        cancels = False
                        await talk.say(Cancel())
                        said = 10**9
                    if due(order.service, units) > said:
                        said = units
                        voucher = encode(make_voucher(order, lane.cum_charge, units))
                        await talk.say(VoucherSent(envelope=ASKER.seal(Kind.VOUCHER, voucher)))
                case ReceiptSent(envelope=envelope):
                    say("receipt", envelope.hex())
                    return envelope
                case _:
                    return None

    async def _agree(self, talk: Conversation, envelope: bytes) -> None:
        receipt = decode(Receipt, open_envelope(Kind.RECEIPT, envelope).body)
        agreed = Countersign(
            receipt_hash=digest(envelope),
            verdict=Verdict.ACCEPTED,
            reason="",
            in_units=receipt.in_units,
            out_units=receipt.out_units,
            charge=receipt.charge,
        )
        await talk.say(CountersignSent(envelope=ASKER.seal(Kind.COUNTERSIGN, encode(agreed))))


def die_in_commits(connection: sqlite3.Connection, death: Death) -> None:
    """Has the thread of the papers end this process when it is about to commit."""
    connection.set_trace_callback(lambda words: death.come("before commit") if words == "COMMIT" else None)


async def main(path: Path, turn: int, death: Death) -> None:
    identity = DyingIdentity(NODE.key_pair)
    identity.death = death
    async with world(latency_s=0.0) as here:
        papers = await here.stack.enter_async_context(open_papers(path))
        await papers.writer.do(lambda connection: die_in_commits(connection, death))
        network = await here.peer(identity)
        await here.stack.enter_async_context(
            run_node(
                identity,
                network,
                (FastEngine(),),
                wall_ms=here.wall_ms,
                rng=Random(turn),
                exposure_max=10**9,
                papers=DyingPapers(papers, death),  # it has all that the papers have
            )
        )
        asking = await here.peer(ASKER)
        await asking.connect(network.addresses[0])
        asker = HandAsker(here, asking, turn, Random(turn))
        async with trio.open_nursery() as nursery:
            for number in range(AT_ONCE):
                nursery.start_soon(asker.work, number)


if __name__ == "__main__":
    where, round_, *point = sys.argv[1:]
    trio.run(main, Path(where), int(round_), Death(point[0], int(point[1])) if point else Death())
