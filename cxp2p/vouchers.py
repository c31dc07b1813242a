"""Vouchers: what an asker agrees to while a job still runs, so that a node need not trust it with all of it. Pure.

A voucher covers output that arrived. When one is due, and how far a node goes without, is in PROTOCOL.md, Vouchers.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from cxp2p import protocols
from cxp2p.errors import RemoteProtocolError
from cxp2p.receipts import charge_of
from cxp2p.records import Order, Service, Voucher

FIRST_DISTANCE: Final = MappingProxyType(
    {
        Service.CHAT: protocols.VOUCHER_TOKENS,
        Service.EMBED: protocols.VOUCHER_VECTORS,
        Service.SPEECH: protocols.VOUCHER_AUDIO_MS,
        Service.SCRAPE: protocols.VOUCHER_PAGES,
    }
)
"""Units of output before the first voucher."""


def due(service: Service, units: int) -> int:
    """The last amount of output, at most `units`, at which a voucher was due; 0: none yet."""
    first, longest = FIRST_DISTANCE[service], protocols.VOUCHER_DISTANCE_MAX
    steps = units // first
    doubled = 2 * longest - 1  # 1 + 2 + 4 + … + longest
    if steps > doubled:
        return first * (doubled + longest * ((steps - doubled) // longest))
    return first * ((1 << (steps + 1).bit_length() - 1) - 1)


def reserve(order: Order) -> int:
    """The most µcredits of a job that no voucher covers: all of a short one, so much of a long one as is on its way."""
    window = FIRST_DISTANCE[order.service] * (protocols.VOUCHER_DISTANCE_MAX + protocols.VOUCHER_ROOM)
    return charge_of(order.prices, order.max_in, min(order.max_out, window))


def amount_due(order: Order, units: int) -> int:
    """What the vouchers of a job are worth together once `units` have arrived: the output alone."""
    return charge_of(order.prices, 0, due(order.service, units))


def make_voucher(order: Order, cum_charge: int, units: int) -> Voucher:
    """The asker's word that `units` of output arrived in a lane that had cost `cum_charge` before this order."""
    amount = cum_charge + charge_of(order.prices, 0, units)
    return Voucher(gateway=order.gateway, node=order.node, lane=order.lane, seq=order.seq, cum_amount=amount)


def check_voucher(order: Order, signer: str, voucher: Voucher, last: int) -> None:
    """Raises RemoteProtocolError for a voucher that is not the gateway's word on this job, or says no more than `last`.

    `last`: the `cum_amount` of the voucher before, or what the lane had cost before this order.
    """
    if signer != order.gateway:
        raise RemoteProtocolError("the voucher is not signed by the gateway of the order")
    for name in ("gateway", "node", "lane", "seq"):
        if getattr(voucher, name) != getattr(order, name):
            raise RemoteProtocolError(f"the voucher's {name} is not the order's")
    if voucher.cum_amount <= last:
        raise RemoteProtocolError(f"the voucher is over {voucher.cum_amount}, {last} were agreed to before")
    if voucher.cum_amount > order.cum_authorised:
        raise RemoteProtocolError(f"the voucher is over {voucher.cum_amount}, the order over {order.cum_authorised}")
