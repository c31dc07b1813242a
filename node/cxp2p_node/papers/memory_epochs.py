"""The part of `MemoryPapers` that keeps what is known of epochs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import trio

from cxp2p_node.papers import ASKED, OMITTED, ROOTS_MAX, WRONGS_MAX, Counted, KeptWrong, Paper, Sums


class MemoryEpochPapers:
    """Epochs in dicts, beside the papers."""

    def __init__(self) -> None:
        self._papers: dict[tuple[str, bytes, int], Paper] = {}
        self._roots: dict[tuple[str, int], bytes] = {}
        self._wrongs: dict[str, KeptWrong] = {}

    async def uncounted(self, gateway: str, before_ms: int, limit: int, offset: int = 0) -> Sequence[Paper]:
        await trio.lowlevel.checkpoint()
        found = [
            paper
            for paper in self._papers.values()
            if paper.countersign_envelope is not None
            and paper.counted_in in (None, ASKED)
            and paper.gateway == gateway
            and paper.ended_at_ms < before_ms
        ]
        return sorted(found, key=lambda paper: paper.ended_at_ms)[offset : offset + limit]

    async def count(self, paper: Paper, counted_in: int) -> None:
        await trio.lowlevel.checkpoint()
        key = (paper.gateway, paper.lane, paper.seq)
        if key in self._papers:
            self._papers[key] = replace(self._papers[key], counted_in=counted_in)

    async def keep_root(self, gateway: str, epoch: int, envelope: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        kept = self._roots.setdefault((gateway, epoch), envelope)
        if len(self._roots) > ROOTS_MAX:
            del self._roots[next(iter(self._roots))]
        return kept

    async def root(self, gateway: str, epoch: int | None) -> bytes | None:
        await trio.lowlevel.checkpoint()
        if epoch is None:
            epoch = max((number for name, number in self._roots if name == gateway), default=-1)
        return self._roots.get((gateway, epoch))

    async def accuse(self, wrong: KeptWrong) -> None:
        await trio.lowlevel.checkpoint()
        self._wrongs.setdefault(wrong.id, wrong)
        for each in sorted(self._wrongs.values(), key=lambda kept: (-kept.at_ms, kept.id))[WRONGS_MAX:]:
            del self._wrongs[each.id]

    async def wrongs(self) -> Sequence[KeptWrong]:
        await trio.lowlevel.checkpoint()
        return sorted(self._wrongs.values(), key=lambda kept: (-kept.at_ms, kept.id))

    async def counted(self, released_before: int) -> dict[Counted, Sums]:
        await trio.lowlevel.checkpoint()
        found: dict[Counted, Sums] = {}
        for paper in self._papers.values():
            if paper.countersign_envelope is None:
                continue
            where = standing(paper.counted_in, released_before)
            sums = found.get(where, Sums(0, 0, 0))
            found[where] = Sums(sums.count + 1, sums.charge + paper.charge, sums.agreed + paper.agreed)
        return found


def standing(counted_in: int | None, released_before: int) -> Counted:
    """Where what was countersigned stands."""
    if counted_in in (None, ASKED):
        return Counted.WAITING
    if counted_in == OMITTED:
        return Counted.OMITTED
    assert counted_in is not None
    return Counted.RELEASED if counted_in < released_before else Counted.HELD
