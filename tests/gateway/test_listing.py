"""What the live nodes offer together, as cards, and the memory of what was ever offered."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cxp2p.directory import Entry, Via
from cxp2p.records import Capability, Load, Offer, Prices, Service
from cxp2p_gateway import listing
from cxp2p_gateway.listing import KnownModels, cards, live
from worlds import EPOCH_MS, capability


def entry(peer: str, *capabilities: Capability, alive_until: float = 10.0, **changes: object) -> Entry:
    offer = Offer(
        peer=peer,
        sequence=1,
        issued_at_ms=EPOCH_MS,
        expires_at_ms=EPOCH_MS + 60_000,
        addresses=(),
        agent="test",
        owner="",
        draining=False,
        capabilities=capabilities,
    )
    return Entry(replace(offer, **changes), b"", Via.DHT, 0, alive_until)  # type: ignore[arg-type]


def load(first_piece_ms: int, units_per_s: int) -> Load:
    return Load(running=0, queued=0, first_piece_ms=first_piece_ms, units_per_s=units_per_s, loading_ms=0)


def test_the_same_model_on_several_nodes_is_one_card() -> None:
    """The largest sizes, the lowest prices, the medians of those that measured."""
    prices = [Prices(input=5, output=50), Prices(input=9, output=20), Prices(input=7, output=30)]
    loads = [load(100, 10), load(0, 0), load(301, 20)]
    sizes = [(4096, 1024), (8192, 512), (2048, 2048)]
    entries = [
        entry(f"peer-{index}", capability("m", prices=price, load=a_load, context_units=context, output_units_max=out))
        for index, (price, a_load, (context, out)) in enumerate(zip(prices, loads, sizes, strict=True))
    ]
    (card,) = cards(entries, lambda model: 17)

    assert (card.model, card.service, card.since_s, card.nodes) == ("m", Service.CHAT, 17, 3)
    assert (card.context_units, card.output_units_max) == (8192, 2048)
    assert card.prices == Prices(input=5, output=20)
    assert (card.first_piece_ms_p50, card.units_per_s_p50) == (200, 15)
    assert [each.node for each in card.offered] == ["peer-0", "peer-1", "peer-2"]
    assert [each.capability.context_units for each in card.offered] == [4096, 8192, 2048]


def test_nodes_that_never_measured_have_no_median() -> None:
    """0 says that nobody knows."""
    (card,) = cards([entry("peer", capability("m"))], lambda model: 0)

    assert (card.first_piece_ms_p50, card.units_per_s_p50) == (0, 0)


def test_cards_are_by_name_and_by_service() -> None:
    """Two models of a node are two cards; one name in two services as well; one node counts once in each."""
    node = entry("peer", capability("b"), capability("a"), capability("a", service=Service.EMBED), capability("a"))
    found = cards([node], lambda model: 0)

    assert [(card.model, card.service, card.nodes) for card in found] == [
        ("a", Service.CHAT, 1),
        ("a", Service.EMBED, 1),
        ("b", Service.CHAT, 1),
    ]


@pytest.mark.parametrize(
    ("node", "is_live"),
    [
        (entry("peer"), True),
        (entry("peer", alive_until=5.0), False),
        (entry("peer", draining=True), False),
        (entry("peer", expires_at_ms=EPOCH_MS), False),
    ],
)
def test_who_is_live(node: Entry, is_live: bool) -> None:
    """A node that beats, does not drain, and whose offer stands."""
    assert bool(live([node], EPOCH_MS, 5.0)) == is_live


def test_a_node_that_failed_lately_is_still_listed() -> None:
    """Jobs avoid it for some seconds; a list does not flicker."""
    node = entry("peer")
    node.suspended_until = 60.0

    assert live([node], EPOCH_MS, 5.0) == (node,)


def test_models_are_known_from_the_first_time_on() -> None:
    """Also when nobody offers them any more; those of the catalogue always."""
    known = KnownModels(["from the catalogue", "smollm2:135m"])
    known.see([entry("peer", capability("m"))], 5_999)
    known.see([entry("peer", capability("m"), capability("n"))], 7_000)
    known.see([], 9_000)

    assert (known.since_s("m"), known.since_s("n")) == (5, 7)
    assert "m" in known
    assert "from the catalogue" in known
    assert "SmolLM2" in known
    assert "unheard-of" not in known


def test_known_models_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that names new models all the time pushes out its own, not those that others still offer."""
    monkeypatch.setattr(listing, "MODELS_KNOWN_MAX", 8)
    known = KnownModels()
    honest = entry("honest", capability("m"))
    for turn in range(20):
        known.see([entry("liar", *[capability(f"{turn}-{index}") for index in range(5)]), honest], turn * 1000)

    assert "m" in known
    assert known.since_s("m") == 0
    assert len(known._since_ms) == 8
