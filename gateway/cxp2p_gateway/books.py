"""The books of one request: its orders are held, posted and voided in the store, on its caller's account and key."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

import trio

from cxp2p.client import Settlement
from cxp2p.receipts import Delivered
from cxp2p.records import Order
from cxp2p_gateway.asking import Caller, RateLimited
from cxp2p_gateway.limits import Demand, limits_of, tokens_of
from cxp2p_gateway.metrics.money import MoneyMeter
from cxp2p_gateway.rates import Counted, Rate, corrected, state
from cxp2p_gateway.store import Generation, Store
from cxp2p_gateway.store.orders import Arrived
from cxp2p_gateway.store.rows import SentOrder

log = logging.getLogger("cxp2p.dispatch")

HOLD_GRACE_MS: Final = 120_000  # after a job's deadline: a hold that is still open then was forgotten, which is a bug
HOLD_LIFE_S_MAX: Final = 86_400.0
RATES_REMEMBERED_MAX: Final = 1024  # keys, about 500 bytes each
BYTES_PER_TOKEN: Final = 4  # what an order allows are bytes: each may be a token, few are


class RatesSeen:
    """Where the rates of keys stand, as far as the books last said here: for the headers of answers.

    It decides nothing. Another gateway process may have let in more since.
    """

    def __init__(self) -> None:
        self._empty_at_us: OrderedDict[str, dict[Counted, int]] = OrderedDict()

    def see(self, key: str, rates: Mapping[Counted, Rate], now_us: int) -> None:
        """Remembers what the books just said; a key without rates needs no place."""
        if not rates:
            return
        self._empty_at_us[key] = {counted: now_us + rate.reset_us for counted, rate in rates.items()}
        self._empty_at_us.move_to_end(key)
        if len(self._empty_at_us) > RATES_REMEMBERED_MAX:
            self._empty_at_us.popitem(last=False)

    def correct(self, caller: Caller, tokens: int, now_us: int) -> None:
        """That a request took so many tokens more than was thought, or less."""
        seen = self._empty_at_us.get(caller.key)
        if seen is not None and caller.tpm is not None:
            seen[Counted.TOKENS] = corrected(caller.tpm, seen.get(Counted.TOKENS, 0), now_us, tokens)

    def of(self, caller: Caller, now_us: int) -> Mapping[Counted, Rate]:
        """Where they stand now. Of a key that has not asked here yet, all is left."""
        seen = self._empty_at_us.get(caller.key, {})
        return {counted: state(limit, seen.get(counted, 0), now_us) for counted, limit in limits_of(caller).items()}


class JobBooks:
    """The `Books` of one request, which may be several orders: only the first one counts for the key's rates."""

    def __init__(
        self,
        store: Store,
        caller: Caller,
        generation: str,
        wall_ms: Callable[[], int],
        life_s: float,
        meter: MoneyMeter,
        rates: RatesSeen,
    ) -> None:
        self._store = store
        self._caller = caller
        self._generation = generation
        self._wall_ms = wall_ms
        self._meter = meter
        self._rates = rates
        self._first = trio.Lock()
        self._admitted = False
        self._settled = False
        self._tokens: dict[bytes, int] = {}
        self._expires_at_ms = wall_ms() + round(min(life_s, HOLD_LIFE_S_MAX) * 1000) + HOLD_GRACE_MS

    async def reserve(self, order: Order, envelope: bytes) -> None:
        """Holds the most that the order may cost. Raises InsufficientCredit, KeyEnded, RateLimited."""
        sent = SentOrder(
            order_id=order.order_id.hex(),
            node=order.node,
            lane=order.lane,
            seq=order.seq,
            envelope=envelope,
            sent_at_ms=self._wall_ms(),
        )
        if self._admitted:
            await self._hold(order, sent, first=False)
            return
        async with self._first:  # orders that go at once: one of them counts, and the others wait for it
            await self._hold(order, sent, first=not self._admitted)
            self._admitted = True

    async def _hold(self, order: Order, sent: SentOrder, *, first: bool) -> None:
        tokens = _tokens(order) if first else 0
        demand = Demand(key=self._caller.key, request=self._generation, tokens=tokens, first=first)
        try:
            with self._meter.reserving():
                rates = await self._store.reserve(
                    order.order_id.hex(), self._caller.account, order.max_charge, self._expires_at_ms, demand, sent
                )
        except RateLimited as error:
            self._rates.see(self._caller.key, error.rates, self._wall_ms() * 1000)
            raise
        if tokens:
            self._tokens[order.order_id] = tokens
        self._rates.see(self._caller.key, rates, self._wall_ms() * 1000)

    async def promise(self, order: Order, voucher_envelope: bytes) -> None:
        """Agrees to what the order's hold covers already: a node that claims shows its voucher, which proves itself."""
        await trio.lowlevel.checkpoint()

    async def settle(self, settlement: Settlement) -> None:
        """Posts the countersigned charge to the node's account, and keeps what was signed."""
        order, agreed = settlement.order, settlement.countersign
        is_first, self._settled = not self._settled, True
        expected = self._tokens.pop(order.order_id, 0)
        with self._meter.posting(order.service, agreed.charge, agreed.verdict):
            caller = self._caller
            kept = generation_of(settlement, self._generation, caller.account, caller.key, self._wall_ms())
            await self._store.settle(
                replace(kept, app=caller.app, origin=caller.origin, streamed=caller.streamed),
                is_first=is_first,
                tokens_expected=expected,
            )
        more = tokens_of(order.service, agreed.in_units, agreed.out_units) - expected
        self._rates.correct(self._caller, more, self._wall_ms() * 1000)

    async def void(self, order: Order, reason: str, got: Delivered | None = None) -> None:
        """Gives the hold back, and keeps what arrived for a claim."""
        log.debug("order %s is void: %s", order.order_id.hex(), reason)
        with self._meter.voiding():
            await self._store.void(order.order_id.hex(), None if got is None else _arrived(got))


def generation_of(settlement: Settlement, generation: str, account: str, key: str, wall_ms: int) -> Generation:
    """What is kept of a settled order, and of what was signed about it, under the id that its client was given."""
    order, agreed = settlement.order, settlement.countersign
    return Generation(
        order_id=order.order_id.hex(),
        id=generation,
        account=account,
        key=key,
        model=order.model,
        node=order.node,
        charge=agreed.charge,
        in_units=agreed.in_units,
        out_units=agreed.out_units,
        finish=settlement.receipt.finish.value,
        created_at_ms=wall_ms,
        order_envelope=settlement.order_envelope,
        receipt_envelope=settlement.receipt_envelope,
        countersign_envelope=settlement.countersign_envelope,
        service=order.service.value,
    )


def _arrived(got: Delivered) -> Arrived:
    return Arrived(units=got.units, output_commit=got.commit, cancelled=got.cancelled, fault=got.fault)


def _tokens(order: Order) -> int:
    """About how many tokens the input is."""
    return tokens_of(order.service, -(-order.max_in // BYTES_PER_TOKEN), 0)
