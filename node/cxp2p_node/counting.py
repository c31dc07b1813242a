"""Whether what was countersigned counts: after an epoch a node asks its gateway for the proof of each of its receipts.

Roots are compared with what others have: two of one epoch convict their gateway. A receipt that no root counts is
asked for until it may count for none any more; then that it was left out is kept as evidence.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Final

import trio

from cxp2p import protocols
from cxp2p.epoch_files import Pair, read_epoch
from cxp2p.epoch_frames import AbsentCode
from cxp2p.epochs import Entry, check_inclusion, open_entry, open_receipt, open_root
from cxp2p.errors import CxError, EpochInvalid, PeerUnreachable, RemoteProtocolError, one_line
from cxp2p.evidence import Evidence, check_evidence, omission, two_roots
from cxp2p.merkle import SumTree
from cxp2p.net import Network
from cxp2p.net.epochs import Absent, ask_epoch, ask_inclusion, ask_root
from cxp2p.receipts import Calendar, digest
from cxp2p.wire import encode
from cxp2p_node.papers import ASKED, OMITTED, EpochPapers, KeptWrong, Paper, PapersError

log = logging.getLogger("cxp2p.node.counting")

COUNT_INTERVAL_S: Final = 60.0
ASKED_MAX: Final = 64  # receipts that are read from disk at once
LATER_MAX: Final = 10_000
WITNESSES_MAX: Final = 3  # other peers that are asked for a root that is new here
EVIDENCE_BYTES_MAX: Final = 64 * 1024 * 1024  # of an epoch that is read to show what it leaves out: 50,000 receipts


class Counting:
    """Asks the gateways that are connected, round after round."""

    def __init__(
        self,
        network: Network,
        papers: EpochPapers,
        calendar: Calendar,
        wall_ms: Callable[[], int],
        interval_s: float = COUNT_INTERVAL_S,
    ) -> None:
        self._network = network
        self._papers = papers
        self._calendar = calendar
        self._wall_ms = wall_ms
        self._later: dict[bytes, float] = {}  # receipts that are not asked for again before
        self._interval_s = min(interval_s, calendar.epoch_ms / 4000)

    async def run(self) -> None:
        """Never returns."""
        while True:
            await trio.sleep(self._interval_s)
            try:
                await self.round()
            except PapersError as error:
                log.error("nothing is known of epochs: %s", error)

    async def round(self) -> None:
        """Asks for what should be counted by now, each gateway that is connected. Raises PapersError."""
        open_epoch = self._calendar.epoch_of(max(0, self._wall_ms() - self._calendar.grace_ms))
        before_ms = self._calendar.begins_at_ms(open_epoch)
        self._later = {name: at for name, at in self._later.items() if at > trio.current_time()}
        for gateway in self._network.connected():
            try:
                await self._count_all(gateway, before_ms)
            except PapersError:
                raise
            except (CxError, trio.TooSlowError) as error:
                log.info("%s does not prove what it counts: %s", gateway, error)

    async def _count_all(self, gateway: str, before_ms: int) -> None:
        """Page by page; those that no root counts stay where they are, and are passed over."""
        passed = 0
        while papers := await self._papers.uncounted(gateway, before_ms, ASKED_MAX, passed):
            for paper in papers:
                if paper.receipt_hash in self._later:
                    passed += 1
                    continue
                told = await self._count(paper)
                if told is None:
                    return
                if not told and paper.receipt_hash is not None and len(self._later) < LATER_MAX:
                    self._later[paper.receipt_hash] = trio.current_time() + self._calendar.epoch_ms / 4000
                passed += not told

    async def _count(self, paper: Paper) -> bool | None:
        """Asks for one proof: whether it is settled now where it stands; None: the gateway has no time.

        What is no proof of it is none. Raises PeerUnreachable.
        """
        assert paper.receipt_envelope is not None
        assert paper.countersign_envelope is not None
        try:
            inclusion = await ask_inclusion(self._network, paper.gateway, digest(paper.receipt_envelope))
            root, entry = check_inclusion(inclusion)
            told = (entry.receipt_envelope, entry.countersign_envelope)
            if root.gateway != paper.gateway or told != (paper.receipt_envelope, paper.countersign_envelope):
                raise EpochInvalid("the proof is of something else", inclusion.root)
        except Absent as error:
            if error.code is AbsentCode.BUSY:
                await self._note_asked(paper)
                return None
            return await self._uncounted(paper, str(error))
        except PeerUnreachable:
            await self._note_asked(paper)
            raise
        except RemoteProtocolError as error:
            return await self._uncounted(paper, one_line(str(error)))
        await self._see_root(root.gateway, root.epoch, inclusion.root)
        await self._papers.count(paper, root.epoch)
        return True

    # Two roots.

    async def _see_root(self, gateway: str, epoch: int, envelope: bytes) -> None:
        """Compares a root with the one that was seen first, and a new one with what others have seen."""
        is_new = await self._papers.root(gateway, epoch) is None
        kept = await self._papers.keep_root(gateway, epoch, envelope)
        others = [kept, *(await self._witnessed(gateway, epoch) if is_new else ())]
        for other in others:
            if open_root(other) != open_root(envelope):
                await self._accuse(two_roots(envelope, other))

    async def _witnessed(self, gateway: str, epoch: int) -> list[bytes]:
        """The root as the DHT has it, as the gateway tells it, and as a few other peers do."""
        found = list(await self._network.dht.get_roots(gateway, epoch))
        peers = [peer for peer in self._network.connected() if peer != gateway][:WITNESSES_MAX]
        for peer in (gateway, *peers):
            try:
                with trio.move_on_after(protocols.STREAM_OPEN_TIMEOUT_S):
                    found.append(await ask_root(self._network, peer, gateway, epoch))
            except CxError as error:
                log.debug("%s does not tell a root of %s: %s", peer, gateway, error)
        return found

    # What no root counts.

    async def _uncounted(self, paper: Paper, reason: str) -> bool:
        """A receipt may still count for a later root, for a day; then it is over, which is True.

        Only what was asked for meanwhile is evidence: what was countersigned later than that counts for no root.
        """
        assert paper.receipt_envelope is not None
        assert paper.countersign_envelope is not None
        entry = open_entry(paper.receipt_envelope, paper.countersign_envelope)
        last = entry.receipt.epoch + protocols.EPOCHS_LATE_MAX
        if self._wall_ms() < self._calendar.closes_at_ms(last):
            await self._note_asked(paper)
            log.info("%s counts receipt %s under no root yet: %s", paper.gateway, _name(entry), reason)
            return False
        log.warning("%s left receipt %s out of its roots: %s", paper.gateway, _name(entry), reason)
        for epoch in range(entry.receipt.epoch, last + 1) if paper.counted_in == ASKED else ():
            envelope, entries = await self._published(paper.gateway, epoch)
            if any(each.receipt_envelope == paper.receipt_envelope for each in entries):
                await self._papers.count(paper, epoch)  # it was not proven, and is there
                return True
            if envelope:
                tree = SumTree(each.leaf() for each in entries)
                await self._accuse(omission(envelope, entry, entries, tree))
                break
        await self._papers.count(paper, OMITTED)
        return True

    async def _note_asked(self, paper: Paper) -> None:
        """What was asked for while a countersign still counts was countersigned in time, whatever the answer is."""
        assert paper.receipt_envelope is not None
        epoch = open_receipt(paper.receipt_envelope).epoch
        ends_at_ms = self._calendar.begins_at_ms(epoch + 1) + self._calendar.late_ms
        if paper.counted_in is None and self._wall_ms() < ends_at_ms - protocols.CLOCK_SKEW_MS_MAX:
            await self._papers.count(paper, ASKED)

    async def _published(self, gateway: str, epoch: int) -> tuple[bytes, list[Entry]]:
        """A published epoch: its root and all that it counts; nothing, if it cannot be had."""
        try:
            envelope = await ask_root(self._network, gateway, gateway, epoch)
            chunks, size = [], 0
            async with aclosing(ask_epoch(self._network, gateway, gateway, epoch)) as file:
                async for chunk in file:
                    chunks.append(chunk)
                    size += len(chunk)
                    if size > EVIDENCE_BYTES_MAX:
                        return b"", []
            return envelope, await trio.to_thread.run_sync(lambda: list(read_epoch(chunks).entries))
        except CxError as error:
            log.debug("epoch %d of %s shows nothing: %s", epoch, gateway, error)
            return b"", []

    async def _accuse(self, evidence: Evidence) -> None:
        data = encode(evidence)
        accusation = check_evidence(data)
        log.error("%s %s; the evidence is kept: `cxp2p node earnings`", accusation.peer, accusation.says)
        await self._papers.accuse(
            KeptWrong(
                id=digest(data).hex(),
                peer=accusation.peer,
                wrong=str(accusation.wrong),
                says=accusation.says,
                data=data,
                at_ms=self._wall_ms(),
            )
        )


class SeenRoots:
    """The archive of a node: the roots that it has seen of its gateways, so that others can compare them."""

    def __init__(self, papers: EpochPapers) -> None:
        self._papers = papers

    async def root(self, gateway: str, epoch: int | None) -> bytes:
        envelope = await self._papers.root(gateway, epoch)
        if envelope is None:
            raise Absent(AbsentCode.UNKNOWN, "this root was not seen here")
        return envelope

    async def pairs(self, gateway: str, epoch: int) -> AsyncGenerator[Pair, None]:
        await trio.lowlevel.checkpoint()
        empty: Sequence[Pair] = ()
        for pair in empty:
            yield pair
        raise Absent(AbsentCode.UNKNOWN, "this peer keeps no receipts of others")

    async def inclusion(self, receipt_hash: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        raise Absent(AbsentCode.UNKNOWN, "this peer keeps no receipts of others")


def _name(entry: Entry) -> str:
    return entry.countersign.receipt_hash.hex()
