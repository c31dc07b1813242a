"""From jobs of real nodes and a real asker to a published epoch and everybody's rewards. In virtual time."""

from __future__ import annotations

import json

from trio.testing import MockClock

from cxp2p.epoch_files import published, read_epoch
from cxp2p.epochs import Inclusion, check_inclusion, close_epoch, open_entry, place_of
from cxp2p.identity import Kind, identity_from_seed
from cxp2p.kept_files import settlements_in
from cxp2p.receipts import HOURS
from cxp2p.rewards import DEFAULT_RULES, rewards, rules_hash
from cxp2p.wire import encode
from cxp2p_gateway.http import _signed
from worlds import EPOCH_MS, Ledgerbook, ScriptedEngine, ask, settled, world


async def test_what_nodes_and_asker_signed_makes_an_epoch(autojump_clock: MockClock) -> None:
    """Every receipt of real jobs is read from a gateway's answer, counts, is proven and is paid, to the µcredit."""
    async with world() as here:
        net, books = await here.asker(), Ledgerbook()
        gateway = identity_from_seed(here.peers.to_bytes(32, "big"))
        nodes = [await here.node(ScriptedEngine(name="echo", slots=1)) for _ in range(2)]
        await settled(net, len(nodes))
        for number in range(12):
            await ask(net, "word " * (number + 1), books=books)
    assert len(books.settled) == 12

    for each in books.settled:
        (read,) = settlements_in(json.dumps({"object": "receipt", "data": [_signed(each)], **_signed(each)}).encode())
        assert (read.receipt, read.order, read.countersign) == (each.receipt, each.order, each.countersign)

    entries = [open_entry(each.receipt_envelope, each.countersign_envelope) for each in books.settled]
    assert gateway.peer == entries[0].receipt.gateway
    root, ordered, tree = close_epoch(gateway.peer, HOURS.epoch_of(EPOCH_MS), entries, None, rules_hash(DEFAULT_RULES))
    envelope = gateway.seal(Kind.EPOCH_ROOT, encode(root))
    read_again = read_epoch(published(envelope, ordered))
    out = rewards(DEFAULT_RULES, read_again.entries)

    for index, entry in enumerate(ordered):
        inclusion = Inclusion(root=envelope, place=place_of(entry, tree.proof(index)))
        assert check_inclusion(inclusion) == (root, entry)
    assert root.sum == out.charged == sum(each.receipt.charge for each in books.settled) > 0
    assert sum(each.pool for each in out.nodes) == DEFAULT_RULES.pool - out.pool_left
    assert sum(each.receipts for each in out.nodes) == 12
    assert out == rewards(DEFAULT_RULES, entries)
