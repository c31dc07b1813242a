"""GET /epochs: what was published, for anybody. There is nothing in it that is not for all, so no key is asked for."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Final

import trio
from starlette.types import Receive, Scope, Send

from cxp2p.epoch_files import Head, Pair
from cxp2p.epoch_frames import AbsentCode
from cxp2p.net.epochs import Absent
from cxp2p.wire import encode_bare_frame
from cxp2p_gateway.archive import NEWEST, EpochArchive
from cxp2p_gateway.earnings import SHOWN_MAX, Earnings
from cxp2p_gateway.epoch_answers import earnings_object, epoch_object, inclusion_object, rewards_object
from cxp2p_gateway.exchange import Exchange
from cxp2p_gateway.faults import Condition, Fault, out_of_range
from cxp2p_gateway.fields import Fields
from cxp2p_gateway.key_forms import query_fields
from cxp2p_gateway.keys import Kind
from cxp2p_gateway.middleware import Endpoint, encoded, send_json
from cxp2p_gateway.store.epoch_rows import EpochRow
from cxp2p_gateway.store.epochs import ROOTS_MAX

LISTED: Final = 24  # epochs in an answer, if it is not said how many
FILES_AT_ONCE_MAX: Final = 4
PROOFS_AT_ONCE_MAX: Final = 8
REWARDS_AT_ONCE_MAX: Final = 2  # computed one after another, for seconds
CHUNK_BYTES: Final = 64 * 1024
FRESH: Final = (("cache-control", "public, max-age=10"),)  # another gateway of the database may still close its own
FOR_EVER: Final = (("cache-control", "public, max-age=31536000, immutable"),)
NUMBER_MAX: Final = 10**18 - 1
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,17}")
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_AGAIN_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class EpochEndpoints:
    """Reads the archive for whoever asks; what costs more than a row is asked for by few at once."""

    archive: EpochArchive
    earnings: Earnings
    files: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(FILES_AT_ONCE_MAX))
    proofs: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(PROOFS_AT_ONCE_MAX))
    computing: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(REWARDS_AT_ONCE_MAX))

    async def list(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        """GET /epochs: those that are closed, newest first."""
        asked = _asked(scope)
        limit = _whole(asked, "limit", 1, ROOTS_MAX) or LISTED
        before = _whole(asked, "before", 0, NUMBER_MAX)
        rows = await self.archive.books.latest(asked.text("gateway"), NEWEST if before is None else before, limit)
        data = [epoch_object(row, self.archive.calendar) for row in rows]
        await send_json({"object": "list", "data": data, "has_more": len(rows) == limit}, send, FRESH)

    async def get(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        """GET /epochs/{epoch}: the signed roots of all gateways here."""
        epoch, gateway = _number(scope), _asked(scope).text("gateway")
        rows = [row for row in await self.archive.books.roots(epoch) if gateway in (None, row.gateway)]
        if not rows:
            raise _fault(self.archive.no_root(gateway or "", epoch))
        data = [epoch_object(row, self.archive.calendar) for row in rows]
        await send_json({"object": "list", "data": data, "has_more": False}, send, FRESH)

    async def file(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        """GET /epochs/{epoch}/file: the published epoch, as `cxp2p epoch verify` reads it."""
        row = await self._row(_number(scope), _asked(scope).text("gateway"))
        assert row.envelope is not None
        if not row.is_whole:
            raise _fault(Absent(AbsentCode.GONE, f"the receipts of epoch {row.epoch} are no longer kept here"))
        headers = [
            ("content-type", "application/octet-stream"),
            ("content-disposition", f'attachment; filename="epoch-{row.epoch}.cxp2p"'),
            ("x-content-type-options", "nosniff"),
            *FOR_EVER,
        ]
        with _few(self.files, f"{FILES_AT_ONCE_MAX} epochs at once"):
            await send({"type": "http.response.start", "status": 200, "headers": encoded(headers)})
            async with aclosing(self.archive.pairs(row.gateway, row.epoch)) as pairs:
                async for chunk in _chunks(row.envelope, pairs):
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def proof(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        """GET /epochs/{epoch}/proof/{receipt}: where a receipt stands, by the SHA-256 of its envelope."""
        epoch, name = _number(scope), str(scope["path_params"]["receipt"])
        if not _HASH.fullmatch(name):
            raise _fault(Absent(AbsentCode.UNKNOWN, "a receipt is named by its SHA-256, 64 hexadecimal digits"))
        with _few(self.proofs, f"{PROOFS_AT_ONCE_MAX} proofs at once"):
            try:
                told = inclusion_object(await self.archive.included(bytes.fromhex(name)))
            except Absent as error:
                raise _fault(error) from None
        if told["epoch"] != epoch:
            raise _fault(Absent(AbsentCode.UNKNOWN, f"this receipt counts for epoch {told['epoch']}"))
        await send_json(told, send, FOR_EVER)

    async def rewards(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        """GET /epochs/{epoch}/rewards: what everybody gets, from what is published alone."""
        epoch = _number(scope)
        with _few(self.computing, f"rewards of {REWARDS_AT_ONCE_MAX} epochs at once"):
            try:
                told = await self.earnings.of_epoch(epoch)
            except Absent as error:
                raise _fault(error) from None
        await send_json(rewards_object(epoch, told), send, FRESH)

    async def own(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        """GET /rewards: what the caller's account earned, epoch by epoch, newest first."""
        caller = exchange.caller
        assert caller is not None
        if caller.kind is not Kind.BASE:
            raise Fault(Condition.KEYS_FORBIDDEN)
        asked = _asked(scope)
        limit = _whole(asked, "limit", 1, SHOWN_MAX) or SHOWN_MAX
        before = _whole(asked, "before", 0, NUMBER_MAX)
        earned = await self.earnings.of_account(caller.account, NEWEST if before is None else before, limit)
        await send_json(earnings_object(caller.account, earned, self.archive.calendar), send)

    async def _row(self, epoch: int, gateway: str | None) -> EpochRow:
        rows = [row for row in await self.archive.books.roots(epoch) if gateway in (None, row.gateway)]
        if not rows:
            raise _fault(self.archive.no_root(gateway or "", epoch))
        if len(rows) > 1:
            raise out_of_range("gateway", f"there are several: {', '.join(row.gateway for row in rows)}")
        return rows[0]


async def _chunks(envelope: bytes, pairs: AsyncIterator[Pair]) -> AsyncIterator[bytes]:
    chunk = bytearray(encode_bare_frame(Head(root=envelope)))
    async for pair in pairs:
        chunk += encode_bare_frame(pair)
        if len(chunk) >= CHUNK_BYTES:
            yield bytes(chunk)
            chunk.clear()
    yield bytes(chunk)


@contextmanager
def _few(limiter: trio.CapacityLimiter, limit: str) -> Iterator[None]:
    try:
        limiter.acquire_on_behalf_of_nowait(token := object())
    except trio.WouldBlock:
        raise Fault(Condition.RATE_LIMITED, None, {"limit": limit}, _AGAIN_S) from None
    try:
        yield
    finally:
        limiter.release_on_behalf_of(token)


def _asked(scope: Scope) -> Fields:
    return Fields(query_fields(scope["query_string"]))


def _whole(asked: Fields, name: str, least: int, most: int) -> int | None:
    text = asked.text(name)
    if text is None:
        return None
    if not _NUMBER.fullmatch(text) or not least <= int(text) <= most:
        raise out_of_range(name, f"expected a whole number from {least} to {most}")
    return int(text)


def _number(scope: Scope) -> int:
    text = str(scope["path_params"]["epoch"])
    if not _NUMBER.fullmatch(text):
        raise _fault(Absent(AbsentCode.UNKNOWN, "an epoch is named by its number"))
    return int(text)


def _fault(absent: Absent) -> Fault:
    condition = Condition.EPOCH_OPEN if absent.code is AbsentCode.OPEN else Condition.EPOCH_UNKNOWN
    return Fault(condition, None, {"problem": str(absent)}, absent.retry_after_ms / 1000)


def epoch_routes(endpoints: EpochEndpoints) -> dict[str, dict[str, Endpoint]]:
    """Which endpoint serves which path below a base, and method; none needs a key."""
    return {
        "/epochs": {"GET": endpoints.list},
        "/epochs/{epoch}": {"GET": endpoints.get},
        "/epochs/{epoch}/rewards": {"GET": endpoints.rewards},
        "/epochs/{epoch}/file": {"GET": endpoints.file},
        "/epochs/{epoch}/proof/{receipt}": {"GET": endpoints.proof},
    }
