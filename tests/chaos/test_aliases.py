"""Models by their other names: askers may use them all, nodes offer one."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from cxp2p.errors import NoNode
from cxp2p.known_models import KNOWN_MODELS, name_of
from cxp2p.records import Service
from embedders import VectorEngine, vector_of
from worlds import Ledgerbook, ScriptedEngine, ask, settled, world

CHAT, EMBED = "smollm2:135m", "all-minilm-l6-v2"


def test_each_alias_is_of_one_model() -> None:
    """In any letters; what is no alias stays as it is, and so does one of another service."""
    aliases = [alias for known in KNOWN_MODELS for alias in (known.name, *known.aliases)]
    assert len(set(aliases)) == len(aliases)
    assert name_of("SmolLM2") == name_of(CHAT) == CHAT
    assert name_of("all-minilm", Service.EMBED) == EMBED
    assert name_of("all-minilm", Service.CHAT) == "all-minilm"
    assert name_of("Mine:7B") == "Mine:7B"


async def test_a_model_is_found_by_its_other_names(autojump_clock: MockClock) -> None:
    """Orders have the name that the node offers; who has just come waits for it all the same."""
    async with world() as here:
        net, books = await here.asker(), Ledgerbook()
        await here.node(ScriptedEngine(name=CHAT), VectorEngine(name=EMBED))
        assert (await net.embed("all-minilm", "text")).vectors == (vector_of("text"),)
        assert (await net.chat("smollm2", "one two three")).text == "one two three "
        assert await ask(net, books=books, model="SMOLLM2:135M") == "one two three "
        assert [each.order.model for each in books.settled] == [CHAT]
        with pytest.raises(NoNode, match=r"no live node offers 'llama3\.1:8b'"):
            await ask(net, model="llama3.1")


async def test_a_node_that_offers_just_the_alias_is_meant(autojump_clock: MockClock) -> None:
    """Somebody's own model of that name; it is another one than the catalogue's."""
    async with world() as here:
        net, books = await here.asker(), Ledgerbook()
        own = ScriptedEngine(name="smollm2")
        await here.node(own)
        await here.node(ScriptedEngine(name=CHAT))
        await settled(net, 2)
        for _ in range(4):
            await ask(net, books=books, model="smollm2")
        await trio.sleep(1)
        assert own.started == 4
