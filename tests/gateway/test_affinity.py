"""Requests that a client calls the same go to the same node, which has their beginning already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from cxp2p.directory import Directory, Via
from cxp2p.identity import identity_from_seed
from cxp2p.records import Load, Offer, Service
from cxp2p.routing import Candidate, attracted
from cxp2p_gateway.openai.ask import AFFINITY_LENGTH_MAX, chat_ask
from gates import CALLER, OTHER, Gateway, gateway
from worlds import EPOCH_MS, ScriptedEngine, capability, chat_job

PEERS = [identity_from_seed(bytes([number]) * 32).peer for number in range(1, 9)]
HI = {"model": "echo", "messages": [{"role": "user", "content": "Hi"}]}


def nodes(peers: Sequence[str] = PEERS, *, full: str = "", slow: str = "") -> list[Candidate]:
    """Idle ones, but for one that is `full`, and one that takes 1.1 s instead of 0.1 s."""
    directory = Directory()
    for peer in peers:
        running = 4 if peer == full else 0
        first_piece_ms = 1100 if peer == slow else 100
        load = Load(running=running, queued=0, first_piece_ms=first_piece_ms, units_per_s=10, loading_ms=0)
        offer = Offer(
            peer=peer,
            sequence=1,
            issued_at_ms=EPOCH_MS,
            expires_at_ms=EPOCH_MS + 60_000,
            addresses=(f"/ip4/127.0.0.1/tcp/1/p2p/{peer}",),
            agent="test",
            owner="",
            draining=False,
            capabilities=(replace(capability(), slots=4, load=load),),
        )
        directory.learn(offer, peer, b"envelope", Via.DHT, EPOCH_MS)
        directory.beat(peer, 0.0)
    return list(directory.candidates(Service.CHAT, capability().model, EPOCH_MS, 0.0))


def first(candidates: Sequence[Candidate], affinity: bytes) -> str:
    return attracted(candidates, affinity, 0.0)[0][0].offer.peer


def test_the_same_goes_to_the_same_whatever_the_order() -> None:
    """And different ones to many: of 200, each of 8 nodes gets some."""
    ranked = nodes()
    for number in range(20):
        assert first(ranked, b"%d" % number) == first(ranked[::-1], b"%d" % number)
    assert len({first(ranked, b"%d" % number) for number in range(200)}) == len(PEERS)


def test_when_a_node_goes_only_its_own_move() -> None:
    """The others' beginnings are still where they were."""
    before, after = nodes(), nodes(PEERS[1:])
    for number in range(200):
        was = first(before, b"%d" % number)
        assert was == PEERS[0] or first(after, b"%d" % number) == was


def test_a_node_without_room_is_not_waited_for() -> None:
    """Its jobs go where there is a slot; all others are only put behind."""
    idle = nodes()
    home = first(idle, b"1")
    full = nodes(full=home)

    assert first(full, b"1") != home
    assert sorted(entry.offer.peer for entry, _ in attracted(full, b"1", 0.0)) == sorted(PEERS)


@pytest.mark.parametrize(("request_bytes", "goes_home"), [(0, False), (3_900, False), (4_100, True), (100_000, True)])
def test_a_slower_home_is_worth_a_long_prompt_only(request_bytes: int, goes_home: bool) -> None:
    """It may be later by half a second for each 2 kB, about as long as reading them takes."""
    home = first(nodes(), b"1")
    chosen = attracted(nodes(slow=home), b"1", 0.0, request_bytes)[0][0].offer.peer

    assert (chosen == home) is goes_home


def test_without_a_word_for_it_the_best_stays_first() -> None:
    ranked = nodes()
    assert attracted(ranked, b"", 0.0) == ranked
    assert attracted([], b"1", 0.0) == []


@pytest.mark.parametrize(
    ("told", "affinity"),
    [
        ({"prompt_cache_key": "a", "user": "b"}, "a"),
        ({"prompt_cache_key": None, "user": "b"}, "b"),
        ({"prompt_cache_key": "", "user": "b"}, "b"),
        ({"user": "x" * 10_000}, "x" * AFFINITY_LENGTH_MAX),
        ({}, ""),
    ],
)
def test_what_a_client_calls_it(told: dict[str, object], affinity: str) -> None:
    assert chat_ask({**HI, **told}).affinity == affinity


async def test_a_conversation_stays_on_its_node(autojump_clock: MockClock) -> None:
    """Through the whole dispatch; another account's of the same name need not meet there."""
    async with gateway() as (here, gate):
        for _ in range(4):
            await here.node(ScriptedEngine())
        await gate.live(4)
        homes = {word: {await _node(gate, word) for _ in range(4)} for word in ("one", "two", "three", "four", "five")}

        assert all(len(nodes_of_word) == 1 for nodes_of_word in homes.values())
        assert len(set().union(*homes.values())) > 1
        others = [await _node(gate, word, of=1) for word in homes]
        assert others != [min(home) for home in homes.values()]


async def _node(gate: Gateway, word: str, of: int = 0) -> str:
    caller = replace((CALLER, OTHER)[of], affinity=word)
    outcome = await gate.dispatch.run(caller, f"chatcmpl-{word}", chat_job(), gate.take, deadline_s=60)
    await trio.sleep(2)  # until the node has said that it is idle again
    return outcome.node
