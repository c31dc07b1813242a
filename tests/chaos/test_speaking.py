"""A text that is read aloud by several nodes: in order, by one voice, whatever a node does. Virtual time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import trio
from trio.testing import MockClock

from cxp2p.client import Net, Spoken
from cxp2p.errors import AnswerRefused, CxError, JobFailed, JobRefused, NoNode
from cxp2p.net.speaking import AT_ONCE_EACH
from cxp2p.records import FailureCode, Finish, Verdict
from cxp2p.sound import RATE
from cxp2p.speech import split
from speakers import VOICE, SpeakingEngine, text_of
from worlds import Ledgerbook, World, settled, world

SHORT = "Hello there."
LONG = " ".join(f"This is sentence number {number}, and it is not short." for number in range(120))


@dataclass
class Listener:
    """Hears samples, and remembers when."""

    data: bytes = b""
    heard_at: list[float] = field(default_factory=list)

    async def hear(self, data: bytes) -> None:
        self.data += data
        self.heard_at.append(trio.current_time())
        await trio.lowlevel.checkpoint()


async def network_of(here: World, engines: Sequence[SpeakingEngine]) -> Net:
    for engine in engines:
        await here.node(engine)
    net = await here.asker()
    await settled(net, len(engines))
    return net


async def read(net: Net, text: str, listener: Listener, books: Ledgerbook) -> Spoken:
    with trio.fail_after(600):
        return await net.run_speech(VOICE, text, books, listener.hear)


def said(data: bytes) -> str:
    return " ".join(text_of(data).replace(".", ". ").split())


async def test_a_short_text_is_one_order(autojump_clock: MockClock) -> None:
    """Its characters and its milliseconds are in the receipt."""
    books, listener = Ledgerbook(), Listener()
    async with world() as here:
        net = await network_of(here, [SpeakingEngine()])
        spoken = await read(net, SHORT, listener, books)

    (settlement,) = books.settled
    assert text_of(listener.data) == SHORT
    assert spoken.audio_ms == settlement.receipt.out_units == 20 * len(SHORT)
    assert settlement.receipt.in_units == len(SHORT)
    assert settlement.countersign.verdict is Verdict.ACCEPTED


async def test_a_long_text_is_read_in_order_by_all(autojump_clock: MockClock) -> None:
    """Two nodes share the work, the listener hears one text, and the first sound comes after the first sentence."""
    engines = [SpeakingEngine(), SpeakingEngine()]
    books, listener = Ledgerbook(), Listener()
    async with world() as here:
        net = await network_of(here, engines)
        begun = trio.current_time()
        spoken = await read(net, LONG, listener, books)

    assert said(listener.data) == LONG
    assert listener.heard_at[0] - begun < 0.3
    assert min(len(engine.jobs) for engine in engines) > len(spoken.outcomes) / 4
    assert len(books.settled) == len(spoken.outcomes) < len(listener.heard_at)
    assert spoken.audio_ms == len(listener.data) * 1000 // (2 * RATE)
    assert not books.held


@pytest.mark.parametrize("fail_at", [0, 1, 3])
async def test_a_node_that_dies_is_not_heard(autojump_clock: MockClock, fail_at: int) -> None:
    """What it began is read again elsewhere, whole: no word twice, none missing."""
    engines = [SpeakingEngine(fail_at=fail_at), SpeakingEngine()]
    books, listener = Ledgerbook(), Listener()
    async with world() as here:
        net = await network_of(here, engines)
        await read(net, LONG, listener, books)

    assert said(listener.data) == LONG
    assert not books.held


async def test_voices_are_not_mixed(autojump_clock: MockClock) -> None:
    """Two files under one name are two voices: a text is read by one of them."""
    engines = [SpeakingEngine(), SpeakingEngine(digest=b"w" * 32), SpeakingEngine()]
    async with world() as here:
        net = await network_of(here, engines)
        await read(net, LONG, Listener(), Ledgerbook())

    assert [bool(engine.jobs) for engine in engines] == [True, False, True]


async def test_a_sentence_is_heard_while_it_is_made(autojump_clock: MockClock) -> None:
    """Each piece as it comes, also within a job; the next jobs do not hold up the first piece."""
    engine, listener = SpeakingEngine(pause_s=1.0, slots=8), Listener()
    async with world() as here:
        net = await network_of(here, [engine])
        begun = trio.current_time()
        await read(net, LONG, listener, Ledgerbook())

    gaps = [after - before for before, after in pairwise(listener.heard_at)]
    assert listener.heard_at[0] - begun < 1.2
    assert max(gaps) < 1.5
    assert engine.begun_at[1] > listener.heard_at[0]


@pytest.mark.parametrize("fail_at", [2, 3, 5])
async def test_a_listener_hears_no_seam_where_a_node_dies(autojump_clock: MockClock, fail_at: int) -> None:
    """What was heard of the job is not heard again, though another node makes all of it."""
    engines = [SpeakingEngine(fail_at=fail_at, pause_s=0.2), SpeakingEngine(pause_s=0.1)]
    listener = Listener()
    async with world() as here:
        net = await network_of(here, engines)
        await read(net, LONG, listener, Ledgerbook())

    again = [job.text for engine in engines for job in engine.jobs]
    assert said(listener.data) == LONG
    assert len(again) > len(set(again)) == len(split(LONG))


async def test_a_text_that_the_voice_cannot_read_is_told_so(autojump_clock: MockClock) -> None:
    """A node that has no sound for it says nothing, and is not to blame."""
    books, listener = Ledgerbook(), Listener()
    async with world() as here:
        net = await network_of(here, [SpeakingEngine(mute=True)])
        with pytest.raises(JobFailed, match="no sounds for this text") as failed:
            await read(net, SHORT, listener, books)

    assert failed.value.code is FailureCode.REQUEST_UNSUPPORTED
    assert not listener.data


@pytest.mark.parametrize(
    ("engine", "fault", "heard"),
    [
        (SpeakingEngine(claimed=200), "claimed", False),
        (SpeakingEngine(claimed=10), "claimed", True),
        (SpeakingEngine(finish=Finish.LENGTH), "not read to its end", True),
    ],
    ids=["too many ms", "too few ms", "cut"],
)
async def test_a_node_that_claims_what_it_did_not_say_is_not_paid(
    autojump_clock: MockClock, engine: SpeakingEngine, fault: str, heard: bool
) -> None:
    """Its receipt is disputed; of one that claims too much nothing is told."""
    books, listener = Ledgerbook(), Listener()
    async with world() as here:
        net = await network_of(here, [engine])
        with pytest.raises((AnswerRefused, JobFailed, NoNode), match=fault):
            await read(net, SHORT, listener, books)

    assert bool(listener.data) == heard
    assert all(each.countersign.charge == 0 for each in books.settled)


@pytest.mark.parametrize("text", ["", " \n", "... !?", "x" * 10_001])
async def test_a_text_that_cannot_be_read_costs_no_order(autojump_clock: MockClock, text: str) -> None:
    """Nothing to be heard, or more than anybody reads."""
    engine = SpeakingEngine()
    async with world() as here:
        net = await network_of(here, [engine])
        with pytest.raises(JobRefused, match="text"):
            await read(net, text, Listener(), Ledgerbook())

    assert not engine.jobs


async def test_without_the_voice_it_is_said(autojump_clock: MockClock) -> None:
    """Whoever serves another voice is not asked."""
    async with world() as here:
        net = await network_of(here, [SpeakingEngine(name="other")])
        with pytest.raises(NoNode, match="speaks"):
            await read(net, SHORT, Listener(), Ledgerbook())


async def test_who_leaves_stops_all_nodes(autojump_clock: MockClock) -> None:
    """No job goes on, and no hold stays open."""
    engines = [SpeakingEngine(pause_s=5), SpeakingEngine(pause_s=5)]
    books, listener = Ledgerbook(), Listener()
    async with world() as here:
        net = await network_of(here, engines)
        with trio.move_on_after(12):
            await read(net, LONG, listener, books)
        left_at = trio.current_time()
        await trio.sleep(5)

    stopped = [at for engine in engines for at in engine.stopped_at]
    assert stopped
    assert all(at - left_at < 1 for at in stopped)
    assert not books.held


async def test_a_listener_that_does_not_read_stops_the_work(autojump_clock: MockClock) -> None:
    """Only a few jobs are done ahead of it: what waits takes memory."""
    engine = SpeakingEngine(slots=50)
    begun = trio.Event()

    async def hear(data: bytes) -> None:
        begun.set()
        await trio.sleep_forever()

    async with world() as here:
        net = await network_of(here, [engine])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(net.run_speech, VOICE, LONG, Ledgerbook(), hear)
            await begun.wait()
            await trio.sleep(60)
            jobs = len(engine.jobs)
            nursery.cancel_scope.cancel()

    assert jobs == AT_ONCE_EACH


async def test_an_error_of_the_listener_is_its_own(autojump_clock: MockClock) -> None:
    """It ends the work, and comes out as it is."""

    class TooLoudError(CxError):
        """The listener has had enough."""

    async def hear(data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        raise TooLoudError

    async with world() as here:
        net = await network_of(here, [SpeakingEngine()])
        with pytest.raises(TooLoudError):
            await net.run_speech(VOICE, LONG, Ledgerbook(), hear)
