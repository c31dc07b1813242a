"""The money of an economy: users' credit by the ledger's rules, hours by the epochs', and what rule sets make of them.

One run's receipts are paid under several rule sets, each in books of its own, so that they can be compared.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cxp2p import ledger
from cxp2p.epochs import Entry
from cxp2p.ledger import NETWORK, Change, Ledger
from cxp2p.records import Order
from cxp2p.rewards import Asker, Audit, Rules, rewards

GRANT = 10**12  # what a user begins with: money is no limit here
HOLD_MS = 700_000  # longer than any job


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleSet:
    """Reward rules under a name.

    `audit_ppm`: of the receipts that somebody audits; spot checks are not built yet, so here they are a number.
    `forfeit_jobs`: a node that an audit catches loses a deposit of what so many jobs cost. The rules of rewards have no
    word for that yet.
    """

    name: str
    rules: Rules
    audit_ppm: int = 0
    forfeit_jobs: int = 0


class Credit:
    """Users' credit at their gateways: held before an order leaves, posted by its receipt."""

    def __init__(self, users: Sequence[str]) -> None:
        self.books = Ledger()
        for user in users:
            self.books.apply(ledger.transfer(self.books, f"grant:{user}", NETWORK, user, GRANT))

    def hold(self, user: str, order: Order, wall_ms: int) -> None:
        """Sets aside the most that the order may cost."""
        self._do(ledger.reserve(self.books, order.order_id.hex(), user, order.max_charge, wall_ms + HOLD_MS))

    def post(self, order: Order, charge: int, gateway: str) -> None:
        """Moves the charge to where the gateway keeps what it owes nodes."""
        self._do(ledger.post(self.books, order.order_id.hex(), charge, _owed(gateway)))

    def void(self, order: Order) -> None:
        """Gives all of it back."""
        self._do(ledger.void(self.books, order.order_id.hex()))

    def pay(self, gateway: str, epoch: int, amount: int) -> None:
        """A gateway pays what its root says. Raises InsufficientCredit if it has not charged that much."""
        if amount:
            source, target = _owed(gateway), f"epoch:{epoch}"
            self._do(ledger.transfer(self.books, f"{target}:{gateway}", source, target, amount))

    def owed(self, gateway: str) -> int:
        """What users were charged and no root has paid yet."""
        return self.books.account(_owed(gateway)).balance

    def faults(self) -> list[str]:
        """What is wrong with the books as a whole."""
        books = self.books
        return list(ledger.audit(books.accounts.values(), books.holds.values(), books.transfers.values()))

    def _do(self, change: Change) -> None:
        self.books.apply(change)


def _owed(gateway: str) -> str:
    return f"owed:{gateway}"


class Payout:
    """What one rule set pays, hour by hour. `forfeited`: what nodes lost that audits caught."""

    def __init__(self, rule_set: RuleSet) -> None:
        self.rule_set = rule_set
        self.books = Ledger()
        self.points: Counter[str] = Counter()
        self.forfeited: Counter[str] = Counter()
        self.pool = 0
        self._latest: dict[str, deque[int]] = {}

    def pay(self, epoch: int, entries: Sequence[Entry], audits: Sequence[Audit], askers: Mapping[bytes, Asker]) -> None:
        """Pays one hour. Raises LedgerError or InsufficientCredit if it would pay more than there is."""
        out = rewards(self.rule_set.rules, entries, audits, askers)
        self.points.update(out.points)
        self.pool += out.pool - out.pool_left
        source = f"epoch:{epoch}"
        self._move(f"{source}:in", NETWORK, source, out.charged + out.pool - out.pool_left)
        for each in out.nodes:
            self._move(f"{source}:{each.node}:{each.owner}", source, each.owner or each.node, each.paid + each.pool)
        for who, amount in out.referrals.items():
            self._move(f"{source}:referral:{who}", source, who, amount)
        self._move(f"{source}:fee", source, "fees", out.fee)
        self._move(f"{source}:returned", source, "returned", out.returned)
        if left := self.books.account(source).balance:
            raise ledger.LedgerError(f"{left} µcredits of epoch {epoch} are with nobody")
        self._forfeit(entries, audits)

    def has(self, who: str) -> int:
        """What somebody was paid so far."""
        return self.books.account(who).balance

    def faults(self) -> list[str]:
        """What is wrong with the books as a whole."""
        books = self.books
        return list(ledger.audit(books.accounts.values(), books.holds.values(), books.transfers.values()))

    def _forfeit(self, entries: Sequence[Entry], audits: Sequence[Audit]) -> None:
        """Who is caught loses his deposit, and pays another one in, as he goes on."""
        jobs = self.rule_set.forfeit_jobs
        bad = {audit.receipt_hash for audit in audits if not audit.valid}
        for entry in entries if jobs else ():
            node, name = entry.receipt.node, entry.countersign.receipt_hash
            latest = self._latest.setdefault(node, deque(maxlen=jobs))
            latest.append(entry.amount)
            if name in bad:
                lost = sum(latest) * jobs // len(latest)
                self.forfeited[node] += lost
                self._move(f"forfeit:{name.hex()}", NETWORK, "forfeited", lost)

    def _move(self, name: str, source: str, target: str, amount: int) -> None:
        if amount:
            self.books.apply(ledger.transfer(self.books, name, source, target, amount))
