"""The hours of an economy: roots are signed and watched, receipts audited, everybody is paid, and liars convicted."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cxp2p.epochs import Entry, close_epoch
from cxp2p.evidence import Accusation, Evidence, check_evidence, omission, two_receipts, two_roots
from cxp2p.identity import Kind
from cxp2p.merkle import check_proof
from cxp2p.receipts import HOURS, digest
from cxp2p.records import Receipt
from cxp2p.rewards import MILLION, Asker, Audit
from cxp2p.wire import encode
from simulations.economy_books import Payout
from simulations.economy_peers import Gateway, GatewayConduct, Node, NodeConduct
from simulations.economy_rings import SelfDealers
from simulations.signing import RealSigning

if TYPE_CHECKING:
    from simulations.economy import Economy

OMITTED_SHARE: Final = 0.3  # of its receipts that a gateway leaves out which does so
FAKES: Final = (NodeConduct.CHEAP_MODEL, NodeConduct.GARBAGE)  # what an audit can find
RULES_HASH: Final = bytes(32)  # a run's receipts are paid under several rules


class Hours:
    """What counts for which hour, until it is closed and paid."""

    def __init__(self, economy: Economy) -> None:
        self.payouts: list[Payout] = []
        self.paid: Counter[str] = Counter()  # by gateway: what it gave for its receipts
        self.unpaid: Counter[str] = Counter()  # by node: what was agreed to, and not paid
        self.convicted: Counter[str] = Counter()  # by peer: how much evidence there is
        self.rings: list[SelfDealers] = []
        self._economy = economy
        self._open: dict[tuple[str, int], list[Entry]] = defaultdict(list)
        self._askers: dict[int, dict[bytes, Asker]] = defaultdict(dict)
        self._roots: dict[str, bytes] = {}

    def begin(self) -> None:
        """Closes hours as they end."""
        economy = self._economy
        first = HOURS.epoch_of(economy.clock.wall_ms())
        for epoch in range(first, first + math.ceil(economy.size.hours)):
            closes_s = (HOURS.closes_at_ms(epoch) - economy.clock.wall_ms()) / 1000
            economy.world.at(closes_s, self._close, epoch)

    def add(self, gateway: Gateway, entry: Entry, asker: Asker) -> None:
        """A receipt that was countersigned now."""
        epoch = HOURS.counts_for(entry.receipt.epoch, self._economy.clock.wall_ms())
        if epoch is not None:
            self._open[gateway.name, epoch].append(entry)
            self._askers[epoch][entry.countersign.receipt_hash] = asker

    def twice(self, first: bytes, second: bytes, receipt: Receipt) -> None:
        """A node sent a second receipt for one seq: two signatures that convict it."""
        self._convict(two_receipts(first, second), receipt.node)

    def _close(self, epoch: int) -> None:
        entries, askers = [], self._askers.pop(epoch, {})
        for gateway in self._economy.gateways:
            entries += self._publish(gateway, epoch, self._open.pop((gateway.name, epoch), []))
        for ring in self.rings:
            theirs, users = ring.hour(epoch)
            entries += theirs
            askers |= users
        drawn = self._drawn(entries)
        for payout in self.payouts:
            audits = [audit for audit, draw in drawn if draw < payout.rule_set.audit_ppm]
            payout.pay(epoch, entries, audits, askers)
        self._economy.world.touch(Money(self._economy, whole=epoch % 24 == 23))
        self._economy.world.note(f"epoch {epoch}: {[payout.books.account('fees').balance for payout in self.payouts]}")

    def _publish(self, gateway: Gateway, epoch: int, entries: list[Entry]) -> list[Entry]:
        """Signs the root of an hour, and returns the receipts that are paid."""
        economy, rng = self._economy, self._economy.world.rng("omitted")
        shown = entries
        if gateway.conduct in (GatewayConduct.OMITS, GatewayConduct.TWO_ROOTS):
            shown = [entry for entry in entries if rng.random() >= OMITTED_SHARE]
        before = self._roots.get(gateway.peer)
        root, ordered, tree = close_epoch(gateway.peer, epoch, shown, before, RULES_HASH)
        sealed = gateway.signer.seal(Kind.EPOCH_ROOT, encode(root))
        self._roots[gateway.peer] = digest(sealed)
        for at, entry in enumerate(ordered):
            check_proof(tree.root, entry.leaf(), tree.proof(at))
        kept = {entry.key for entry in shown}
        left_out = [entry for entry in entries if entry.key not in kept]
        if left_out and economy.policy.watches:
            if gateway.conduct is GatewayConduct.TWO_ROOTS:
                other, _, _ = close_epoch(gateway.peer, epoch, entries, before, RULES_HASH)
                self._convict(two_roots(sealed, gateway.signer.seal(Kind.EPOCH_ROOT, encode(other))), gateway.peer)
            else:
                self._convict(omission(sealed, left_out[0], ordered, tree), gateway.peer)
            shown, left_out = entries, []
        return self._settle(gateway, epoch, shown, left_out)

    def _settle(self, gateway: Gateway, epoch: int, shown: list[Entry], left_out: list[Entry]) -> list[Entry]:
        """Pays for what the root shows, or nodes have shown since, if the gateway pays at all."""
        if gateway.conduct is GatewayConduct.NEVER_PAYS:
            shown, left_out = [], shown
        for entry in left_out:
            self.unpaid[entry.receipt.node] += entry.amount
        owed = sum(entry.amount for entry in shown)
        self._economy.credit.pay(gateway.name, epoch, owed)
        self.paid[gateway.name] += owed
        return shown

    def open_amount(self, gateway: str) -> int:
        """What a gateway's receipts are worth that no root shows yet."""
        return sum(entry.amount for (name, _), entries in self._open.items() if name == gateway for entry in entries)

    def _drawn(self, entries: Sequence[Entry]) -> list[tuple[Audit, int]]:
        """What an audit of each receipt would find, and below which share of audits it is not made."""
        rng, found_ppm = self._economy.world.rng("audits"), self._economy.policy.found_ppm
        drawn = []
        for entry in entries:
            draw, luck = rng.randrange(MILLION), rng.randrange(MILLION)
            node: Node | None = self._economy.by_peer.get(entry.receipt.node)
            found = node is not None and node.conduct in FAKES and luck < found_ppm
            drawn.append((Audit(entry.countersign.receipt_hash, not found), draw))
        return drawn

    def _convict(self, evidence: Evidence, peer: str) -> None:
        """Whoever has real signatures checks what the evidence proves."""
        if isinstance(self._economy.signing, RealSigning):
            accusation: Accusation = check_evidence(encode(evidence))
            assert accusation.peer == peer, accusation
        self.convicted[peer] += 1


@dataclass(frozen=True, slots=True)
class Money:
    """All books, when an hour was paid. `whole`: from their first transfer on, which takes a while."""

    economy: Economy
    whole: bool

    def faults(self) -> list[str]:
        economy = self.economy
        faults = []
        for gateway in economy.gateways:
            if gateway.conduct is GatewayConduct.HONEST:
                owed, left = economy.credit.owed(gateway.name), economy.hours.open_amount(gateway.name)
                if owed != left:
                    faults.append(f"{gateway.name} holds {owed} µcredits for receipts of {left}")
        if self.whole:
            faults += economy.credit.faults()
            for payout in economy.hours.payouts:
                faults += payout.faults()
        return faults
