"""For tests, ours and other people's: what every network must do, and records with only what matters said.

`NETWORK_CHECKS` is the contract of the seam in `cxp2p.net`. Run each check with a way to open peers of one network:

    @pytest.mark.parametrize("check", NETWORK_CHECKS, ids=check_name)
    async def test_my_network(check: NetworkCheck) -> None:
        async with my_network() as open_peer:
            await check(open_peer)

A check raises AssertionError, or whatever the network wrongly raised; one that hangs breaks the contract too, so run it
under a deadline. The checks need no real time: under trio's MockClock with `autojump_threshold=0` they take none.
"""

from __future__ import annotations

from typing import Final

from cxp2p.testing.peers import (
    check_both_open_at_once,
    check_cancelling,
    check_dht_offer,
    check_dht_providers,
    check_dht_refuses,
    check_dht_refuses_roots,
    check_dht_roots,
    check_kill,
    check_leaving,
    check_peer_returns,
    check_unknown_protocol,
    check_unreachable,
    check_wrong_peer_id,
)
from cxp2p.testing.records import make_capability, make_identity, make_offer, make_root, sealed_offer, sealed_root
from cxp2p.testing.streams import (
    check_back_pressure,
    check_close,
    check_close_is_told,
    check_echo,
    check_half_close,
    check_handler_raises,
    check_large_transfer,
    check_reset,
    check_stream_limit,
    check_streams_end,
)
from cxp2p.testing.tools import NetworkCheck, OpenPeer

__all__ = [
    "NETWORK_CHECKS",
    "NetworkCheck",
    "OpenPeer",
    "check_name",
    "make_capability",
    "make_identity",
    "make_offer",
    "make_root",
    "sealed_offer",
    "sealed_root",
]

NETWORK_CHECKS: Final[tuple[NetworkCheck, ...]] = (
    check_echo,
    check_large_transfer,
    check_back_pressure,
    check_half_close,
    check_close,
    check_close_is_told,
    check_reset,
    check_handler_raises,
    check_stream_limit,
    check_streams_end,
    check_unknown_protocol,
    check_unreachable,
    check_peer_returns,
    check_wrong_peer_id,
    check_both_open_at_once,
    check_kill,
    check_leaving,
    check_cancelling,
    check_dht_offer,
    check_dht_refuses,
    check_dht_providers,
    check_dht_roots,
    check_dht_refuses_roots,
)
"""The contract of `cxp2p.net`, one truth each."""


def check_name(check: NetworkCheck) -> str:
    """What to call a check in a report: its name without `check_`."""
    return str(getattr(check, "__name__", check)).removeprefix("check_")
