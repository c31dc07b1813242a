from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxp2p.epochs import Entry, open_entry
from cxp2p.errors import EpochInvalid
from cxp2p.known_models import SizeClass
from cxp2p.records import Finish, Service, Verdict
from cxp2p.rewards import DEFAULT_RULES, Asker, Audit, ModelSize, Rules, divide, rewards, rules_hash
from hours import GATEWAY, NODES, OTHER_GATEWAY, entry, receipt_of, seal

USERS = ("ada", "bob", "eve")
SUBSIDY = replace(DEFAULT_RULES, match_ppm=2**62)  # the pool is shared whatever users were charged


@cache
def some(number: int) -> Entry:
    """Entries of all kinds: services, endings, owners, verdicts and charges; the same number is the same entry."""
    node = NODES[number % 4]
    receipt = receipt_of(
        node,
        seq=number,
        owner=("", "owner")[number % 2],
        service=list(Service)[number % len(Service)],
        in_units=number * 7,
        cached_units=number * 3,
        out_units=number * 13 % 50,
        charge=number * 997 % 1_000_003,
        model_digest=bytes([number % 3]) * 32,
        finish=(Finish.STOP, Finish.CANCELLED, Finish.LENGTH)[number % 3],
    )
    if number % 5 == 4:
        return open_entry(*seal(receipt, node, verdict=Verdict.DISPUTED, charge=0))
    return open_entry(*seal(receipt, node))


def hash_of(each: Entry) -> bytes:
    return each.countersign.receipt_hash


NUMBERS = st.lists(st.integers(0, 40), unique=True, max_size=12)
RULES = st.builds(
    lambda pool, match, fee, referral, most, sizes: replace(
        DEFAULT_RULES,
        pool=pool,
        match_ppm=match,
        fee_ppm=fee,
        referral_ppm=referral,
        referral_max=most,
        models=sizes,
    ),
    st.integers(0, 10**12),
    st.integers(0, 10**6) | st.just(2**62),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.lists(
        st.builds(
            lambda number, size: ModelSize(model_digest=bytes([number]) * 32, size=size),
            st.integers(0, 3),
            st.sampled_from(SizeClass),
        ),
        max_size=3,
    ).map(tuple),
)


@given(RULES, NUMBERS, st.data())
def test_every_microcredit_is_somewhere_and_nowhere_twice(
    rules: Rules, numbers: list[int], data: st.DataObject
) -> None:
    """What was charged is paid, kept, referred or returned; the pool is shared as far as charges match it, or left."""
    entries = [some(number) for number in numbers]
    verdicts = [Audit(hash_of(each), data.draw(st.booleans())) for each in entries if data.draw(st.booleans())]
    asker = st.builds(Asker, st.sampled_from(USERS), st.sampled_from(("", *USERS)))
    askers = {hash_of(each): data.draw(asker) for each in entries}
    out = rewards(rules, entries, verdicts, askers)

    assert out.charged == sum(each.amount for each in entries)
    assert out.charged == sum(each.paid for each in out.nodes) + out.fee + sum(out.referrals.values()) + out.returned
    assert out.pool_left + sum(each.pool for each in out.nodes) == rules.pool
    assert out.pool_left in (0, rules.pool) or rules.match_ppm < 2**62
    assert min((out.fee, out.returned, out.pool_left, *(min(each.paid, each.pool) for each in out.nodes))) >= 0
    assert all(0 < amount <= rules.referral_max or not rules.referral_max for amount in out.referrals.values())


@given(RULES, NUMBERS, st.data())
def test_no_order_changes_a_reward(rules: Rules, numbers: list[int], data: st.DataObject) -> None:
    """Two machines that read the same receipts in different orders find the same numbers."""
    entries = [some(number) for number in numbers]
    verdicts = [Audit(hash_of(each), each.receipt.seq % 4 != 0) for each in entries]
    askers = {hash_of(each): Asker(USERS[each.receipt.seq % 3], USERS[each.receipt.seq % 2]) for each in entries}
    mixed, mixed_verdicts = data.draw(st.permutations(entries)), data.draw(st.permutations(verdicts))

    assert rewards(rules, entries, verdicts, askers) == rewards(rules, mixed, mixed_verdicts, askers)


@given(st.integers(0, 10**15), st.lists(st.integers(0, 10**12), max_size=20))
def test_shares_are_exact_and_fair(pool: int, weights: list[int]) -> None:
    """Nobody is further than one µcredit from the exact share, and more weight is never less pay."""
    named = {(f"node {number}", ""): weight for number, weight in enumerate(weights)}
    shares, total = divide(pool, named), sum(weights)

    assert sum(shares.values()) == (pool if total else 0)
    for who, share in shares.items():
        assert abs(share * total - pool * named[who]) < total
    ranked = sorted(shares, key=lambda who: named[who])
    for less, more in pairwise(ranked):
        assert shares[less] <= shares[more] or named[less] == named[more]


def test_splitting_work_into_many_receipts_earns_nothing() -> None:
    """There is no pay for each job: a hundred small receipts weigh what one large one does."""
    many = [open_entry(*seal(receipt_of(seq=n, in_units=1, out_units=2, charge=30))) for n in range(100)]
    one = open_entry(*seal(receipt_of(NODES[1], in_units=100, out_units=200, charge=3_000), NODES[1]))
    askers = {hash_of(each): Asker("ada", "bob") for each in many} | {hash_of(one): Asker("eve", "carl")}
    out = rewards(SUBSIDY, [*many, one], (), askers)

    assert len({(each.weight, each.paid) for each in out.nodes}) == 1
    assert (out.referrals, out.points) == ({"bob": 30, "carl": 30}, {"ada": 3, "eve": 3})
    assert [each.pool for each in out.nodes] == [DEFAULT_RULES.pool // 2] * 2


def test_a_larger_model_earns_by_its_class_and_an_unknown_one_the_least() -> None:
    """The size is that of the weights which the rules list; who names other weights is paid as for a small model."""
    large = ModelSize(model_digest=b"L" * 32, size=SizeClass.MARIANA_DEPTH)
    rules = replace(DEFAULT_RULES, models=(large,))
    entries = [
        open_entry(*seal(receipt_of(node, model_digest=model), node))
        for node, model in zip(NODES, (b"L" * 32, b"?" * 32), strict=False)
    ]
    weights = {each.node: each.weight for each in rewards(rules, entries).nodes}

    assert weights[NODES[0].peer] == 20 * weights[NODES[1].peer] == 20 * (10 * 10 + 20 * 40)


def test_cached_input_disputes_and_failures_weigh_nothing() -> None:
    """Only fresh units that both sides agree on count."""
    entries = [
        open_entry(*seal(receipt_of(cached_units=10, out_units=0))),
        open_entry(*seal(receipt_of(seq=1), verdict=Verdict.DISPUTED, charge=0)),
        open_entry(*seal(receipt_of(seq=2, finish=Finish.ERROR, charge=0))),
    ]
    out = rewards(DEFAULT_RULES, entries)

    assert [each.weight for each in out.nodes] == [0]
    assert out.pool_left == DEFAULT_RULES.pool
    assert out.points == {}


def test_a_node_that_an_audit_caught_has_no_share() -> None:
    """The charge of the receipt goes back, the node's other work is paid by its users, the pool is for others."""
    bad, good, other = entry(0, 0, charge=1_000), entry(0, 1, charge=1_000), entry(1, 0, charge=1_000)
    out = rewards(SUBSIDY, [bad, good, other], [Audit(hash_of(bad), False), Audit(hash_of(good), True)])
    rows = {each.node: each for each in out.nodes}

    assert out.returned == 1_000
    assert (rows[NODES[0].peer].paid, rows[NODES[0].peer].pool, rows[NODES[0].peer].caught) == (950, 0, True)
    assert (rows[NODES[1].peer].paid, rows[NODES[1].peer].pool) == (950, DEFAULT_RULES.pool)


def test_referrals_come_out_of_the_fee_and_are_capped() -> None:
    """One level, never to oneself, and no more than the rules say however much is used."""
    entries = [entry(0, number, charge=1_000_000) for number in range(3)]
    askers = {
        hash_of(entries[0]): Asker("ada", "bob"),
        hash_of(entries[1]): Asker("bob", "eve"),
        hash_of(entries[2]): Asker("eve", "eve"),
    }
    out = rewards(DEFAULT_RULES, entries, (), askers)
    capped = rewards(replace(DEFAULT_RULES, referral_max=7), entries, (), askers)

    assert out.referrals == {"bob": 10_000, "eve": 10_000}
    assert out.fee == 3 * 50_000 - 20_000
    assert (capped.referrals, capped.fee) == ({"bob": 7, "eve": 7}, 3 * 50_000 - 14)
    assert sum(each.paid for each in out.nodes) == sum(each.paid for each in capped.nodes) == 3 * 950_000


def test_referrals_never_take_more_than_the_fee() -> None:
    """Each node's fee is rounded up, so that a referral of all of it is there, however small the sums are."""
    rules = replace(DEFAULT_RULES, referral_ppm=1_000_000)
    entries = [entry(node, 0, charge=charge) for node, charge in ((0, 19), (1, 19), (2, 39))]
    askers = {hash_of(each): Asker("ada", "bob") for each in entries}
    out = rewards(rules, entries, (), askers)

    assert (out.referrals, out.fee) == ({"bob": 3}, 1)
    assert sorted(each.paid for each in out.nodes) == [18, 18, 37]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 10**6), st.integers(0, 10**9)), min_size=1, max_size=12))
def test_who_orders_from_himself_never_gets_back_what_he_pays(work: list[tuple[int, int, int]]) -> None:
    """Under the default rules a gateway with nodes and users of its own loses, whatever it signs and pays itself."""
    entries = [
        open_entry(*seal(receipt_of(NODES[node], seq=seq, charge=charge, out_units=units), NODES[node]))
        for seq, (node, charge, units) in enumerate(work)
    ]
    askers = {hash_of(each): Asker(f"user {each.receipt.seq}", "ada") for each in entries}
    out = rewards(DEFAULT_RULES, entries, (), askers)
    back = sum(each.paid + each.pool for each in out.nodes) + sum(out.referrals.values())

    assert back < out.charged or not out.charged
    assert sum(out.points.values()) <= out.charged * DEFAULT_RULES.points_ppm // 10**6


def test_a_share_of_the_pool_is_matched_by_what_users_were_charged() -> None:
    """Units that nobody paid for draw nothing, and take nothing from others; what charges do not match is left."""
    free = open_entry(*seal(receipt_of(out_units=2**31 - 1, charge=0)))
    paid = entry(1, 0, charge=1_000)
    out = rewards(DEFAULT_RULES, [free, paid])

    assert {each.node: each.pool for each in out.nodes} == {NODES[0].peer: 0, NODES[1].peer: 30}
    assert out.pool_left == DEFAULT_RULES.pool - 30


def test_what_charges_do_not_match_is_shared_by_the_others() -> None:
    """Equal work: who was charged little gets what that matches, those who were charged more share the rest."""
    rules = replace(DEFAULT_RULES, pool=1_000, match_ppm=10**6)
    out = rewards(rules, [entry(0, 0, charge=100), entry(1, 0, charge=5_000), entry(2, 0, charge=9_000)])

    assert {each.node: each.pool for each in out.nodes} == dict(
        zip([node.peer for node in NODES], (100, 450, 450), strict=False)
    )


def test_points_of_unnamed_users_are_their_gateways() -> None:
    """An epoch does not say who asked: the sum over a gateway's users is the gateway's, but for what rounding takes."""
    entries = [some(number) for number in range(1, 30)]
    askers = {hash_of(each): Asker(USERS[each.receipt.seq % 3]) for each in entries}

    anonymous, named = rewards(DEFAULT_RULES, entries), rewards(DEFAULT_RULES, entries, (), askers)
    assert list(anonymous.points) == [GATEWAY.peer]
    assert 0 <= anonymous.points[GATEWAY.peer] - sum(named.points.values()) <= len(named.points)
    assert len(named.points) == len(USERS)


def test_a_pool_may_be_for_listed_gateways_only() -> None:
    """A gateway that nobody vouches for cannot draw on the pool with nodes of its own; its users' money still pays."""
    foreign = open_entry(*seal(receipt_of(gateway=OTHER_GATEWAY.peer), gateway=OTHER_GATEWAY))
    out = rewards(replace(SUBSIDY, gateways=(GATEWAY.peer,)), [foreign, entry(1)])

    assert {each.node: (each.paid, each.pool) for each in out.nodes} == {
        NODES[0].peer: (95, 0),
        NODES[1].peer: (95, DEFAULT_RULES.pool),
    }


def test_a_receipt_counts_once_and_verdicts_agree() -> None:
    """A receipt that comes twice, say in two files, stops the count, and so do two opinions."""
    with pytest.raises(EpochInvalid, match="comes twice"):
        rewards(DEFAULT_RULES, [entry(), entry()])
    with pytest.raises(EpochInvalid, match="contradict"):
        rewards(DEFAULT_RULES, [], [Audit(b"x" * 32, True), Audit(b"x" * 32, False)])


def test_rules_are_named_by_all_that_they_say() -> None:
    """Another number is another hash; the default rules' is known."""
    others = replace(DEFAULT_RULES, pool=1), replace(DEFAULT_RULES, fee_ppm=1), replace(DEFAULT_RULES, points_ppm=1)
    hashes = {rules_hash(rules) for rules in others}

    assert len(hashes | {rules_hash(DEFAULT_RULES), rules_hash(SUBSIDY)}) == 5
    assert {each.service for each in DEFAULT_RULES.units} == set(Service)
    assert {each.size for each in DEFAULT_RULES.sizes} == set(SizeClass)
