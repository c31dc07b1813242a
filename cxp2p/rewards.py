"""Rewards: from rules, receipts and audits to what everybody gets, the same on every machine. Pure.

Two sources. What users were charged goes to the nodes that worked, less a fee, out of which who referred a user is
paid. A pool is shared by weighed units, up to a part of those charges. Whole µcredits only: no float, and no order of
the receipts, changes a result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import Annotated, Final, TypeVar

from annotated_types import Ge, Le, Len
from pydantic import Strict

from cxp2p.epochs import FREE, Entry
from cxp2p.errors import EpochInvalid
from cxp2p.kinds import Count, Digest, Label, Natural, PeerId, record
from cxp2p.known_models import KNOWN_MODELS, KNOWN_WEIGHTS, SizeClass, size_class
from cxp2p.receipts import digest
from cxp2p.records import Service, Verdict
from cxp2p.wire import encode

K = TypeVar("K", str, tuple[str, str])
MILLION: Final = 1_000_000
Ppm = Annotated[int, Strict(), Ge(0), Le(MILLION)]


@record
class UnitWeight:
    """What a unit of input, and of output, of a service weighs. Input that was in a cache weighs nothing."""

    service: Service
    input: Count
    output: Count


@record
class SizeWeight:
    """By what a unit's weight is multiplied if its model is of this size."""

    size: SizeClass
    factor: Count


@record
class ModelSize:
    """The size of the model that these weights are."""

    model_digest: Digest
    size: SizeClass


@record
class Rules:
    """All that rewards depend on besides receipts and audits. `rules_hash` is its name.

    `pool`: µcredits an epoch. `match_ppm`: a node's share of it is at most so much of what users were charged for the
    work that shares in it. `models`: weights that are not listed count as the smallest size: a name proves nothing.
    `gateways`: whose receipts share the pool; none listed: everybody's. `fee_ppm`: of a charge. `referral_ppm`: of the
    fee; `referral_max`: µcredits for one who refers, an epoch. `points_ppm`: points for a credit of charges.

    Who orders from himself keeps what he is charged, but for the fee, of which he may get the referral's part. So the
    pool makes that pay as soon as `match_ppm` is over what is left of the fee, unless `gateways` keeps him out.
    """

    name: Label
    pool: Natural
    match_ppm: Natural
    units: Annotated[tuple[UnitWeight, ...], Len(0, 16)]
    sizes: Annotated[tuple[SizeWeight, ...], Len(0, 16)]
    models: Annotated[tuple[ModelSize, ...], Len(0, 1024)]
    gateways: Annotated[tuple[PeerId, ...], Len(0, 1024)]
    fee_ppm: Ppm
    referral_ppm: Ppm
    referral_max: Natural
    points_ppm: Ppm


def known_sizes() -> tuple[ModelSize, ...]:
    """The weights whose size is known and not the smallest, by digest."""
    parameters = {known.name: known.parameters for known in KNOWN_MODELS}
    sizes = {bytes.fromhex(digest): size_class(parameters[name]) for digest, name in KNOWN_WEIGHTS}
    return tuple(ModelSize(model_digest=digest, size=sizes[digest]) for digest in sorted(sizes))


DEFAULT_RULES: Final = Rules(
    name="cxp2p default 3",
    pool=1_000 * MILLION,
    match_ppm=30_000,
    units=(
        UnitWeight(service=Service.CHAT, input=10, output=40),
        UnitWeight(service=Service.EMBED, input=1, output=0),
        UnitWeight(service=Service.SPEECH, input=0, output=1),
        UnitWeight(service=Service.SCRAPE, input=0, output=2_000),
    ),
    sizes=(
        SizeWeight(size=SizeClass.TIDE_POOL, factor=1),
        SizeWeight(size=SizeClass.BLUE_SURGE, factor=2),
        SizeWeight(size=SizeClass.OPEN_OCEAN, factor=5),
        SizeWeight(size=SizeClass.MARIANA_DEPTH, factor=20),
    ),
    models=known_sizes(),
    gateways=(),
    fee_ppm=50_000,
    referral_ppm=200_000,
    referral_max=10 * MILLION,
    points_ppm=1_000,
)


def rules_hash(rules: Rules) -> bytes:
    """SHA-256 of the rules' record: what an epoch's root names them by."""
    return digest(encode(rules))


@dataclass(frozen=True, slots=True)
class Audit:
    """What an auditor found of one receipt."""

    receipt_hash: bytes
    valid: bool


@dataclass(frozen=True, slots=True)
class Asker:
    """Whose use a receipt was, and who brought them. Only their own gateway knows: an epoch does not publish it."""

    user: str
    referrer: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReward:
    """What one node earns for one owner: `paid` by users, and its share of the `pool`.

    `caught`: an audit found one of the node's receipts invalid; it has no share of the pool then.
    """

    node: str
    owner: str
    receipts: int
    weight: int
    paid: int
    pool: int
    caught: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewards:
    """Everybody's. `charged` is all that nodes are `paid`, `fee`, referrals and `returned`; the nodes' shares and
    `pool_left`, what no charges match, are the pool. `returned`: charges of receipts that an audit found invalid.
    """

    rules_hash: bytes
    nodes: tuple[NodeReward, ...]
    referrals: Mapping[str, int]
    points: Mapping[str, int]
    charged: int
    returned: int
    fee: int
    pool: int
    pool_left: int


def rewards(
    rules: Rules,
    receipts: Iterable[Entry],
    verdicts: Iterable[Audit] = (),
    askers: Mapping[bytes, Asker] = MappingProxyType({}),
) -> Rewards:
    """What everybody gets for the receipts of one epoch, of one gateway or of several.

    `askers`, by receipt hash, if they are known; points of others are counted for their gateway. Raises EpochInvalid
    for a receipt that comes twice, and for verdicts that contradict each other.
    """
    count = _Count(rules, _found(verdicts), askers)
    for entry in receipts:
        count.add(entry)
    sums, caught = count.sums, count.caught
    fees = {who: -(-each["charged"] * rules.fee_ppm // MILLION) for who, each in sums.items()}
    referrals = _referrals(rules, count.referred)
    shares = _shares(rules, {who: each for who, each in sums.items() if who[0] not in caught})
    return Rewards(
        rules_hash=rules_hash(rules),
        nodes=tuple(
            NodeReward(
                node=who[0],
                owner=who[1],
                receipts=sums[who]["receipts"],
                weight=sums[who]["weight"],
                paid=sums[who]["charged"] - fees[who],
                pool=shares.get(who, 0),
                caught=who[0] in caught,
            )
            for who in sorted(sums)
        ),
        referrals=referrals,
        points=_rounded(count.used, rules.points_ppm),
        charged=sum(each["charged"] for each in sums.values()) + count.returned,
        returned=count.returned,
        fee=sum(fees.values()) - sum(referrals.values()),
        pool=rules.pool,
        pool_left=rules.pool - sum(shares.values()),
    )


def divide(pool: int, weights: Mapping[K, int]) -> dict[K, int]:
    """Shares by weight that sum to the pool exactly: what rounding leaves goes to the largest remainders, then by name.

    Nothing, if nobody weighs anything.
    """
    total = sum(weights.values())
    if not total:
        return {}
    shares = {who: pool * weight // total for who, weight in weights.items()}
    left = pool - sum(shares.values())
    for who in sorted(weights, key=lambda who: (-(pool * weights[who] % total), who))[:left]:
        shares[who] += 1
    return shares


def _shares(rules: Rules, sums: Mapping[tuple[str, str], Mapping[str, int]]) -> dict[tuple[str, str], int]:
    """Of the pool, by weight, but no more than charges match. What that takes from one is for the others.

    So who weighs much, and is charged nothing, takes nothing from anybody. Those whom charges limit first come first.
    """
    weights = {who: each["weight"] for who, each in sums.items() if each["weight"]}
    most = {who: sums[who]["sharing"] * rules.match_ppm // MILLION for who in weights}
    left, total, shares = rules.pool, sum(weights.values()), dict[tuple[str, str], int]()
    for who in sorted(weights, key=lambda who: (Fraction(most[who], weights[who]), who)):
        if most[who] * total > left * weights[who]:
            break
        shares[who] = most[who]
        left -= most[who]
        total -= weights.pop(who)
    return shares | divide(left, weights)


def _referrals(rules: Rules, referred: Mapping[str, int]) -> dict[str, int]:
    """Never more than the fees, which are rounded up."""
    parts = _rounded(referred, rules.referral_ppm, MILLION)
    return {who: min(part, rules.referral_max) for who, part in parts.items() if rules.referral_max}


def _rounded(amounts: Mapping[str, int], ppm: int, unit: int = 1) -> dict[str, int]:
    """A part of each, rounded down once, by name, without those who get nothing. `unit`: what the amounts count in."""
    parts = {who: amounts[who] * ppm // (MILLION * unit) for who in sorted(amounts)}
    return {who: part for who, part in parts.items() if part}


class _Count:
    """What the receipts add up to: sums alone, so that their order is nothing."""

    def __init__(self, rules: Rules, found: Mapping[bytes, bool], askers: Mapping[bytes, Asker]) -> None:
        self.sums: dict[tuple[str, str], Counter[str]] = {}  # by node and owner
        self.caught: set[str] = set()
        self.referred: Counter[str] = Counter()  # the fee, in millionths of a µcredit, by who referred the user
        self.used: Counter[str] = Counter()
        self.returned = 0
        self._rules, self._found, self._askers = rules, found, askers
        self._scales = _Scales(rules)
        self._seen: set[tuple[str, str, bytes, int]] = set()

    def add(self, entry: Entry) -> None:
        receipt, name = entry.receipt, entry.countersign.receipt_hash
        place = (receipt.gateway, *entry.key)
        if place in self._seen:
            what = f"seq {receipt.seq} of lane {receipt.lane.hex()} of node {receipt.node}"
            raise EpochInvalid(f"the receipt of {what} comes twice", entry.receipt_envelope)
        self._seen.add(place)
        sums = self.sums.setdefault((receipt.node, receipt.owner), Counter())
        sums["receipts"] += 1
        if not self._found.get(name, True):
            self.caught.add(receipt.node)
            self.returned += entry.amount
            return
        sums["charged"] += entry.amount
        if self._scales.shares(entry):
            sums["weight"] += self._scales.weight(entry)
            sums["sharing"] += entry.amount
        asker = self._askers.get(name, Asker(receipt.gateway))
        self.used[asker.user] += entry.amount
        if asker.referrer and asker.referrer != asker.user:
            self.referred[asker.referrer] += entry.amount * self._rules.fee_ppm


class _Scales:
    """What an entry weighs under the rules."""

    def __init__(self, rules: Rules) -> None:
        self._units = {each.service: each for each in rules.units}
        self._factors = {each.size: each.factor for each in rules.sizes}
        self._sizes = {each.model_digest: each.size for each in rules.models}
        self._gateways = frozenset(rules.gateways)

    def shares(self, entry: Entry) -> bool:
        return not self._gateways or entry.receipt.gateway in self._gateways

    def weight(self, entry: Entry) -> int:
        receipt, agreed = entry.receipt, entry.countersign
        unit = self._units.get(receipt.service)
        if unit is None or agreed.verdict is Verdict.DISPUTED or receipt.finish in FREE:
            return 0
        size = self._sizes.get(receipt.model_digest, SizeClass.TIDE_POOL)
        fresh = max(0, agreed.in_units - receipt.cached_units)
        return (fresh * unit.input + agreed.out_units * unit.output) * self._factors.get(size, 0)


def _found(verdicts: Iterable[Audit]) -> dict[bytes, bool]:
    found: dict[bytes, bool] = {}
    for audit in verdicts:
        if found.setdefault(audit.receipt_hash, audit.valid) != audit.valid:
            raise EpochInvalid(f"the verdicts on receipt {audit.receipt_hash.hex()} contradict each other")
    return found
