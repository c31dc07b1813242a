"""Claims, from the node's side: receipts that nobody answered are offered to their gateways. /cxp2p/claim/1."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

import trio

from cxp2p import protocols
from cxp2p.errors import PeerUnreachable, ReceiptInvalid, RemoteProtocolError, one_line
from cxp2p.identity import Kind, open_envelope
from cxp2p.net import Network, Stream
from cxp2p.net.pump import RecordReader, send_record
from cxp2p.records import ClaimRefused, ClaimSent, CountersignSent, Order, Receipt
from cxp2p.wire import decode
from cxp2p_node.papers import NEVER_MS, Paper, PapersError
from cxp2p_node.till import Till

log = logging.getLogger("cxp2p.node.claims")

CLAIM_INTERVAL_S: Final = 10.0
CLAIMS_MAX: Final = 256  # in one round, of all gateways together: half a megabyte
AT_ONCE_MAX: Final = 8  # gateways; one that does not answer keeps its place for half a minute
PAUSE_S_MIN: Final = 60.0  # for a gateway that cannot be reached, or does not speak of claims; doubled each time
PAUSE_S_MAX: Final = 3600.0
RETRY_MS_MIN: Final = 10_000  # whatever a gateway says of coming back
RETRY_MS_MAX: Final = 86_400_000


class Claims:
    """Offers what is unanswered to the gateways that are connected, round after round."""

    def __init__(
        self, network: Network, till: Till, wall_ms: Callable[[], int], interval_s: float = CLAIM_INTERVAL_S
    ) -> None:
        self._network = network
        self._till = till
        self._wall_ms = wall_ms
        self._interval_s = interval_s
        self._pauses: dict[str, tuple[float, float]] = {}  # gateway -> not before, and how long the next pause is
        self._turns = trio.CapacityLimiter(AT_ONCE_MAX)

    async def run(self) -> None:
        """Never returns."""
        while True:
            await trio.sleep(self._interval_s)
            try:
                await self.round()
            except PapersError as error:
                log.error("nothing can be claimed: %s", error)

    async def round(self) -> None:
        """Claims what is due of every gateway that is connected now. Raises PapersError."""
        now = trio.current_time()
        connected = [peer for peer in self._network.connected() if self._pauses.get(peer, (0.0, 0.0))[0] <= now]
        due = await self._till.papers.claims(connected, self._wall_ms(), CLAIMS_MAX) if connected else []
        of_gateway: dict[str, list[Paper]] = {}
        for paper in due:
            of_gateway.setdefault(paper.gateway, []).append(paper)
        async with trio.open_nursery() as nursery:
            for gateway, papers in of_gateway.items():
                nursery.start_soon(self._claim_of, gateway, papers[: protocols.CLAIMS_PER_STREAM_MAX])

    async def _claim_of(self, gateway: str, papers: Sequence[Paper]) -> None:
        """Claims of one gateway, one after another. One that does not answer as it should is left alone for a while."""
        async with self._turns:
            try:
                stream = await self._network.open(gateway, protocols.CLAIM)
                try:
                    await self._claim_all(stream, papers)
                finally:
                    with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                        await stream.close()
            except (PeerUnreachable, RemoteProtocolError, trio.TooSlowError) as error:
                log.info("%s does not answer claims: %s", gateway, error)
                self._pause(gateway)
            except PapersError as error:
                log.error("a claim of %s cannot be written down: %s", gateway, error)
                self._pause(gateway)
            else:
                self._pauses.pop(gateway, None)

    def _pause(self, gateway: str) -> None:
        """The first pause is a minute; a gateway that comes back later than its pause begins again."""
        now = trio.current_time()
        self._pauses = {peer: pause for peer, pause in self._pauses.items() if now < pause[0] + PAUSE_S_MAX}
        _, length = self._pauses.get(gateway, (0.0, PAUSE_S_MIN))
        self._pauses[gateway] = (now + length, min(2 * length, PAUSE_S_MAX))

    async def _claim_all(self, stream: Stream, papers: Sequence[Paper]) -> None:
        reader = RecordReader(stream, protocols.FRAME_BYTES_MAX)
        for paper in papers:
            assert paper.receipt_envelope is not None  # what is claimed has a receipt
            claim = ClaimSent(
                order=paper.order_envelope, receipt=paper.receipt_envelope, voucher=paper.voucher_envelope
            )
            with trio.fail_after(protocols.CLAIM_TIMEOUT_S):
                await send_record(stream, claim)
                answer = await reader.next()
            match answer:
                case CountersignSent(envelope=envelope):
                    await self._settle(paper, envelope)
                case ClaimRefused():
                    await self._refused(paper, answer)
                case _:
                    raise RemoteProtocolError("it ended without an answer, or said something else")

    async def _settle(self, paper: Paper, envelope: bytes) -> None:
        """Raises RemoteProtocolError for what is no answer to this claim; it is then asked for again tomorrow."""
        assert paper.receipt_envelope is not None
        order = decode(Order, open_envelope(Kind.ORDER, paper.order_envelope).body)
        receipt = decode(Receipt, open_envelope(Kind.RECEIPT, paper.receipt_envelope).body)
        try:
            verdict = await self._till.settle(order, paper, receipt, envelope)
        except ReceiptInvalid as error:
            await self._till.papers.put_off(paper, self._wall_ms() + RETRY_MS_MAX, one_line(str(error)))
            raise
        log.info("%s answered the claim of order %s: %s", paper.gateway, order.order_id.hex(), verdict)

    async def _refused(self, paper: Paper, refused: ClaimRefused) -> None:
        reason = one_line(refused.reason)
        log.warning("%s refuses a claim of %d µcredits: %s", paper.gateway, paper.charge, reason)
        wait_ms = min(max(refused.retry_after_ms, RETRY_MS_MIN), RETRY_MS_MAX)
        again_ms = self._wall_ms() + wait_ms if refused.retry_after_ms else NEVER_MS
        await self._till.papers.put_off(paper, again_ms, reason)
