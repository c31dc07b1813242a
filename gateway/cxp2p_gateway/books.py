"""The books of one request: its orders are held, posted and voided in the store, on its caller's account and key."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final

import trio

from cxp2p.client import Settlement
from cxp2p.records import Order, Service
from cxp2p_gateway.asking import Caller
from cxp2p_gateway.limits import Counted, Demand
from cxp2p_gateway.metrics.money import MoneyMeter
from cxp2p_gateway.rates import Rate
from cxp2p_gateway.store import Generation, Store

log = logging.getLogger("cxp2p.dispatch")

HOLD_GRACE_MS: Final = 120_000  # after a job's deadline: a hold that is still open then was forgotten, which is a bug
HOLD_LIFE_S_MAX: Final = 86_400.0
RATES_REMEMBERED_MAX: Final = 1024  # keys, about 500 bytes each
BYTES_PER_TOKEN: Final = 4  # what an order allows are bytes: each may be a token, few are


class RatesSeen:
    """Where the rates of keys stood when they last asked, for the headers of their answers."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Mapping[Counted, Rate]] = OrderedDict()

    def see(self, key: str, rates: Mapping[Counted, Rate]) -> None:
        """Remembers what the books just said; a key without rates needs no place."""
        if not rates:
            return
        self._kept[key] = rates
        self._kept.move_to_end(key)
        if len(self._kept) > RATES_REMEMBERED_MAX:
            self._kept.popitem(last=False)

    def of(self, key: str) -> Mapping[Counted, Rate]:
        """What was last seen of a key."""
        return self._kept.get(key, {})


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
        if self._admitted:
            await self._hold(order, first=False)
            return
        async with self._first:  # orders that go at once: one of them counts, and the others wait for it
            await self._hold(order, first=not self._admitted)
            self._admitted = True

    async def _hold(self, order: Order, *, first: bool) -> None:
        tokens = _tokens(order) if first else 0
        demand = Demand(key=self._caller.key, request=self._generation, tokens=tokens, first=first)
        with self._meter.reserving():
            rates = await self._store.reserve(
                order.order_id.hex(), self._caller.account, order.max_charge, self._expires_at_ms, demand
            )
        if tokens:
            self._tokens[order.order_id] = tokens
        self._rates.see(self._caller.key, rates)

    async def settle(self, settlement: Settlement) -> None:
        """Posts the countersigned charge to the node's account, and keeps what was signed."""
        order, agreed = settlement.order, settlement.countersign
        is_first, self._settled = not self._settled, True
        with self._meter.posting(order.service, agreed.charge):
            await self._store.settle(
                Generation(
                    order_id=order.order_id.hex(),
                    id=self._generation,
                    account=self._caller.account,
                    key=self._caller.key,
                    model=order.model,
                    node=order.node,
                    charge=agreed.charge,
                    in_units=agreed.in_units,
                    out_units=agreed.out_units,
                    finish=settlement.receipt.finish.value,
                    created_at_ms=self._wall_ms(),
                    order_envelope=settlement.order_envelope,
                    receipt_envelope=settlement.receipt_envelope,
                    countersign_envelope=settlement.countersign_envelope,
                    service=order.service.value,
                    app=self._caller.app,
                    origin=self._caller.origin,
                    streamed=self._caller.streamed,
                ),
                is_first=is_first,
                tokens_expected=self._tokens.pop(order.order_id, 0),
            )

    async def void(self, order: Order, reason: str) -> None:
        """Gives the hold back."""
        log.debug("order %s is void: %s", order.order_id.hex(), reason)
        with self._meter.voiding():
            await self._store.void(order.order_id.hex())


def _tokens(order: Order) -> int:
    """About how many tokens the input is."""
    if order.service not in (Service.CHAT, Service.EMBED):
        return 0
    return -(-order.max_in // BYTES_PER_TOKEN)
