"""What py-libp2p 0.8.1 does wrong in look-ups of the DHT, one function a fault. `libp2p_fixes` has how it is flooded.

`tests/contracts/test_libp2p_look_ups.py` shows each fault in the stock code and its absence with the fix.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import libp2p.kad_dht.kad_dht as kad_dht
from libp2p.kad_dht.routing_table import RoutingTable

from cxp2p.net.libp2p_patch import replace

FIND_KEY_BYTES_MAX = 128  # what kad-dht allows where it gives values and providers


def apply() -> None:
    """Applies all of these."""
    fix_long_keys()
    fix_bucket_split()


def fix_long_keys() -> None:
    """Nobody answers a look-up of a key of more than 50 bytes (kad_dht/kad_dht.py:700, FIND_NODE).

    So `/cxp2p/<peer id>`, of 59 bytes, is put with those whom the putter knows itself, and looked for with those whom
    the reader knows: in a network that is larger than their tables they may have nobody in common. A key has to be a
    multihash or short; here it has to be no longer than a key of a value.
    Upstream: "FIND_NODE resets the stream for keys over 50 bytes that are no multihash: put_value() and get_value() of
    such keys never leave the local routing table."
    """

    def decode(key: bytes) -> bytes:
        if len(key) > FIND_KEY_BYTES_MAX:
            raise ValueError(f"a key of {len(key)} bytes")
        return key

    replace(kad_dht, "multihash", SimpleNamespace(decode=decode))


def fix_bucket_split() -> None:
    """Every full bucket is split, wherever it is (kad_dht/routing_table.py, `_should_split_bucket`), up to 256.

    A table then holds 5,100 peers instead of 200, each refresh looks up 257 keys instead of a dozen, and an answer
    takes 6 ms, as all of the table is hashed and sorted for it. Here only the bucket of the own id is split
    (Maymounkov and Mazières, 2002). What that does to look-ups is in `docs/simulations.md`.
    Upstream: "RoutingTable splits buckets that do not contain the local peer id."
    """
    stock = RoutingTable._should_split_bucket

    def should_split(self: Any, bucket: Any) -> bool:
        return bool(bucket.peer_id_in_range(self.local_id)) and stock(self, bucket)

    replace(RoutingTable, "_should_split_bucket", should_split)
