"""What a node's gateways owe it, counted another way than `cxp2p.lanes` does, to hold that to its limit."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from cxp2p.exposure import DISPUTE_MS


@dataclass(slots=True)
class _Account:
    total: int = 0
    since: deque[tuple[float, bytes]] = field(default_factory=deque)
    open: dict[bytes, int] = field(default_factory=dict)


class Owing:
    """Receipts by gateway that were not countersigned, and not written off: those are in `lost`, in µcredits."""

    def __init__(self) -> None:
        self.lost: Counter[str] = Counter()
        self._accounts: dict[str, _Account] = {}
        self._grown: dict[str, None] = {}  # who owes more than at the last look

    def owe(self, gateway: str, receipt_hash: bytes, charge: int, now: float) -> None:
        """A receipt went out."""
        if charge:
            account = self._accounts.setdefault(gateway, _Account())
            account.open[receipt_hash] = charge
            account.since.append((now, receipt_hash))
            account.total += charge
            self._grown[gateway] = None

    def pay(self, gateway: str, receipt_hash: bytes) -> None:
        """Its countersign came."""
        account = self._accounts.get(gateway)
        if account is not None:
            account.total -= account.open.pop(receipt_hash, 0)

    def total(self, gateway: str, now: float) -> int:
        """What a gateway owes now, after what is a day old was written off."""
        account = self._accounts.get(gateway)
        if account is None:
            return 0
        while account.since and account.since[0][0] < now - DISPUTE_MS / 1000:
            _, receipt_hash = account.since.popleft()
            charge = account.open.pop(receipt_hash, 0)
            account.total -= charge
            self.lost[gateway] += charge
        return account.total

    def grown(self, now: float) -> list[tuple[str, int]]:
        """What each gateway owes that owes more than at the last look."""
        grown, self._grown = self._grown, {}
        return [(gateway, self.total(gateway, now)) for gateway in grown]
