"""The twin of the papers on disk: for tests, where it outlives a node that is killed, and without a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import trio

from cxp2p.exposure import DISPUTE_MS, SILENCE_MS
from cxp2p.records import Receipt
from cxp2p_node.papers import (
    ANY,
    LANES_MAX,
    NEVER_MS,
    OVER,
    OWED_MAX,
    UNANSWERED,
    Answer,
    Dropped,
    Kept,
    LaneKept,
    OwedKept,
    Paper,
    PapersError,
    State,
    Sums,
    receipted,
)
from cxp2p_node.papers.memory_epochs import MemoryEpochPapers


class MemoryPapers(MemoryEpochPapers):
    """Papers in a dict, in the order in which they came. It is bounded by `drop`, as the one on disk is."""

    def __init__(self) -> None:
        super().__init__()

    async def start(self, wall_ms: int) -> Kept:
        await trio.lowlevel.checkpoint()
        for key, paper in self._papers.items():
            if paper.state is State.OPEN:
                self._papers[key] = replace(paper, state=State.LOST)
        lanes: dict[tuple[str, bytes], LaneKept] = {}
        for paper in self._papers.values():
            lanes.pop((paper.gateway, paper.lane), None)
            lanes[paper.gateway, paper.lane] = _lane(paper)
        owed = [_owed(paper) for paper in self._papers.values() if _weighs(paper, wall_ms)]
        return Kept(list(lanes.values())[-LANES_MAX:], owed[-OWED_MAX:])

    async def take(self, paper: Paper) -> None:
        await trio.lowlevel.checkpoint()
        key = _key(paper)
        if key in self._papers:
            raise PapersError(f"seq {paper.seq} of this lane is used already")
        self._papers[key] = paper

    async def vouch(self, paper: Paper, envelope: bytes, vouched: int) -> None:
        await trio.lowlevel.checkpoint()
        self._change_open(paper, voucher_envelope=envelope, vouched=vouched)

    async def finish(self, paper: Paper, receipt: Receipt, envelope: bytes, wall_ms: int) -> None:
        await trio.lowlevel.checkpoint()
        self._change_open(paper, **receipted(receipt, envelope, wall_ms))

    async def lose(self, paper: Paper) -> None:
        await trio.lowlevel.checkpoint()
        self._change_open(paper, state=State.LOST)

    async def settle(self, paper: Paper, answer: Answer) -> bool:
        await trio.lowlevel.checkpoint()
        kept = self._papers.get(_key(paper))
        if kept is None or kept.receipt_envelope is None or kept.countersign_envelope is not None:
            return False
        changed = replace(kept, state=answer.state, agreed=answer.agreed, note=answer.note)
        self._papers[_key(paper)] = replace(changed, countersign_envelope=answer.envelope)
        return True

    async def put_off(self, paper: Paper, claim_at_ms: int, note: str) -> None:
        await trio.lowlevel.checkpoint()
        kept = self._papers.get(_key(paper))
        if kept is not None and kept.state is State.CLAIMED:
            state = State.REFUSED if claim_at_ms == NEVER_MS else State.CLAIMED
            self._papers[_key(paper)] = replace(kept, state=state, claim_at_ms=claim_at_ms, note=note)

    async def forgive(self, gateway: str, receipt_hash: bytes) -> None:
        await trio.lowlevel.checkpoint()
        for key, paper in self._papers.items():
            if (paper.gateway, paper.receipt_hash) == (gateway, receipt_hash):
                self._papers[key] = replace(paper, forgiven=True)

    async def claims(self, gateways: Sequence[str], wall_ms: int, limit: int) -> Sequence[Paper]:
        await trio.lowlevel.checkpoint()
        due = [
            paper
            for paper in self._papers.values()
            if paper.state is State.CLAIMED
            and paper.gateway in gateways
            and paper.claim_at_ms <= wall_ms
            and paper.ended_at_ms <= wall_ms - SILENCE_MS
        ]
        return due[:limit]

    async def drop(self, before_ms: int, kept_max: int, step: int) -> Dropped:
        await trio.lowlevel.checkpoint()
        papers = [paper for paper in self._papers.values() if paper.state is not State.OPEN]
        old = [paper for paper in papers if paper.taken_at_ms < before_ms][:step]
        if not old:
            ranked = sorted(papers, key=lambda paper: paper.state not in OVER)
            old = ranked[: min(step, max(0, len(self._papers) - kept_max))]
        for paper in old:
            del self._papers[_key(paper)]
        owed = [(paper.gateway, paper.receipt_hash) for paper in old if paper.state in UNANSWERED]
        return Dropped(len(old), [(gateway, key) for gateway, key in owed if key is not None])

    async def newest(self, limit: int, offset: int = 0, states: frozenset[State] = ANY) -> Sequence[Paper]:
        await trio.lowlevel.checkpoint()
        return [paper for paper in reversed(self._papers.values()) if paper.state in states][offset : offset + limit]

    async def sums(self) -> dict[State, Sums]:
        await trio.lowlevel.checkpoint()
        found: dict[State, Sums] = {}
        for paper in self._papers.values():
            sums = found.get(paper.state, Sums(0, 0, 0))
            found[paper.state] = Sums(sums.count + 1, sums.charge + paper.charge, sums.agreed + paper.agreed)
        return found

    def _change_open(self, paper: Paper, **changes: object) -> None:
        kept = self._papers.get(_key(paper))
        if kept is None or kept.state is not State.OPEN:
            raise PapersError(f"no job runs for seq {paper.seq} of this lane")
        self._papers[_key(paper)] = replace(kept, **changes)  # type: ignore[arg-type]  # names of Paper's fields


def _lane(paper: Paper) -> LaneKept:
    return LaneKept(
        gateway=paper.gateway,
        lane=paper.lane,
        seq=paper.seq,
        state=paper.state,
        head=paper.receipt_hash,
        cum_charge=paper.cum_charge,
        replayable_until_ms=paper.replayable_until_ms,
    )


def _owed(paper: Paper) -> OwedKept:
    assert paper.receipt_hash is not None
    return OwedKept(
        gateway=paper.gateway,
        receipt_hash=paper.receipt_hash,
        amount=max(0, paper.charge - paper.vouched),
        since_ms=paper.ended_at_ms,
        disputed=paper.state is State.DISPUTED,
    )


def _weighs(paper: Paper, wall_ms: int) -> bool:
    if paper.state is State.DISPUTED:
        return paper.charge > 0 and not paper.forgiven and wall_ms - paper.ended_at_ms < DISPUTE_MS
    return paper.state in UNANSWERED


def _key(paper: Paper) -> tuple[str, bytes, int]:
    return paper.gateway, paper.lane, paper.seq
