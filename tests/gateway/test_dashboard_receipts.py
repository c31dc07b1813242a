"""Receipts and what they prove, charts, and numbers as the dashboard shows them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from browsers import EMAIL, Browser, House, text_of
from cxp2p.client import Settlement
from cxp2p.identity import Kind, identity_from_seed
from cxp2p.receipts import digest
from cxp2p.wire import encode
from cxp2p_gateway import dashboard
from cxp2p_gateway.dashboard.charts import columns, days_back, used
from cxp2p_gateway.dashboard.receipt_pages import proofs_of
from cxp2p_gateway.dashboard.rendering import credits_of, short_of
from cxp2p_gateway.store.rows import UseSum
from doors import settlement_of

STYLE = Path(dashboard.__file__).parent / "static" / "style.css"
TODAY = "2026-09-21"


async def member(house: House, email: str = EMAIL) -> Browser:
    browser = Browser(house)
    assert (await browser.sign_up(email)).status == 200
    return browser


def test_charts_fit_their_box() -> None:
    """The largest value reaches the top, what is not nothing can be seen, and nothing is drawn of nothing."""
    chart = columns([("a", 1000), ("b", 1), ("c", 0)])
    assert [each.height for each in chart.columns] == [chart.height, 2.0, 0.0]
    assert chart.columns[-1].x + chart.columns[-1].width <= chart.width
    assert (chart.most, chart.total) == (1000, 1001)
    assert columns([]).most == 0
    assert days_back("2026-03-01", 3) == ["2026-02-27", "2026-02-28", "2026-03-01"]
    sums = [
        UseSum(group="a", service="chat", requests=1, in_units=1, out_units=2, charge=10),
        UseSum(group="a", service="embed", requests=2, in_units=3, out_units=0, charge=10),
        UseSum(group="b", service="chat", requests=9, in_units=0, out_units=0, charge=5),
    ]
    assert [(each.name, each.requests, each.units, each.percent) for each in used(sums)] == [
        ("a", 3, 6, 100.0),
        ("b", 9, 0, 25.0),
    ]


def test_numbers_are_shown_as_people_read_them() -> None:
    """Credits without needless zeros, long ids by their ends."""
    assert [credits_of(micro) for micro in (0, 45, 1_000_000, 12_500_000, 10**12)] == [
        "0",
        "0.000045",
        "1",
        "12.5",
        "1,000,000",
    ]
    assert short_of("chatcmpl-01M3250V00V3RS3DTR98H6B029", 18) == "chatcmpl-…98H6B029"
    assert short_of("short") == "short"


def signed_settlement() -> Settlement:
    """Three records that were really signed."""
    gateway, node = identity_from_seed(b"g" * 32), identity_from_seed(b"n" * 32)
    made = settlement_of()
    order = replace(made.order, gateway=gateway.peer, node=node.peer)
    order_envelope = gateway.seal(Kind.ORDER, encode(order))
    receipt = replace(made.receipt, gateway=gateway.peer, node=node.peer, order_hash=digest(order_envelope))
    receipt_envelope = node.seal(Kind.RECEIPT, encode(receipt))
    agreed = replace(made.countersign, receipt_hash=digest(receipt_envelope))
    return Settlement(
        order=order,
        order_envelope=order_envelope,
        receipt=receipt,
        receipt_envelope=receipt_envelope,
        countersign=agreed,
        countersign_envelope=gateway.seal(Kind.COUNTERSIGN, encode(agreed)),
    )


def test_a_receipt_proves_what_it_says_and_nothing_when_it_was_touched() -> None:
    """Each statement fails for what it is about."""
    good = signed_settlement()
    assert [proof.holds for proof in proofs_of(good)] == [True] * 7
    forged: list[tuple[int, Any]] = [
        (0, {"order_envelope": good.order_envelope[:-1] + b"x"}),
        (1, {"receipt_envelope": good.countersign_envelope}),
        (2, {"countersign_envelope": good.receipt_envelope}),
        (3, {"receipt": replace(good.receipt, order_hash=b"x" * 32)}),
        (4, {"countersign": replace(good.countersign, receipt_hash=b"x" * 32)}),
        (5, {"receipt": replace(good.receipt, request_commit=b"x" * 32)}),
        (6, {"countersign": replace(good.countersign, charge=good.receipt.charge + 1)}),
    ]
    for index, change in forged:
        assert not proofs_of(replace(good, **change))[index].holds


async def test_a_receipt_is_its_owners() -> None:
    """All three records are shown with their bytes; to others there is no such page."""
    house = House()
    ada, eve = await member(house), await member(house, "eve@example.org")
    owner = next(user.id for user in house.tables.people.values() if user.email == EMAIL)
    house.door.kept["chatcmpl-1"] = [(owner, signed_settlement())]
    source = text_of(await ada.get("/dashboard/receipts/chatcmpl-1"))
    assert source.count('aria-label="Holds"') == 7
    for record in ("order", "receipt", "countersign"):
        assert f"<summary>The {record}</summary>" in source
    assert (await eve.get("/dashboard/receipts/chatcmpl-1")).status == 404
