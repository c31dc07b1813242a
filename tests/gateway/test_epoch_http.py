"""Published epochs over HTTP: for anybody, as the document has them, and checked from their bytes alone."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any

import jsonschema_rs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from cxp2p.epoch_files import read_epoch
from cxp2p.epochs import Inclusion, check_inclusion, open_root
from cxp2p.errors import EpochInvalid
from cxp2p.kept_files import settlements_in
from cxp2p.receipts import HOURS, digest
from cxp2p.rewards import Rewards
from cxp2p.wire import decode
from cxp2p_gateway.archive import PAGE_PAUSE_S
from cxp2p_gateway.earnings import Earnings, Hold
from cxp2p_gateway.epoch_answers import standing_object
from cxp2p_gateway.epoch_endpoints import FILES_AT_ONCE_MAX, REWARDS_AT_ONCE_MAX
from cxp2p_gateway.http import BASES, Front
from cxp2p_gateway.openapi.document import ALL, document
from cxp2p_gateway.store.epochs import NotProven, Why
from cxp2p_gateway.store.memory import memory_store
from doors import CHAT, Answer, MemoryDoor, ask, chat_body, front
from hours import EPOCH, GATEWAY, entry
from test_closing import BEGIN_MS, CLOSES_MS, closing, opened, settle
from test_store import Clock

DOCUMENT = document("1")
ENTRIES = [entry(number % 3, number) for number in range(9)]


@dataclass
class Shown:
    """A front over books in which two epochs are closed and one is not."""

    app: Front
    clock: Clock

    async def get(self, path: str, base: str = "/v1") -> Answer:
        return await ask(self.app, "GET", base + path, key=None)


@pytest.fixture
async def shown(autojump_clock: MockClock) -> Shown:
    return await make_shown()


async def make_shown() -> Shown:
    clock = Clock()
    store = memory_store(clock)
    books = await opened(store)
    await settle(store, *ENTRIES)
    await settle(store, entry(0, 70, epoch=EPOCH + 1), at_ms=CLOSES_MS)
    await settle(store, entry(0, 71, epoch=EPOCH + 9), at_ms=HOURS.begins_at_ms(EPOCH + 9))
    clock.wall_ms = HOURS.closes_at_ms(EPOCH + 1)
    for _ in range(2):
        assert await closing(books, clock).close_next() is not None
    return Shown(front(MemoryDoor(books=store)), clock)


def validated(path: str, body: object) -> Any:
    """A JSON answer, once the document's schema of it is kept."""
    schema = ALL[path]["get"].answers["application/json"]
    whole = {**schema, "components": DOCUMENT["components"]}
    jsonschema_rs.validator_for(whole).validate(body)
    return body


@pytest.mark.parametrize("base", BASES)
async def test_closed_epochs_are_listed(shown: Shown, base: str) -> None:
    """Newest first, page by page, without a key; each with its signed root."""
    answer = await shown.get("/epochs", base)
    body = validated("/epochs", answer.json())
    assert answer.headers["cache-control"].startswith("public, max-age=")
    assert [each["epoch"] for each in body["data"]] == [EPOCH + 1, EPOCH]
    first = validated("/epochs", (await shown.get(f"/epochs?limit=1&before={EPOCH + 1}", base)).json())
    assert ([each["epoch"] for each in first["data"]], first["has_more"]) == ([EPOCH], True)
    envelope = base64.b64decode(first["data"][0]["root"]["envelope"])
    assert open_root(envelope).count == 9 == first["data"][0]["receipts"]
    assert first["data"][0]["begins_at"] == "2027-01-15T08:00:00.000Z"
    assert (await shown.get("/epochs?gateway=nobody", base)).json()["data"] == []


async def test_one_epoch_is_told_and_given_whole(shown: Shown) -> None:
    """Its root as JSON, and all of it as the file that anybody checks."""
    body = validated("/epochs/{epoch}", (await shown.get(f"/epochs/{EPOCH}")).json())
    file = await shown.get(f"/epochs/{EPOCH}/file")
    published = read_epoch([file.body])

    assert list(published.entries) == sorted(ENTRIES, key=lambda each: each.key)
    assert base64.b64encode(published.root_envelope).decode() == body["data"][0]["root"]["envelope"]
    assert file.headers["content-type"] == "application/octet-stream"
    assert "immutable" in file.headers["cache-control"]
    assert (await shown.get(f"/epochs/{EPOCH}/file?gateway={GATEWAY.peer}")).body == file.body


async def test_every_receipt_gets_its_proof(shown: Shown) -> None:
    """As JSON, which `cxp2p receipt verify` reads, and in the bytes that other programs do."""
    for each in ENTRIES:
        name = each.countersign.receipt_hash.hex()
        answer = await shown.get(f"/epochs/{EPOCH}/proof/{name}")
        body = validated("/epochs/{epoch}/proof/{receipt}", answer.json())
        root, found = check_inclusion(decode(Inclusion, base64.b64decode(body["inclusion"])))
        assert (root.epoch, found) == (EPOCH, each)
        (settled,) = settlements_in(answer.body)
        assert settled.root == root
        assert settled.receipt == each.receipt


NAME = ENTRIES[0].countersign.receipt_hash.hex()


@pytest.mark.parametrize(
    ("path", "code", "says"),
    [
        (f"/epochs/{EPOCH + 9}", "epoch_open", f"epoch {EPOCH + 9} is not closed yet"),
        (f"/epochs/{EPOCH - 1}", "not_found", "nothing counted for it"),
        (f"/epochs/{EPOCH - 1}/file", "not_found", "nothing counted for it"),
        (f"/epochs/{EPOCH}/file?gateway=nobody", "not_found", "nothing counted for it"),
        ("/epochs/latest", "not_found", "by its number"),
        ("/epochs/007", "not_found", "by its number"),
        (f"/epochs/{'9' * 30}", "not_found", "by its number"),
        (f"/epochs/{EPOCH + 1}/proof/{NAME}", "not_found", f"counts for epoch {EPOCH}"),
        (f"/epochs/{EPOCH}/proof/{'0' * 64}", "not_found", "counts for no epoch"),
        (f"/epochs/{EPOCH}/proof/{NAME.upper()}", "not_found", "64 hexadecimal digits"),
        (
            f"/epochs/{EPOCH}/proof/{entry(0, 71, epoch=EPOCH + 9).countersign.receipt_hash.hex()}",
            "epoch_open",
            "not closed yet",
        ),
    ],
)
async def test_what_is_not_there_is_said(shown: Shown, path: str, code: str, says: str) -> None:
    """404, with the reason; and when there will be something, if there will be."""
    answer = await shown.get(path)
    assert (answer.status, answer.json()["error"]["code"]) == (404, code)
    assert says in answer.json()["error"]["message"]
    assert ("retry-after" in answer.headers) is (code == "epoch_open")


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "limit=1&limit=2", "before=-1", "before=1e3"])
async def test_a_query_that_cannot_be_meant_is_refused(shown: Shown, query: str) -> None:
    """With the name of what is wrong."""
    answer = await shown.get(f"/epochs?{query}")
    assert answer.status == 400
    assert answer.json()["error"]["param"] == query.partition("=")[0]


async def test_few_epochs_are_read_at_once(shown: Shown) -> None:
    """A file is read from the database while it is sent: who comes when there is no more room is told so."""
    answers: list[Answer] = []

    async def read() -> None:
        answers.append(await shown.get(f"/epochs/{EPOCH}/file"))

    async with trio.open_nursery() as nursery:
        for _ in range(FILES_AT_ONCE_MAX + 2):
            nursery.start_soon(read)

    assert sorted(answer.status for answer in answers) == [200] * FILES_AT_ONCE_MAX + [429] * 2
    refused = next(answer for answer in answers if answer.status == 429)
    assert refused.headers["retry-after"] == "2"
    assert (await shown.get(f"/epochs/{EPOCH}/file")).status == 200


async def test_what_was_dropped_is_gone(shown: Shown, autojump_clock: MockClock) -> None:
    """The root stays; its receipts may be dropped after a while, and then there is no file and no proof."""
    clock = Clock()
    store = memory_store(clock)
    books = await opened(store)
    await settle(store, *ENTRIES)
    clock.wall_ms = CLOSES_MS
    await closing(books, clock).close_next()
    clock.wall_ms = BEGIN_MS + 10**9
    assert await store.forget_generations(10, 10, 100) == 9
    gone = Shown(front(MemoryDoor(books=store)), clock)

    (row,) = (await gone.get(f"/epochs/{EPOCH}")).json()["data"]
    assert (row["receipts"], row["is_kept"]) == (9, False)
    assert "no longer kept" in (await gone.get(f"/epochs/{EPOCH}/file")).json()["error"]["message"]
    assert (await gone.get(f"/epochs/{EPOCH}/proof/{NAME}")).status == 404


NOT_COUNTED = {"counts": {"state": "uncounted", "epoch": None}, "inclusion": None}


async def test_a_receipt_says_where_it_stands(autojump_clock: MockClock) -> None:
    """Held until its epoch is closed, then counted, with the proof that `cxp2p receipt verify` checks."""
    clock = Clock()
    store = memory_store(clock)
    books = await opened(store)
    door = MemoryDoor(books=store)
    each = ENTRIES[0]
    answers = []
    for at_ms in (BEGIN_MS, CLOSES_MS):
        if at_ms == BEGIN_MS:
            await settle(store, each)
        clock.wall_ms = at_ms
        await closing(books, clock).close_next()
        (found,) = await books.proofs([each.countersign.receipt_hash])
        answers.append(standing_object(found, HOURS))

    held, counted = answers
    assert held == {
        "counts": {"state": "held", "epoch": EPOCH, "closes_at": "2027-01-15T09:10:00.000Z"},
        "inclusion": None,
    }
    assert counted["counts"] == {"state": "counted", "epoch": EPOCH}
    assert standing_object(NotProven(Why.UNKNOWN), HOURS) == NOT_COUNTED
    assert standing_object(NotProven(Why.GONE, EPOCH), HOURS)["counts"] == {"state": "dropped", "epoch": EPOCH}
    job = {
        "receipt": {"envelope": base64.b64encode(each.receipt_envelope).decode()},
        "countersign": {"envelope": base64.b64encode(each.countersign_envelope).decode()},
        **counted,
    }
    (settled,) = settlements_in(json.dumps(job).encode())
    assert settled.root is not None
    assert settled.root.epoch == EPOCH
    other = {**job, "inclusion": standing_object(await books.proof(ENTRIES[0].countersign.receipt_hash), HOURS)}
    assert door.archive.calendar == HOURS
    with pytest.raises(EpochInvalid, match=r"inclusion is missing, expected base64"):
        settlements_in(json.dumps(other).encode())


async def test_who_reads_files_leaves_time_for_jobs(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many read, and how often: so many receipts a second are read for all of them together."""
    monkeypatch.setattr("cxp2p_gateway.store.epochs.PAIRS_MAX", 2)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(FILES_AT_ONCE_MAX):
            nursery.start_soon(shown.get, f"/epochs/{EPOCH}/file")
    pages = len(ENTRIES) // 2 + 2  # the last with one receipt, and none
    assert trio.current_time() - began > (FILES_AT_ONCE_MAX * pages - 1) * PAGE_PAUSE_S


async def test_rewards_keep_nobody_from_proofs(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    """They take seconds where there is much to compute: two wait for that, and others come back later."""
    gate = trio.Event()
    stock = Earnings.of_epoch

    async def slow(self: Earnings, epoch: int) -> Rewards | Hold:
        await gate.wait()
        return await stock(self, epoch)

    monkeypatch.setattr(Earnings, "of_epoch", slow)
    answers: list[int] = []

    async def get() -> None:
        answers.append((await shown.get(f"/epochs/{EPOCH}/rewards")).status)

    async with trio.open_nursery() as nursery:
        for _ in range(REWARDS_AT_ONCE_MAX + 3):
            nursery.start_soon(get)
        await trio.testing.wait_all_tasks_blocked()
        assert answers == [429] * 3
        assert (await shown.get(f"/epochs/{EPOCH}/proof/{NAME}")).status == 200
        gate.set()
    assert answers[3:] == [200] * REWARDS_AT_ONCE_MAX


async def test_an_answer_names_its_receipt(autojump_clock: MockClock) -> None:
    """By its SHA-256 and where it is told; an event stream by where, and its last event by the SHA-256."""
    app = front(MemoryDoor())
    answer = await ask(app, "POST", CHAT, body=chat_body())
    told = await ask(app, "GET", answer.headers["x-cx-receipt-url"])
    envelope = base64.b64decode(told.json()["receipt"]["envelope"])
    assert answer.headers["x-cx-receipt"] == digest(envelope).hex()
    assert told.json()["counts"]["state"] == "uncounted"
    assert {"x-cx-receipt", "x-cx-receipt-url"} <= set(answer.headers["access-control-expose-headers"].split(", "))

    streamed = await ask(app, "POST", CHAT, body=chat_body(stream=True), headers={"X-Cx-Metadata": "enabled"})
    told = await ask(app, "GET", streamed.headers["x-cx-receipt-url"])
    envelope = base64.b64decode(told.json()["receipt"]["envelope"])
    assert "x-cx-receipt" not in streamed.headers
    assert streamed.events()[-2]["cx"]["receipt"] == digest(envelope).hex()


@pytest.mark.slow
@given(st.data())
def test_no_byte_of_a_told_proof_can_be_another(data: st.DataObject) -> None:
    """Whatever is changed in the JSON is refused with a reason, or says the same."""
    body = trio.run(_proof, clock=MockClock(autojump_threshold=0))
    at = data.draw(st.integers(0, len(body) - 1))
    changed = body[:at] + bytes([body[at] ^ data.draw(st.integers(1, 255))]) + body[at + 1 :]
    before = settlements_in(body)
    try:
        after = settlements_in(changed)
    except EpochInvalid:
        return
    assert [each.receipt_envelope for each in after] == [each.receipt_envelope for each in before]
    assert [each.countersign for each in after] == [each.countersign for each in before]


async def _proof() -> bytes:
    shown = await make_shown()
    return (await shown.get(f"/epochs/{EPOCH}/proof/{NAME}")).body
