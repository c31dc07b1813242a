"""How much a node lets each gateway owe, and what makes that less: work that was not countersigned. Pure.

A gateway owes what is reserved for its running jobs, and its receipts that it has not agreed to. Each of those that it
leaves unanswered for 30 s, or disputes, takes a third off its limit: after three it gets no work. A countersign that
comes later gives the third back.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from cxp2p import protocols
from cxp2p.records import Refusal, RefusalCode

UNANSWERED_MAX: Final = 3  # receipts of one gateway; then it gets no more work
UNSETTLED_MAX: Final = 1024  # receipts of one gateway: as many as are on their way at most, and a few
DISPUTE_MS: Final = 24 * 3_600_000  # a dispute weighs so long: a receipt that old counts for no epoch
AGREED_PER_DISPUTE: Final = 20  # times what is in dispute must be agreed to, to make up for it
GATEWAYS_MAX: Final = 4096
SILENCE_MS: Final = round(protocols.COUNTERSIGN_TIMEOUT_S * 1000)
RETRY_MS: Final = 5_000
RETRY_MS_MAX: Final = 60_000  # of who has no limit left: only a countersign helps


@dataclass(slots=True)
class Owed:
    """One receipt that its gateway has not agreed to: what no voucher covers of it, and since when."""

    amount: int
    since_ms: int
    disputed: bool = False

    def weighs(self, wall_ms: int) -> bool:
        """Whether the gateway has had its time, and did not agree."""
        return self.disputed or wall_ms - self.since_ms >= SILENCE_MS

    def is_past(self, wall_ms: int) -> bool:
        """Whether it is a dispute that no longer weighs."""
        return self.disputed and wall_ms - self.since_ms >= DISPUTE_MS


@dataclass(slots=True)
class _Account:
    reserved: int = 0
    agreed: int = 0
    owed: OrderedDict[bytes, Owed] = field(default_factory=OrderedDict)


class Exposures:
    """What each gateway owes a node, at most `exposure_max` µcredits. Bounded: who owes nothing is forgotten first."""

    def __init__(self, exposure_max: int) -> None:
        self.exposure_max = exposure_max
        self._accounts: OrderedDict[str, _Account] = OrderedDict()

    def limit(self, gateway: str, wall_ms: int) -> int:
        """µcredits that `gateway` may owe now."""
        account = self._accounts.get(gateway)
        if account is None:
            return self.exposure_max
        self._forget_past(account, wall_ms)
        unanswered = sum(owed.weighs(wall_ms) for owed in account.owed.values())
        return self.exposure_max * max(0, UNANSWERED_MAX - unanswered) // UNANSWERED_MAX

    def exposure(self, gateway: str, wall_ms: int) -> int:
        """µcredits that `gateway` may owe: the reserves of running jobs, and receipts without a countersign."""
        account = self._accounts.get(gateway)
        if account is None:
            return 0
        self._forget_past(account, wall_ms)
        return account.reserved + sum(owed.amount for owed in account.owed.values())

    def refusal(self, gateway: str, reserve: int, wall_ms: int) -> Refusal | None:
        """Why a job for which `reserve` would be set aside must be refused, or None."""
        account = self._accounts.get(gateway)
        if account is not None and len(account.owed) >= UNSETTLED_MAX:
            return _no(f"{UNSETTLED_MAX} receipts are not countersigned yet", RETRY_MS)
        exposed, limit = self.exposure(gateway, wall_ms), self.limit(gateway, wall_ms)
        if exposed + reserve <= limit:
            return None
        why = f"{exposed} µcredits are not countersigned yet, this job may add {reserve}, the limit is {limit}"
        return _no(why, RETRY_MS if limit else RETRY_MS_MAX)

    def reserve(self, gateway: str, amount: int) -> None:
        """Sets `amount` aside for a job that begins."""
        self._account(gateway).reserved += amount

    def release(self, gateway: str, amount: int) -> None:
        """The job is over."""
        self._account(gateway).reserved -= amount

    def owe(self, gateway: str, receipt_hash: bytes, owed: Owed) -> None:
        """A receipt waits for its countersign, or has one that disputes it."""
        self._account(gateway).owed[receipt_hash] = owed

    def agreed(self, gateway: str, receipt_hash: bytes) -> bytes | None:
        """The gateway agreed to a receipt. Returns the receipt whose dispute this makes up for, if it does.

        It is money that makes up for it: else twenty tiny jobs would pay for a large one.
        """
        account = self._accounts.get(gateway)
        if account is None:
            return None
        paid = account.owed.pop(receipt_hash, None)
        account.agreed += paid.amount if paid is not None else 0
        disputed = next((key for key, owed in account.owed.items() if owed.disputed), None)
        if disputed is None or account.agreed < AGREED_PER_DISPUTE * account.owed[disputed].amount:
            return None
        account.agreed = 0
        del account.owed[disputed]
        return disputed

    def disputed(self, gateway: str, receipt_hash: bytes) -> None:
        """The gateway will not pay for a receipt."""
        account = self._accounts.get(gateway)
        if account is not None and receipt_hash in account.owed:
            account.owed[receipt_hash].disputed = True
            account.agreed = 0

    def dropped(self, gateway: str, receipt_hash: bytes) -> None:
        """The node keeps a receipt no longer, so that it can never be agreed to."""
        account = self._accounts.get(gateway)
        if account is not None:
            account.owed.pop(receipt_hash, None)

    def _account(self, gateway: str) -> _Account:
        account = self._accounts.setdefault(gateway, _Account())
        self._accounts.move_to_end(gateway)
        if len(self._accounts) > GATEWAYS_MAX:
            self._forget_one(gateway)
        return account

    def _forget_one(self, but: str) -> None:
        """The longest unseen gateway goes that owes nothing; if all do, one without running jobs."""
        idle = [(name, account) for name, account in self._accounts.items() if name != but and not account.reserved]
        free = next((name for name, account in idle if not account.owed), None)
        name = free or next((name for name, _ in idle), None)
        if name is not None:
            del self._accounts[name]

    @staticmethod
    def _forget_past(account: _Account, wall_ms: int) -> None:
        for key in [key for key, owed in account.owed.items() if owed.is_past(wall_ms)]:
            del account.owed[key]


def _no(reason: str, retry_after_ms: int) -> Refusal:
    return Refusal(code=RefusalCode.EXPOSURE, reason=reason, retry_after_ms=retry_after_ms)
