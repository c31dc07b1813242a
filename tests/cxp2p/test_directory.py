from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxp2p import protocols
from cxp2p.directory import ALIVE_S, SUSPEND_S_MAX, Directory, Via
from cxp2p.errors import RemoteProtocolError
from cxp2p.identity import identity_from_seed
from cxp2p.net.discover import hint_key, hint_keys, offer_sequence
from cxp2p.records import Load, Offer, Prices, Service
from cxp2p.routing import rank, wait_ms
from worlds import EPOCH_MS, capability

PEERS = [identity_from_seed(bytes([n]) * 32).peer for n in range(1, 9)]


def offer(peer: str = PEERS[0], sequence: int = 1, issued_ms: int = EPOCH_MS, **changes: Any) -> Offer:
    whole = Offer(
        peer=peer,
        sequence=sequence,
        issued_at_ms=issued_ms,
        expires_at_ms=issued_ms + 60_000,
        addresses=("/ip4/127.0.0.1/tcp/1/p2p/" + peer,),
        agent="test",
        owner="",
        draining=False,
        capabilities=(capability(),),
    )
    return replace(whole, **changes)


def learn(directory: Directory, an_offer: Offer, wall_ms: int = EPOCH_MS, signer: str | None = None) -> bool:
    return directory.learn(an_offer, signer or an_offer.peer, b"envelope", Via.DHT, wall_ms)


@pytest.mark.parametrize(
    ("changes", "signer", "wall_ms", "fault"),
    [
        ({}, PEERS[1], EPOCH_MS, "not signed by the peer"),
        ({}, None, EPOCH_MS + 60_000, "expired"),
        ({}, None, EPOCH_MS - protocols.CLOCK_SKEW_MS_MAX - 1, "in the future"),
        ({"expires_at_ms": EPOCH_MS + protocols.OFFER_LIFE_MS_MAX + 1}, None, EPOCH_MS, "life"),
    ],
)
def test_an_offer_that_nobody_should_believe_is_refused(
    changes: dict[str, Any], signer: str | None, wall_ms: int, fault: str
) -> None:
    """Forged, expired, future and everlasting offers raise, and say why."""
    with pytest.raises(RemoteProtocolError, match=fault):
        learn(Directory(), offer(**changes), wall_ms, signer)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=20))
def test_a_lower_sequence_is_never_believed_after_a_higher_one(sequences: list[int]) -> None:
    """In whatever order offers arrive, the highest sequence stands."""
    directory = Directory()
    for sequence in sequences:
        learn(directory, offer(sequence=sequence))
    entry = directory.get(PEERS[0])

    assert entry is not None
    assert entry.offer.sequence == max(sequences)


def test_the_directory_is_bounded() -> None:
    """When full, the offer that expires first makes room."""
    directory = Directory(peers_max=3)
    for number, peer in enumerate(PEERS[:4]):
        learn(directory, offer(peer, issued_ms=EPOCH_MS + number))

    assert len(directory) == 3
    assert directory.get(PEERS[0]) is None


def test_only_a_node_that_beats_is_a_candidate() -> None:
    """An offer alone is a hint: the node is used while its own heartbeat is fresh, and not when it stopped."""
    directory = Directory()
    learn(directory, offer())

    def live(now: float, wall_ms: int = EPOCH_MS) -> int:
        return len(directory.candidates(Service.CHAT, "echo", wall_ms, now))

    assert live(0.0) == 0
    directory.beat(PEERS[0], 10.0)
    assert live(10.0) == 1
    assert live(10.0 + ALIVE_S) == 0
    assert live(10.0, EPOCH_MS + 60_000) == 0
    directory.lose(PEERS[0], 10.0)
    assert live(10.0) == 0


def test_draining_and_other_models_are_no_candidates() -> None:
    """A draining node and a node without the model are left out."""
    directory = Directory()
    learn(directory, offer(PEERS[0], draining=True))
    learn(directory, offer(PEERS[1], capabilities=(capability("other"),)))
    for peer in PEERS[:2]:
        directory.beat(peer, 0.0)

    assert directory.candidates(Service.CHAT, "echo", EPOCH_MS, 0.0) == ()


def test_failures_in_a_row_suspend_longer_and_a_success_forgives() -> None:
    """2 s, 4 s, … at most 60 s; a job that works clears it."""
    directory = Directory()
    learn(directory, offer())
    entry = directory.get(PEERS[0])
    assert entry is not None
    waits = []
    for _ in range(8):
        directory.suspend(PEERS[0], 100.0)
        waits.append(entry.suspended_until - 100.0)
    directory.welcome(PEERS[0], 100.0)

    assert waits[:3] == [2.0, 4.0, 8.0]
    assert waits[-1] == SUSPEND_S_MAX
    assert entry.suspended_until == 0.0


def test_a_model_that_failed_leaves_the_node_s_others_in_use() -> None:
    """Until a second model fails there, or the node itself does; another model's success does not heal the first."""
    directory = Directory()
    learn(directory, offer(capabilities=(capability("a"), capability("b"), capability("c"))))
    directory.beat(PEERS[0], 0.0)

    def used(now: float) -> str:
        return "".join(name for name in "abc" if directory.candidates(Service.CHAT, name, EPOCH_MS, now))

    directory.suspend(PEERS[0], 0.0, "a")
    assert used(1.0) == "bc"
    directory.welcome(PEERS[0], 1.0, "b")
    assert used(1.0) == "bc"
    assert used(2.0) == "abc"
    directory.suspend(PEERS[0], 2.0, "a")
    directory.suspend(PEERS[0], 2.0, "b")
    assert used(2.1) == ""
    directory.welcome(PEERS[0], 2.1, "c")
    assert used(2.1) == "abc"
    directory.suspend(PEERS[0], 2.2)
    assert used(2.3) == ""


def test_expired_offers_are_forgotten_unless_a_job_runs_there() -> None:
    """Expiry removes a peer, but never under a running job."""
    directory = Directory()
    learn(directory, offer(PEERS[0]))
    learn(directory, offer(PEERS[1]))
    busy = directory.get(PEERS[1])
    assert busy is not None
    busy.jobs = 1

    assert directory.expire(EPOCH_MS + 60_000) == (PEERS[0],)
    assert directory.get(PEERS[1]) is busy


def test_what_is_passed_on_is_fresh_matching_and_bounded() -> None:
    """The exchange gives live offers that match, newest first, within the limit."""
    directory = Directory()
    for number, peer in enumerate(PEERS):
        model = "echo" if number % 2 else "other"
        directory.learn(
            offer(peer, issued_ms=EPOCH_MS + number, capabilities=(capability(model),)),
            peer,
            str(number).encode(),
            Via.DHT,
            EPOCH_MS + 10,
        )

    assert directory.fresh(Service.CHAT, "echo", 32, EPOCH_MS + 10, Random(1)) == [b"7", b"5", b"3", b"1"]
    assert len(directory.fresh(None, None, 3, EPOCH_MS + 10, Random(1))) == 3
    assert directory.fresh(Service.EMBED, None, 32, EPOCH_MS + 10, Random(1)) == []
    assert directory.fresh(None, None, 32, EPOCH_MS + 600_000, Random(1)) == []


def test_an_answer_of_the_exchange_fits_its_limit() -> None:
    """However large the offers are, what is passed on stays within the answer's bytes."""
    directory = Directory()
    for peer in PEERS:
        directory.learn(offer(peer), peer, bytes(protocols.OFFERS_ANSWER_BYTES_MAX // 4), Via.DHT, EPOCH_MS)

    assert len(directory.fresh(None, None, 32, EPOCH_MS, Random(1))) == 4


def test_an_idle_node_comes_before_a_busy_one() -> None:
    """The estimated wait decides: load, our own jobs there, and the node's own speed."""
    directory = Directory()
    busy = Load(running=2, queued=3, first_piece_ms=100, units_per_s=10, loading_ms=0)
    idle = Load(running=0, queued=0, first_piece_ms=100, units_per_s=10, loading_ms=0)
    learn(directory, offer(PEERS[0], capabilities=(capability(load=busy),)))
    learn(directory, offer(PEERS[1], capabilities=(capability(load=idle),)))
    for peer in PEERS[:2]:
        directory.beat(peer, 0.0)
    found = directory.candidates(Service.CHAT, "echo", EPOCH_MS, 0.0)

    for seed in range(20):
        assert rank(found, (), Random(seed), 0.0)[0][0].offer.peer == PEERS[1]
    assert [entry.offer.peer for entry, _ in rank(found, {PEERS[1]}, Random(1), 0.0)] == [PEERS[0]]
    quiet = directory.get(PEERS[1])
    assert quiet is not None
    before = wait_ms(quiet, found[1][1], 0.0)
    quiet.jobs = 5
    assert wait_ms(quiet, found[1][1], 0.0) > before


def test_equal_nodes_share_the_load() -> None:
    """With equal offers no node gets everything."""
    directory = Directory()
    for peer in PEERS[:4]:
        learn(directory, offer(peer))
        directory.beat(peer, 0.0)
    found = directory.candidates(Service.CHAT, "echo", EPOCH_MS, 0.0)
    first = [rank(found, (), Random(seed), 0.0)[0][0].offer.peer for seed in range(400)]

    assert all(60 < first.count(peer) < 140 for peer in PEERS[:4])


def firsts(*levels: float, first_piece_ms: tuple[int, ...] = ()) -> list[int]:
    """How often each of some nodes is ranked first, whose prices are so many times the usual."""
    directory = Directory()
    for number, level in enumerate(levels):
        waits = first_piece_ms[number] if first_piece_ms else 100
        load = Load(running=0, queued=0, first_piece_ms=waits, units_per_s=10, loading_ms=0)
        prices = Prices(input=round(20_000 * level), output=round(60_000 * level))
        learn(directory, offer(PEERS[number], capabilities=(capability(load=load, prices=prices),)))
        directory.beat(PEERS[number], 0.0)
    found = directory.candidates(Service.CHAT, "echo", EPOCH_MS, 0.0)
    first = [rank(found, (), Random(seed), 0.0)[0][0].offer.peer for seed in range(200)]
    return [first.count(peer) for peer in PEERS[: len(levels)]]


def test_of_equal_nodes_the_cheaper_one_is_asked_and_a_dear_one_must_be_quick() -> None:
    """What counts is wait times price: half the price makes up for twice the wait, and not for more."""
    assert firsts(1.0, 0.5, 1.0) == [0, 200, 0]
    assert firsts(2.0, 1.0, 1.0, first_piece_ms=(20, 100, 100))[0] == 200
    assert firsts(2.0, 1.0, 1.0, first_piece_ms=(100, 100, 100))[0] == 0


def test_near_equals_share_and_one_twice_as_good_wins() -> None:
    """What is known of a node is late: a little slower is asked now and then, more than twice as slow never."""
    quick, slower, slow = firsts(1.0, 1.0, 1.0, first_piece_ms=(100, 130, 210))

    assert quick > slower > 10
    assert slow == 0


def test_who_works_for_nothing_draws_no_more_than_who_asks_for_half() -> None:
    """A price of nothing costs a liar nothing, so it counts for no more than half; without prices all are equal."""
    assert firsts(1.0, 0.0, 1.0, first_piece_ms=(100, 400, 100))[1] == 0
    assert min(firsts(0.0, 0.5, 1.0, 1.0, 1.0)[:2]) > 60
    assert min(firsts(0.0, 0.0)) > 60


@given(st.text(min_size=1, max_size=128))
def test_every_hint_key_fits_the_dht(model: str) -> None:
    """However long a model's name is, its keys can be fetched again."""
    for key in hint_keys(Service.CHAT, model, PEERS[0]):
        assert len(key.encode()) <= protocols.KAD_KEY_BYTES_MAX
    assert hint_key(Service.CHAT, "smollm2:135m") == "chat/smollm2:135m"


@given(st.binary(max_size=200))
def test_the_dht_stores_no_garbage(data: bytes) -> None:
    """What is not a signed offer of that very peer is refused by the validator."""
    with pytest.raises(RemoteProtocolError):
        offer_sequence(PEERS[0], data)


@given(st.lists(st.tuples(st.sampled_from("learn beat rest lose expire".split()), st.integers(0, 3)), max_size=40))
def test_candidates_are_those_of_all_entries_that_beat(steps: list[tuple[str, int]]) -> None:
    """However peers come, beat, rest, are lost and forgotten: the same as if every entry was looked at."""
    directory, wall_ms, now = Directory(peers_max=3), EPOCH_MS, 0.0
    for number, (step, index) in enumerate(steps, 1):
        peer, now = PEERS[index], now + 0.4
        match step:
            case "learn":
                learn(directory, offer(peer, sequence=number, issued_ms=wall_ms), wall_ms)
            case "beat":
                directory.beat(peer, now)
            case "rest":
                directory.rest(peer)
            case "lose":
                directory.lose(peer, now)
            case "expire":
                wall_ms += 30_000
                directory.expire(wall_ms)

        found = {entry.offer.peer for entry, _ in directory.candidates(Service.CHAT, "echo", wall_ms, now)}
        alive = {entry.offer.peer for entry in directory.entries() if entry.alive_until > now >= entry.suspended_until}
        assert found == {peer for peer in alive if directory.get(peer).offer.expires_at_ms > wall_ms}  # type: ignore[union-attr]
