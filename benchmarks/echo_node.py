"""A node whose engine costs nothing, as a program: what is left of a job's time is the path's own."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import trio

from cxp2p.client import wall_ms
from cxp2p.peer import PeerSettings, open_peer
from cxp2p.records import Prices
from cxp2p_node.app import run_node
from cxp2p_node.engines.echo import Echo


async def serve(data_path: Path, bootstrap: str) -> None:
    peer = PeerSettings(listen=("/ip4/127.0.0.1/tcp/0",), bootstrap=(bootstrap,))
    prices = Prices(input=1, output=1)
    engines = (
        Echo("echo-at-once", prices, slots=64, units_per_s=1e9),
        Echo("echo-200-a-second", prices, slots=64, units_per_s=200),
    )
    rng = random.SystemRandom()
    async with (
        open_peer(peer, data_path) as (identity, network),
        run_node(identity, network, engines, wall_ms=wall_ms, rng=rng, exposure_max=10**9),
    ):
        sys.stdout.write(json.dumps({"event": "ready"}) + "\n")
        sys.stdout.flush()
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(serve, Path(sys.argv[1]), sys.argv[2])
