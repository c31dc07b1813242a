"""Claims: nodes that come for the countersign that they never got."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from claimants import Claimant, Scene, claim_all, says, scene
from cxp2p import protocols
from cxp2p.client import Net
from cxp2p.errors import CxError, JobFailed, PeerUnreachable
from cxp2p.identity import Kind
from cxp2p.ledger import NETWORK
from cxp2p.net.claims import CLAIM_PAUSE_S, REFUSED_PAUSE_S
from cxp2p.net.pump import send_record
from cxp2p.receipts import charge_of
from cxp2p.records import (
    ClaimRefused,
    ClaimSent,
    Countersign,
    CountersignSent,
    Finish,
    Verdict,
    Voucher,
)
from cxp2p.vouchers import make_voucher
from cxp2p.wire import decode, encode
from liars import Behaviour, Told, hold_on, liar
from worlds import PRICES, World, settled, world

__all__ = ["scene"]  # a fixture


async def test_an_answer_that_broke_off_is_paid_by_the_operator_once(autojump_clock: MockClock, scene: Scene) -> None:
    """The user pays nothing; the same claim gets the same bytes, also after the gateway was started again."""
    await scene.open(says("a ", "b "))
    assert await scene.gate.ask() == "a b …"
    assert await scene.paid() == (0, 0, 0)

    receipt = scene.claimant.receipt(finish=Finish.CANCELLED)
    answer = await scene.claimant.claim(receipt)
    assert isinstance(answer, Countersign)
    assert (answer.verdict, answer.charge) == (Verdict.ACCEPTED, 7)
    assert await scene.paid() == (0, -7, 7)

    claim = scene.claimant.sent(receipt)
    first = await claim_all(scene.node.network, scene.gate.net.peer, claim, claim)
    await scene.restart()
    again = await claim_all(scene.node.network, scene.gate.net.peer, claim)
    assert [first[0], *again] == [first[1], first[1]]
    assert await scene.paid() == (0, -7, 7)
    assert scene.count("cxp2p_claims_total", answer="accepted") == 1
    assert scene.count("cxp2p_claims_total", answer="again") == 3
    assert scene.count("cxp2p_late_microcredits_total", service="chat") == 7
    (kept,) = await scene.gate.store.generations(NETWORK, "r1")
    assert (kept.charge, kept.receipt_envelope) == (7, receipt)


async def test_a_countersign_that_was_lost_is_sent_again(autojump_clock: MockClock, scene: Scene) -> None:
    """The job was settled in time; only the node never heard of it."""
    signed: list[bytes] = []

    async def behave(told: Told) -> None:
        await told.accept()
        await told.say("a ", 1)
        await told.sign(told.receipt())
        signed.append(told.identity.seal(Kind.RECEIPT, encode(told.receipt())))

    await scene.open(behave)
    assert await scene.gate.ask() == "a "
    await trio.sleep(1)
    answer = await scene.claimant.claim(signed[0])
    assert isinstance(answer, Countersign)
    assert (answer.verdict, answer.charge) == (Verdict.ACCEPTED, 5)
    assert await scene.paid() == (-5, 0, 5)


async def test_what_did_not_arrive_is_not_paid(autojump_clock: MockClock, scene: Scene) -> None:
    """Adjusted down to what did; disputed if it was nothing. Neither is a lie: it may have been on its way."""
    await scene.open(says("a ", "b "))
    await scene.gate.ask()
    scene.heard[-1].said.extend((7, 8, 9))
    answer = await scene.claimant.claim(scene.claimant.receipt())
    assert isinstance(answer, Countersign)
    assert (answer.verdict, answer.out_units, answer.charge) == (Verdict.ADJUSTED, 2, 7)
    assert await scene.gate.evidence() == ()


async def test_an_answer_of_nothing_is_disputed(autojump_clock: MockClock, scene: Scene) -> None:
    await scene.open(says())
    assert await scene.gate.ask() == "…"
    scene.heard[-1].said.extend((7, 8, 9))
    answer = await scene.claimant.claim(scene.claimant.receipt())
    assert isinstance(answer, Countersign)
    assert (answer.verdict, answer.charge, answer.reason) == (Verdict.DISPUTED, 0, "nothing arrived")
    assert await scene.paid() == (0, 0, 0)


# The gateway dies.


@pytest.mark.parametrize(("pieces", "claimed", "paid"), [(3, 3, 3), (3, 200, 200), (3, 1000, 256)])
async def test_a_gateway_that_died_believes_up_to_the_next_voucher(
    autojump_clock: MockClock, scene: Scene, pieces: int, claimed: int, paid: int
) -> None:
    """It has no idea what arrived. Without a voucher that is less than the first distance."""

    async def behave(told: Told) -> None:
        await told.accept()
        for number in range(pieces):
            await told.say("x ", number)
        await hold_on(told)

    await scene.open(behave)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.gate.ask, 1000)
        await trio.sleep(5)
        await scene.restart()
    assert await scene.paid() == (0, 0, 0)
    scene.heard[-1].said[:] = range(claimed)
    answer = await scene.claimant.claim(scene.claimant.receipt(finish=Finish.CANCELLED))
    assert isinstance(answer, Countersign)
    assert answer.charge == charge_of(PRICES, 3, paid)
    assert answer.verdict is (Verdict.ACCEPTED if paid == claimed else Verdict.ADJUSTED)
    assert await scene.paid() == (0, -answer.charge, answer.charge)


async def test_a_voucher_says_what_had_arrived(autojump_clock: MockClock, scene: Scene) -> None:
    """Signed by the gateway before it died; the node's own would be worth nothing."""

    async def behave(told: Told) -> None:
        await told.accept()
        await hold_on(told)

    await scene.open(behave)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.gate.ask, 1000)
        await trio.sleep(5)
        await scene.restart()
    order = scene.claimant.told.order
    made = encode(make_voucher(order, 0, 256))
    scene.heard[-1].said[:] = range(1000)
    receipt = scene.claimant.receipt(finish=Finish.CANCELLED)
    own = await scene.claimant.claim(receipt, voucher=scene.node.identity.seal(Kind.VOUCHER, made))
    assert isinstance(own, ClaimRefused)
    assert own.reason == "the voucher is not signed by the gateway of the order"
    other = replace(decode(Voucher, made), seq=order.seq + 1)
    wrong = await scene.claimant.claim(receipt, voucher=scene.gate.identity.seal(Kind.VOUCHER, encode(other)))
    assert isinstance(wrong, ClaimRefused)

    answer = await scene.claimant.claim(receipt, voucher=scene.gate.identity.seal(Kind.VOUCHER, made))
    assert isinstance(answer, Countersign)
    assert (answer.verdict, answer.charge) == (Verdict.ADJUSTED, charge_of(PRICES, 3, 768))


# What is none of this gateway's.


async def test_claims_of_nothing_are_refused(autojump_clock: MockClock, scene: Scene) -> None:
    """Orders of others and for others, of nobody, receipts of other orders and signers; none of them is paid."""
    await scene.open(says("a "))
    await scene.gate.ask()
    claimant, stranger = scene.claimant, scene.here.identity()
    order = claimant.told.order
    receipt = claimant.receipt()
    never = scene.gate.identity.seal(Kind.ORDER, encode(replace(order, order_id=b"n" * 16)))
    theirs = scene.gate.identity.seal(Kind.ORDER, encode(replace(order, node=stranger.peer)))
    cases: list[tuple[ClaimSent, str]] = [
        (claimant.sent(receipt, order=stranger.seal(Kind.ORDER, encode(order))), "not signed by this gateway"),
        (claimant.sent(receipt, order=theirs), "for another node"),
        (claimant.sent(receipt, order=never), "without a debt"),
        (claimant.sent(receipt, order=b"junk"), "malformed"),
        (claimant.sent(b"junk"), "malformed"),
        (claimant.sent(claimant.receipt(order_hash=b"x" * 32)), "not about this order"),
        (claimant.sent(stranger.seal(Kind.RECEIPT, encode(claimant.told.receipt()))), "not signed by the order's node"),
        (claimant.sent(scene.node.identity.seal(Kind.RECEIPT, b"junk")), ""),
    ]
    began = trio.current_time()
    answers = await claim_all(scene.node.network, order.gateway, *(claim for claim, _ in cases))
    for answer, (_, reason) in zip(answers, cases, strict=True):
        assert isinstance(answer, ClaimRefused)
        assert reason in answer.reason
        assert answer.retry_after_ms == 0
    assert trio.current_time() - began >= len(cases) * REFUSED_PAUSE_S
    assert await scene.paid() == (0, 0, 0)
    assert scene.count("cxp2p_claims_total", answer="refused") == len(cases)
    assert await scene.gate.evidence() == ()


async def test_a_job_that_runs_is_not_claimed(autojump_clock: MockClock, scene: Scene) -> None:
    """Its node is told to come back."""

    async def behave(told: Told) -> None:
        await told.accept()
        await told.say("a ", 1)
        await hold_on(told)

    await scene.open(behave)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.gate.ask)
        await trio.sleep(5)
        refused = await scene.claimant.claim(scene.claimant.receipt())
        assert isinstance(refused, ClaimRefused)
        assert refused.retry_after_ms > 0
        nursery.cancel_scope.cancel()


# Limits.


async def test_a_node_is_paid_so_much_late_in_a_day(
    autojump_clock: MockClock, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is over it is to come again; the day after, it is paid."""
    monkeypatch.setattr("cxp2p_gateway.store.claims.DAY_MS", 600_000)
    await scene.open(says("a ", "b "), late_max=10)
    receipts = []
    for _ in range(2):
        await scene.gate.ask()
        receipts.append((scene.claimant, scene.claimant.receipt(finish=Finish.CANCELLED)))
        await trio.sleep(120)
    (one, first), (other, second) = receipts
    assert isinstance(await one.claim(first), Countersign)
    later = await other.claim(second)
    assert isinstance(later, ClaimRefused)
    assert later.retry_after_ms == 3_600_000
    assert await scene.paid() == (0, -7, 7)
    await trio.sleep(600)
    assert isinstance(await other.claim(second), Countersign)
    assert await scene.paid() == (0, -14, 14)


async def test_a_stream_has_so_many_claims_and_a_peer_one_stream(autojump_clock: MockClock, scene: Scene) -> None:
    """More of either is reset; how fast they are answered has a limit too."""
    await scene.open(says("a "))
    await scene.gate.ask()
    claim = scene.claimant.sent(scene.claimant.receipt())
    gateway, network = scene.gate.net.peer, scene.node.network
    began = trio.current_time()
    most = protocols.CLAIMS_PER_STREAM_MAX
    assert len(await claim_all(network, gateway, *[claim] * most)) == most
    assert trio.current_time() - began >= most * CLAIM_PAUSE_S
    with pytest.raises(CxError):
        await claim_all(network, gateway, *[claim] * (most + 1))

    stream = await network.open(gateway, protocols.CLAIM)
    await send_record(stream, claim)
    await trio.sleep(0.1)
    with pytest.raises(CxError):
        await claim_all(network, gateway, claim)
    await stream.close()
    await trio.sleep(1)
    assert len(await claim_all(network, gateway, claim)) == 1


async def test_a_stream_that_says_nothing_is_left(autojump_clock: MockClock, scene: Scene) -> None:
    await scene.open(says("a "))
    stream = await scene.node.network.open(scene.gate.net.peer, protocols.CLAIM)
    with pytest.raises(PeerUnreachable), trio.fail_after(protocols.CLAIM_TIMEOUT_S + 1):
        await stream.receive()


async def test_other_frames_are_no_claims(autojump_clock: MockClock, scene: Scene) -> None:
    await scene.open(says("a "))
    stream = await scene.node.network.open(scene.gate.net.peer, protocols.CLAIM)
    await send_record(stream, CountersignSent(envelope=b""))
    with pytest.raises(PeerUnreachable):
        await stream.receive()


# An asker that keeps no books.


async def direct(here: World, behave: Behaviour) -> tuple[Net, Callable[[], Claimant]]:
    heard: list[Told] = []

    async def act(told: Told) -> None:
        heard.append(told)
        await behave(told)

    net, node = await here.asker(), await liar(here, act)
    await settled(net, 1)
    return net, lambda: Claimant(node, heard[-1])


async def test_an_asker_without_books_answers_from_memory(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice the same; of orders that it has forgotten it knows nothing."""
    monkeypatch.setattr("cxp2p.net.recent.RECENT_MAX", 2)
    async with world() as here:
        net, claimant = await direct(here, says("a ", "b "))
        papers = []
        for _ in range(3):
            with pytest.raises(JobFailed):
                await net.chat("echo", "hello")
            papers.append((claimant(), claimant().receipt(finish=Finish.CANCELLED)))
            await trio.sleep(120)
        forgotten = await papers[0][0].claim(papers[0][1])
        assert isinstance(forgotten, ClaimRefused)
        for one, receipt in papers[1:]:
            answers = [await one.claim(receipt) for _ in range(2)]
            assert answers[0] == answers[1]
            assert isinstance(answers[0], Countersign)
            assert (answers[0].verdict, answers[0].charge) == (Verdict.ACCEPTED, 7)
