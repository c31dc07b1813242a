"""`cxp2p gateway account`: who has an account, and what the operator does with them."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Final, Protocol, TypeVar

import click
import trio

from cxp2p.client import wall_ms
from cxp2p.errors import SettingsError
from cxp2p.ledger import Account
from cxp2p.program import announce
from cxp2p_gateway.accounts import Accounts
from cxp2p_gateway.moments import day_of
from cxp2p_gateway.passwords import Argon2
from cxp2p_gateway.people import FormWrong, People, PeopleRules, Signup
from cxp2p_gateway.spending import MICRO
from cxp2p_gateway.store import Store
from cxp2p_gateway.store.rows import User
from cxp2p_gateway.store.tables import Tables

T = TypeVar("T")

CREDITS_MAX: Final = 1_000_000_000
PAGE_SIZE: Final = 500

_CONFIG = click.option("--config", type=click.Path(path_type=Path), default=None, help="The gateway's settings file.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Say it as a line of JSON.")
_WHO = click.argument("who", metavar="ACCOUNT")


class Keeping(Protocol):
    """Does something with the gateway's store; ends the program with the reason if that fails."""

    def __call__(self, config: Path | None, act: Callable[[Store], Awaitable[T]], /) -> T: ...


def account_commands(with_store: Keeping) -> click.Group:
    """The group of commands."""

    @click.group("account")
    def account() -> None:
        """The accounts of this gateway. ACCOUNT is an id (usr_…) or an e-mail.

        With SQLite the gateway must not run meanwhile; the dashboard's admin page does the same while it runs.
        """

    for command in (_list, _new, _password, _disable, _enable, _admin, _credit):
        account.add_command(command(with_store))
    return account


def _people(store: Store, credit: int = 0) -> People:
    rules = PeopleRules(signup=Signup.OPEN, signup_credit=credit)
    accounts = Accounts(store, wall_ms)
    return People(store, accounts, Argon2(), rules, now=trio.current_time, wall_ms=wall_ms, rng=random.SystemRandom())


async def _found(store: Store, who: str) -> User:
    """Raises SettingsError."""

    def look(tables: Tables) -> User | None:
        return tables.user(who) or tables.user_by_email(who.strip().lower())

    user = await store.read(look)
    if user is None:
        raise SettingsError(f"there is no account {who!r}; `cxp2p gateway account list` shows all")
    return user


def _checked(password: str | None) -> str:
    if password is None:
        return str(click.prompt("Password", hide_input=True, confirmation_prompt=True))
    return password


def _list(with_store: Keeping) -> click.Command:
    @click.command("list")
    @_CONFIG
    @_JSON
    def command(config: Path | None, as_json: bool) -> None:
        """List all accounts, oldest first, with what each has."""

        async def look(store: Store) -> list[tuple[User, Account]]:
            found: list[tuple[User, Account]] = []
            while True:

                def page(tables: Tables, offset: int = len(found)) -> list[tuple[User, Account]]:
                    return [(each, tables.account(each.id)) for each in tables.users(PAGE_SIZE, offset)]

                more = await store.read(page)
                found += more
                if len(more) < PAGE_SIZE:
                    return found

        for user, books in with_store(config, look):
            state = "shut out" if user.disabled_at_ms is not None else "admin" if user.is_admin else "active"
            facts = {
                "event": "account",
                "user_id": user.id,
                "email": user.email,
                "state": state,
                "created_at_ms": user.created_at_ms,
                "balance": books.balance,
            }
            credits = f"{books.balance / MICRO:g} credits"
            day = day_of(user.created_at_ms)
            announce(facts, f"{user.id}  {state:8}  {day}  {credits:>16}  {user.email or '-'}", as_json=as_json)

    return command


def _new(with_store: Keeping) -> click.Command:
    @click.command("new")
    @click.argument("email")
    @click.option("--credits", "credits", default="0", show_default=True, help="What it begins with.")
    @click.option("--password", default=None, help="Asked for if not given; arguments can be seen by other users.")
    @_CONFIG
    @_JSON
    def command(email: str, credits: str, password: str | None, config: Path | None, as_json: bool) -> None:
        """Make an account, and show its base key once.

        \b
        Example:
          cxp2p gateway account new ada@example.org --credits 100
        """
        amount = _micro(credits)
        secret = _checked(password)

        async def make(store: Store) -> tuple[str, str]:
            welcome = await _asked(_people(store, amount).sign_up(email, secret, "", None))
            await _people(store).log_out_everywhere(welcome.user.id)
            return welcome.user.id, welcome.key

        user_id, key = with_store(config, make)
        facts = {"event": "account", "user_id": user_id, "api_key": key}
        announce(facts, f"account {user_id}\nits API key, shown only now: {key}", as_json=as_json)

    return command


def _password(with_store: Keeping) -> click.Command:
    @click.command("password")
    @_WHO
    @click.option("--email", default=None, help="Its e-mail from now on; the first account has none at first.")
    @click.option("--password", default=None, help="Asked for if not given; arguments can be seen by other users.")
    @_CONFIG
    def command(who: str, email: str | None, password: str | None, config: Path | None) -> None:
        """Set what an account logs in with. All its sessions end.

        \b
        Example:
          cxp2p gateway account password usr_01J... --email me@example.org
        """
        secret = _checked(password)

        async def change(store: Store) -> User | None:
            user = await _found(store, who)
            return await _asked(_people(store).set_password(user.id, email, secret))

        with_store(config, change)
        click.echo("the password is set")

    return command


def _switch(
    with_store: Keeping,
    name: str,
    about: str,
    done: str,
    act: Callable[[People, str], Awaitable[User | None]],
) -> click.Command:
    @click.command(name, help=about)
    @_WHO
    @_CONFIG
    def command(who: str, config: Path | None) -> None:
        async def change(store: Store) -> User | None:
            user = await _found(store, who)
            return await act(_people(store), user.id)

        with_store(config, change)
        click.echo(f"account {who} {done}")

    return command


def _disable(with_store: Keeping) -> click.Command:
    about = "Shut an account out: its sessions end, and its keys get 401."
    return _switch(with_store, "disable", about, "is shut out", lambda people, user: people.set_disabled(user, True))


def _enable(with_store: Keeping) -> click.Command:
    about = "Let an account in again, with the keys that it had."
    return _switch(with_store, "enable", about, "may come in", lambda people, user: people.set_disabled(user, False))


def _admin(with_store: Keeping) -> click.Command:
    @click.command("admin")
    @_WHO
    @click.option("--no", "ends", is_flag=True, help="It is no admin any longer.")
    @_CONFIG
    def command(who: str, ends: bool, config: Path | None) -> None:
        """Make an account an admin: it sees the dashboard's admin page."""

        async def change(store: Store) -> User | None:
            user = await _found(store, who)
            return await _people(store).set_admin(user.id, not ends)

        with_store(config, change)
        click.echo(f"account {who} is {'no admin any longer' if ends else 'an admin'}")

    return command


def _credit(with_store: Keeping) -> click.Command:
    @click.command("credit")
    @_WHO
    @click.argument("credits")
    @_CONFIG
    @_JSON
    def command(who: str, credits: str, config: Path | None, as_json: bool) -> None:
        """Give an account CREDITS more, such as 100 or 0.5.

        \b
        Example:
          cxp2p gateway account credit ada@example.org 100
        """
        amount = _micro(credits)
        if not amount:
            raise click.BadParameter("it is 0", param_hint="CREDITS")

        async def give(store: Store) -> Account:
            user = await _found(store, who)
            await store.grant(f"gift:{user.id}:{random.SystemRandom().getrandbits(64)}", user.id, amount)
            return await store.balance(user.id)

        books = with_store(config, give)
        facts = {"event": "credit", "user_id": books.id, "balance": books.balance}
        announce(facts, f"account {books.id} has {books.balance / MICRO:g} credits", as_json=as_json)

    return command


async def _asked(answer: Awaitable[T]) -> T:
    """What people's rules say; what they refuse is a fault of the command's arguments."""
    try:
        return await answer
    except FormWrong as wrong:
        raise SettingsError(f"{wrong.place}: {wrong}") from None


def _micro(credits: str) -> int:
    try:
        amount = Decimal(credits)
    except InvalidOperation:
        amount = Decimal(-1)
    if not amount.is_finite() or not 0 <= amount <= CREDITS_MAX:
        raise click.BadParameter(f"{credits!r} is not a number from 0 to {CREDITS_MAX:,}", param_hint="credits")
    return int(amount * MICRO)
