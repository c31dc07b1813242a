from __future__ import annotations

from dataclasses import replace

import pytest

from cxp2p import ledger
from cxp2p.errors import InsufficientCredit, RemoteProtocolError
from cxp2p.identity import Kind, Opened
from cxp2p.lanes import NodeLanes
from cxp2p.ledger import Change, Transfer
from cxp2p.rewards import DEFAULT_RULES
from simulations.economy import Cast, Economy, Policy, Size
from simulations.economy_books import Payout, RuleSet
from simulations.economy_peers import GatewayConduct, NodeConduct
from simulations.economy_rings import SelfDealers
from simulations.scenarios.free_riders import Forgiving
from simulations.signing import QuickSigning, RealSigning, Signer, Signing
from simulations.world import BrokenInvariant, World

SMALL = Size(nodes=3, gateways=2, hours=6, jobs_an_hour=6.0)
EVERYBODY = Cast(
    nodes=(NodeConduct.PADS_OUTPUT, NodeConduct.GARBAGE, NodeConduct.SIGNS_TWICE),
    gateways=(GatewayConduct.SILENT, GatewayConduct.FRESH, GatewayConduct.OMITS, GatewayConduct.TWO_ROOTS),
)
AUDITED = RuleSet(name="audited", rules=DEFAULT_RULES, audit_ppm=500_000, forfeit_jobs=3)


def played(
    size: Size = SMALL,
    cast: Cast = EVERYBODY,
    policy: Policy | None = None,
    signing: Signing | None = None,
    rule_set: RuleSet = AUDITED,
    seed: int = 1,
) -> tuple[Economy, Payout]:
    economy = Economy(World(seed), size, policy or Policy(), cast, signing)
    payout = economy.pays_by(rule_set)
    economy.begin()
    economy.end()
    return economy, payout


class NamedQuickly(QuickSigning):
    """The quick twin, of peers that are called as with real keys."""

    def __init__(self) -> None:
        super().__init__()
        self._real = RealSigning()
        self._quick: dict[str, Signer] = {}

    def signer(self, seed: bytes) -> Signer:
        peer, quick = self._real.signer(seed).peer, super().signer(seed)
        self._quick[quick.peer] = quick
        return _Named(peer, quick)

    def open(self, kind: Kind, envelope: bytes) -> Opened:
        length = envelope[0]
        opened = super().open(kind, envelope[length + 1 :])
        named = envelope[1 : length + 1].decode()
        if opened.peer not in self._quick:
            raise RemoteProtocolError("nobody has this key")
        return Opened(named, opened.body, envelope)


class _Named:
    def __init__(self, peer: str, quick: Signer) -> None:
        self.peer, self._quick = peer, quick

    def seal(self, kind: Kind, body: bytes) -> bytes:
        return bytes([len(self.peer)]) + self.peer.encode() + self._quick.seal(kind, body)


@pytest.mark.slow
def test_real_signatures_and_the_quick_twin_give_the_same_money() -> None:
    """Every paper is signed, opened and convicts as in life; what everybody has is the same to the µcredit."""
    real, real_payout = played(signing=RealSigning())
    quick, quick_payout = played(signing=NamedQuickly())

    assert real_payout.books.accounts == quick_payout.books.accounts
    assert (real.lost, real.hours.convicted, real.hours.paid) == (quick.lost, quick.hours.convicted, quick.hours.paid)
    assert real.credit.books.accounts == quick.credit.books.accounts
    assert set(real.hours.convicted) == {real.nodes[5].peer, real.gateways[4].peer, real.gateways[5].peer}


@pytest.mark.slow
def test_the_same_seed_is_the_same_economy() -> None:
    """One seed, one digest; another seed, another."""
    digests = [played(seed=seed)[0].world.digest() for seed in (1, 1, 2)]

    assert digests[0] == digests[1] != digests[2]


def test_padded_output_is_not_paid_and_double_signers_are_convicted() -> None:
    """A node that counts tokens that did not arrive works for nothing; one that signs twice is known by both papers."""
    economy, payout = played()
    pads, garbage, twice = economy.nodes[3:6]

    assert pads.work_done > 0
    assert payout.has(pads.peer) == 0
    assert economy.hours.convicted[twice.peer] > 0
    assert payout.forfeited[garbage.peer] > 0
    assert payout.has("returned") > 0


def test_what_a_root_leaves_out_is_paid_where_nodes_look() -> None:
    """Omitted receipts are shown by their nodes and paid; where nobody looks they are lost."""
    watched, _ = played(cast=Cast(gateways=(GatewayConduct.OMITS,)))
    trusted, _ = played(cast=Cast(gateways=(GatewayConduct.OMITS,)), policy=Policy(watches=False))
    name = watched.gateways[-1].name

    assert (sum(watched.hours.unpaid.values()), sum(trusted.hours.convicted.values())) == (0, 0)
    assert sum(trusted.hours.unpaid.values()) == watched.hours.paid[name] - trusted.hours.paid[name] > 0


def test_who_is_silent_is_refused_and_who_is_always_new_is_not() -> None:
    """Three receipts of each node, and no more; but a name costs nothing."""
    size = replace(SMALL, jobs_an_hour=20.0)
    silent, _ = played(size, Cast(gateways=(GatewayConduct.SILENT,)))
    fresh, _ = played(size, Cast(gateways=(GatewayConduct.FRESH,)))

    assert silent.seen["gateway 2"].refused > 0
    assert fresh.seen["gateway 2"].refused == 0
    assert fresh.seen["gateway 2"].identities > 50
    assert len(fresh.lost) == fresh.seen["gateway 2"].identities - 1


def test_a_limit_that_forgives_breaks_the_promise() -> None:
    """What one identity may take is checked after every event: ten minutes later it takes as much again."""

    def lanes(peer: str) -> NodeLanes:
        made = NodeLanes(peer, 400)
        made.exposures = Forgiving(400)
        return made

    with pytest.raises(BrokenInvariant, match="the limit is 400"):
        played(
            replace(SMALL, jobs_an_hour=60.0),
            Cast(gateways=(GatewayConduct.SILENT,)),
            Policy(lanes=lanes, loss_max=400),
        )


def test_a_planted_bug_in_the_ledger_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A post that moves one µcredit too few is seen when the hour is paid."""
    real = ledger.post

    def post(book: ledger.Book, hold_id: str, charge: int, to: str) -> Change:
        return real(book, hold_id, max(0, charge - 1), to)

    monkeypatch.setattr(ledger, "post", post)
    with pytest.raises((BrokenInvariant, InsufficientCredit)):
        played(cast=Cast())


def test_books_that_make_money_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """An account that grows without a transfer is seen by the audit of a day."""
    economy = Economy(World(1), replace(SMALL, hours=25), Policy(), Cast())
    payout = economy.pays_by(AUDITED)
    economy.begin()
    economy.world.run(3600.0)
    fees = payout.books.account("fees")
    payout.books.apply(Change(accounts=(replace(fees, balance=fees.balance + 1),)))

    with pytest.raises(BrokenInvariant, match="is not the sum of its transfers"):
        economy.end()


def test_self_dealers_lose_under_the_default_rules_and_win_without_a_match() -> None:
    """Their papers hold by every rule; money is what tells."""
    outcomes = {}
    for name, rules in (("default", DEFAULT_RULES), ("unmatched", replace(DEFAULT_RULES, match_ppm=2**62))):
        economy = Economy(World(1), SMALL, Policy(), Cast())
        ring = SelfDealers("ring", economy.signing, 20_000, 60_000)
        economy.hours.rings.append(ring)
        payout = economy.pays_by(RuleSet(name=name, rules=rules))
        economy.begin()
        economy.end()
        outcomes[name] = payout.has("ring") - ring.charged

    assert outcomes["default"] == -6 * 1_200 // 100
    assert outcomes["unmatched"] > 10**9


def test_transfers_of_an_hour_sum_to_what_was_charged_and_shared() -> None:
    """No hour pays more than it has: fees, nodes, referrals, what goes back."""
    _, payout = played()
    into: dict[str, int] = {}
    out: dict[str, int] = {}
    for each in payout.books.transfers.values():
        assert isinstance(each, Transfer)
        into[each.target] = into.get(each.target, 0) + each.amount
        out[each.source] = out.get(each.source, 0) + each.amount

    hours = [name for name in into if name.startswith("epoch:")]
    assert hours
    assert all(into[name] == out[name] for name in hours)
