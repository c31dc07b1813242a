"""`cxp2p gateway key`: the keys of the operator's own account."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Final, Protocol, TypeVar

import click

from cxp2p.client import wall_ms
from cxp2p.errors import SettingsError
from cxp2p.program import announce
from cxp2p.records import Service
from cxp2p_gateway.accounts import Accounts, issue_key
from cxp2p_gateway.key_ring import GRACE_S_MAX, PARALLEL_MAX, RPM_MAX, TPM_MAX, KeyRing, Made
from cxp2p_gateway.keys import Key, Terms, usable
from cxp2p_gateway.keys import key_id as id_of
from cxp2p_gateway.moments import day_of, moment, moment_ms
from cxp2p_gateway.spending import MICRO, Reset
from cxp2p_gateway.store import Store

T = TypeVar("T")

NO_ACCOUNT: Final = "there is no account yet: the first start of `cxp2p gateway run` makes one, and shows its key"

_CONFIG = click.option("--config", type=click.Path(path_type=Path), default=None, help="The gateway's settings file.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Say it as a line of JSON.")


class Keeping(Protocol):
    """Does something with the gateway's store; ends the program with the reason if that fails."""

    def __call__(self, config: Path | None, act: Callable[[Store], Awaitable[T]], /) -> T: ...


def _micro(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """An amount of credits, as µcredits."""
    if value is None:
        return None
    try:
        micro = Decimal(value) * MICRO
    except InvalidOperation:
        raise click.BadParameter(f"{value!r} is not a number") from None
    if not micro.is_finite() or micro != int(micro):
        raise click.BadParameter(f"{value!r} is not a number with at most six decimals")
    return int(micro)


def _at_ms(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """A day or a moment, as wall-clock ms."""
    if value is None:
        return None
    try:
        return moment_ms(value if "T" in value.upper() else f"{value}T00:00:00Z")
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a time like 2027-01-31 or 2027-01-31T12:00:00Z") from None


_RESET = click.Choice([each.value for each in Reset])
_SERVICE = click.Choice([each.value for each in Service])
_GRACE = click.IntRange(0, GRACE_S_MAX)


def key_commands(with_store: Keeping) -> click.Group:
    """The group of commands."""

    @click.group("key")
    def key() -> None:
        """The API keys of this gateway's account; with SQLite while the gateway does not run."""

    for command in (_new, _list, _rotate, _revoke):
        key.add_command(command(with_store))
    return key


def _new(with_store: Keeping) -> click.Command:
    @click.command("new")
    @click.option("--name", default="", help="What it is for.")
    @click.option("--spend-limit", callback=_micro, metavar="CREDITS", help="Credits that it may spend.")
    @click.option("--reset", type=_RESET, default=None, help="When that begins anew.")
    @click.option("--service", "services", type=_SERVICE, multiple=True, help="For this one only; may be repeated.")
    @click.option("--model", "models", multiple=True, help="For this one only; may be repeated.")
    @click.option("--rpm", type=click.IntRange(1, RPM_MAX), default=None, help="Requests a minute.")
    @click.option("--tpm", type=click.IntRange(1, TPM_MAX), default=None, help="Tokens a minute.")
    @click.option("--parallel", type=click.IntRange(1, PARALLEL_MAX), default=None, help="Requests at once.")
    @click.option("--expires", callback=_at_ms, metavar="TIME", help="When it ends: a day, or a time (RFC 3339).")
    @_CONFIG
    @_JSON
    def command(
        name: str,
        spend_limit: int | None,
        reset: str | None,
        services: tuple[str, ...],
        models: tuple[str, ...],
        rpm: int | None,
        tpm: int | None,
        parallel: int | None,
        expires: int | None,
        config: Path | None,
        as_json: bool,
    ) -> None:
        """Make one more key for the first account, and show it once. The keys it has stay valid.

        With any of the options it is a virtual key, within these limits; without, it may do what the account may.

        \b
        Example:
          cxp2p gateway key new
          cxp2p gateway key new --name app --spend-limit 5 --reset monthly --service chat --rpm 60
        """
        terms = Terms(
            name=name,
            spend_limit=spend_limit,
            spend_reset=Reset(reset or Reset.NEVER),
            services=tuple(dict.fromkeys(services)),
            models=tuple(dict.fromkeys(models)),
            rpm=rpm,
            tpm=tpm,
            parallel_max=parallel,
            expires_at_ms=expires,
        )

        async def make(store: Store) -> tuple[str, str]:
            account = await _first_account(store)
            if terms == Terms():
                return account, await issue_key(store, account, wall_ms(), random.SystemRandom())
            return account, (await _ring(store).make(account, terms)).text

        account, text = with_store(config, make)
        facts = {"event": "key", "user_id": account, "api_key": text}
        announce(facts, f"account {account}\nits new API key, shown only now: {text}", as_json=as_json)

    return command


def _list(with_store: Keeping) -> click.Command:
    @click.command("list")
    @_CONFIG
    @_JSON
    def command(config: Path | None, as_json: bool) -> None:
        """List the ids of all keys: the eight characters after `sk-cx-`. A key itself is never shown again."""

        async def look(store: Store) -> list[tuple[Key, int]]:
            keys = await store.keys_of(await _first_account(store))
            return [(each, (await store.standing(each)).spent) for each in keys]

        now_ms = wall_ms()
        for each, spent in with_store(config, look):
            state = "revoked" if each.revoked_at_ms is not None else "valid" if usable(each, now_ms) else "expired"
            facts = {
                "event": "key",
                "id": each.id,
                "state": state,
                "kind": each.kind.value,
                "name": each.name,
                "created_at_ms": each.created_at_ms,
                "used_at_ms": each.used_at_ms,
                "spent": spent,
                "spend_limit": each.spend_limit,
                "spend_reset": each.spend_reset.value,
                "services": list(each.services),
                "models": list(each.models),
                "rpm": each.rpm,
                "tpm": each.tpm,
                "max_parallel": each.parallel_max,
                "expires_at_ms": each.expires_at_ms,
            }
            announce(facts, _line(each, state, spent), as_json=as_json)

    return command


def _line(key: Key, state: str, spent: int) -> str:
    used = f"last used {day_of(key.used_at_ms)}" if key.used_at_ms else "never used"
    told = [f"{key.id}  {state:7}  {key.kind.value:7}  made {day_of(key.created_at_ms)}, {used}"]
    if key.name:
        told.append(f"{key.name!r}")
    if key.spend_limit is not None:
        period = "" if key.spend_reset is Reset.NEVER else f" {key.spend_reset.value}"
        told.append(f"{spent / MICRO:g} of {key.spend_limit / MICRO:g} credits{period}")
    counts = ((key.rpm, "rpm"), (key.tpm, "tpm"), (key.parallel_max, "at once"))
    told += [f"{value} {unit}" for value, unit in counts if value]
    told += [", ".join(names) for names in (key.services, key.models) if names]
    if key.expires_at_ms is not None:
        told.append(f"until {moment(key.expires_at_ms)}")
    return "; ".join(told)


def _rotate(with_store: Keeping) -> click.Command:
    @click.command("rotate")
    @click.argument("key_id", metavar="ID")
    @click.option("--grace", type=_GRACE, default=0, show_default=True, help="Seconds that the old one stays good.")
    @_CONFIG
    @_JSON
    def command(key_id: str, grace: int, config: Path | None, as_json: bool) -> None:
        """Give a key a new secret, and show it once. Its id, its limits and what it spent stay.

        \b
        Example:
          cxp2p gateway key rotate abcd2345 --grace 3600
        """
        wanted = id_of(key_id) or key_id

        async def renew(store: Store) -> Made:
            key = await _any_key(store, wanted)
            return await _ring(store).rotate(key.account, key.id, grace)

        made = with_store(config, renew)
        facts = {"event": "key", "user_id": made.key.account, "api_key": made.text}
        ends = f"the old one ends in {grace} s" if grace else "the old one has ended"
        announce(facts, f"key {wanted} is rotated, {ends}\nits new text, shown only now: {made.text}", as_json=as_json)

    return command


def _revoke(with_store: Keeping) -> click.Command:
    @click.command("revoke")
    @click.argument("key_id", metavar="ID")
    @_CONFIG
    def command(key_id: str, config: Path | None) -> None:
        """End a key, by its id or by the whole key. It cannot be undone.

        \b
        Example:
          cxp2p gateway key revoke abcd2345
        """
        wanted = id_of(key_id) or key_id

        async def end(store: Store) -> None:
            await _any_key(store, wanted)
            await Accounts(store, wall_ms).revoke(wanted)

        with_store(config, end)
        click.echo(f"key {wanted} is revoked")

    return command


async def _any_key(store: Store, wanted: str) -> Key:
    """Of any account: the operator may end and renew all of them. Raises SettingsError."""
    key = await store.key(wanted)
    if key is None:
        raise SettingsError(f"there is no key {wanted!r}; `cxp2p gateway key list` shows the ids of all keys")
    return key


async def _first_account(store: Store) -> str:
    accounts = await store.accounts()
    if not accounts:
        raise SettingsError(NO_ACCOUNT)
    return accounts[0]


def _ring(store: Store) -> KeyRing:
    return KeyRing(Accounts(store, wall_ms), store, wall_ms, random.SystemRandom())
