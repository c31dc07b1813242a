"""What owners of keys ask for: their keys, what these have used, what is left, and what an answer was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

from starlette.types import Receive, Scope, Send

from cxp2p_gateway import key_answers, key_forms, openai
from cxp2p_gateway.asking import Caller, Door
from cxp2p_gateway.exchange import Exchange
from cxp2p_gateway.faults import Condition, Fault, out_of_range
from cxp2p_gateway.key_ring import KEYS_MAX, KeyIsBase, KeyRevoked, KeysTooMany, KeyUnknown, TermWrong
from cxp2p_gateway.keys import Key, Kind
from cxp2p_gateway.middleware import Endpoint, send_json
from cxp2p_gateway.reading import BodyBudget, read_json
from cxp2p_gateway.signed import settlement_of

NO_STORE: Final = (("cache-control", "no-store"),)  # the answer has a secret in it


@dataclass(frozen=True, slots=True)
class KeyEndpoints:
    """The keys of the caller's account. Only its base key may see or change them."""

    door: Door
    budget: BodyBudget

    async def make(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        """POST /keys."""
        caller = _owner(exchange)
        with self.budget.lease() as lease, told_as_faults():
            terms = key_forms.terms_ask(await read_json(exchange.headers, receive, lease))
            made = await self.door.ring.make(caller.account, terms)
        exchange.notes["made_key"] = made.key.id
        await send_json(key_answers.key_object(made.key, 0, made.text), send, NO_STORE)

    async def list(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        """GET /keys: those that are not revoked, oldest first."""
        caller = _owner(exchange)
        keys = [key for key in await self.door.ring.list(caller.account) if key.revoked_at_ms is None]
        data = [key_answers.key_object(key, await self._spent(key)) for key in keys]
        await send_json({"object": "list", "data": data}, send)

    async def get(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        """GET /keys/{key}: also one that is revoked."""
        await self._send(await self._key(_owner(exchange), scope), send)

    async def change(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        """PATCH /keys/{key}."""
        caller = _owner(exchange)
        with self.budget.lease() as lease, told_as_faults():
            change = key_forms.change_ask(await read_json(exchange.headers, receive, lease))
            key = await self.door.ring.change(caller.account, _key_id(scope), change)
        await self._send(key, send)

    async def revoke(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        """DELETE /keys/{key}."""
        caller = _owner(exchange)
        with told_as_faults():
            key = await self.door.ring.revoke(caller.account, _key_id(scope))
        await self._send(key, send)

    async def rotate(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        """POST /keys/{key}/rotate; without a body the old key ends at once."""
        caller = _owner(exchange)
        with self.budget.lease() as lease, told_as_faults():
            grace_s = key_forms.rotate_ask(await read_json(exchange.headers, receive, lease, may_be_empty=True))
            made = await self.door.ring.rotate(caller.account, _key_id(scope), grace_s)
        await send_json(key_answers.key_object(made.key, await self._spent(made.key), made.text), send, NO_STORE)

    async def use(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        """GET /keys/{key}/usage."""
        key = await self._key(_owner(exchange), scope)
        await _send_use(self.door, scope, key.account, key.id, send)

    async def _key(self, caller: Caller, scope: Scope) -> Key:
        with told_as_faults():
            return await self.door.ring.key(caller.account, _key_id(scope))

    async def _spent(self, key: Key) -> int:
        return (await self.door.statements.standing(key)).spent

    async def _send(self, key: Key, send: Send) -> None:
        await send_json(key_answers.key_object(key, await self._spent(key)), send)


@dataclass(frozen=True, slots=True)
class OwnEndpoints:
    """What a key may know of itself."""

    door: Door

    async def key(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        """GET /key."""
        key, statements = await self._own(exchange), self.door.statements
        limit = key.spend_limit
        left = None if limit is None else max(0, limit - (await statements.standing(key)).spent)
        await send_json(key_answers.current_key(key, left, await statements.spent(key)), send)

    async def credits(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        """GET /credits."""
        credit = await self.door.statements.credit(await self._own(exchange))
        await send_json(key_answers.credit_object(credit), send)

    async def use(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        """GET /usage: of the account, or of a virtual key its own."""
        caller = _caller(exchange)
        await _send_use(self.door, scope, caller.account, None if caller.kind is Kind.BASE else caller.key, send)

    async def generation(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        """GET /generation?id=: one of the account's answers, or of a virtual key its own."""
        wanted = key_forms.generation_ask(scope["query_string"])
        kept = await self.door.statements.generations(_caller(exchange), wanted)
        if not kept:
            raise Fault(Condition.GENERATION_UNKNOWN)
        await send_json(openai.generation_object(kept, [settlement_of(each) for each in kept]), send)

    async def _own(self, exchange: Exchange) -> Key:
        caller = _caller(exchange)
        try:
            return await self.door.ring.key(caller.account, caller.key)
        except KeyUnknown:
            raise Fault(Condition.KEY_INVALID) from None


def key_routes(door: Door, budget: BodyBudget) -> dict[str, dict[str, Endpoint]]:
    """Which endpoint serves which path below a base, and method; all need a key."""
    keys, own = KeyEndpoints(door, budget), OwnEndpoints(door)
    return {
        "/keys": {"POST": keys.make, "GET": keys.list},
        "/keys/{key}": {"GET": keys.get, "PATCH": keys.change, "DELETE": keys.revoke},
        "/keys/{key}/rotate": {"POST": keys.rotate},
        "/keys/{key}/usage": {"GET": keys.use},
        "/key": {"GET": own.key},
        "/credits": {"GET": own.credits},
        "/usage": {"GET": own.use},
        "/generation": {"GET": own.generation},
    }


async def _send_use(door: Door, scope: Scope, account: str, key: str | None, send: Send) -> None:
    """What an account has used, or one of its keys."""
    groups = key_forms.GROUPS_OF_ACCOUNT if key is None else key_forms.GROUPS_OF_KEY
    query = key_forms.use_ask(scope["query_string"], door.statements.today, groups)
    query = replace(query, account=account, key=key)
    await send_json(key_answers.use_object(await door.statements.uses(query)), send)


def _caller(exchange: Exchange) -> Caller:
    assert exchange.caller is not None
    return exchange.caller


def _owner(exchange: Exchange) -> Caller:
    """The caller, if it is its account's base key. Raises Fault."""
    caller = _caller(exchange)
    if caller.kind is not Kind.BASE:
        raise Fault(Condition.KEYS_FORBIDDEN)
    return caller


def _key_id(scope: Scope) -> str:
    return str(scope["path_params"]["key"])


@contextmanager
def told_as_faults() -> Iterator[None]:
    """What the key ring refuses, as the table of faults has it."""
    try:
        yield
    except TermWrong as error:
        raise out_of_range(error.term, error.problem) from None
    except KeyUnknown:
        raise Fault(Condition.KEY_UNKNOWN) from None
    except KeyRevoked:
        raise Fault(Condition.KEY_REVOKED) from None
    except KeyIsBase:
        raise Fault(Condition.KEY_IS_BASE) from None
    except KeysTooMany:
        raise Fault(Condition.KEYS_TOO_MANY, None, {"limit": KEYS_MAX}) from None
