"""`cxp2p gateway account`: accounts as the operator sees and changes them, in the gateway's own database."""

from __future__ import annotations

import json
from pathlib import Path
from random import SystemRandom
from typing import Any

import pytest
import trio
from click.testing import CliRunner, Result

from cxp2p.client import wall_ms
from cxp2p_gateway.accounts import Accounts, found_account
from cxp2p_gateway.commands import gateway
from cxp2p_gateway.store.sqlite import open_store

PASSWORD = "correct horse battery"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The settings of a gateway that has been started once."""

    async def found() -> None:
        async with open_store(tmp_path / "data" / "gateway.sqlite", wall_ms) as store:
            await found_account(store, 5_000_000, wall_ms(), SystemRandom())

    trio.run(found)
    path = tmp_path / "gateway.toml"
    path.write_text(f"data_path = {json.dumps(str(tmp_path / 'data'))}\n")
    return path


def run(config: Path, *words: str, said: str = "") -> Result:
    return CliRunner().invoke(gateway, ["account", *words, "--config", str(config)], input=said)


def listed(config: Path) -> list[dict[str, Any]]:
    result = run(config, "list", "--json")
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.output.splitlines()]


def works(config: Path, key: str) -> bool:
    """Whether a key opens the gateway."""

    async def look() -> bool:
        async with open_store(config.parent / "data" / "gateway.sqlite", wall_ms) as store:
            return await Accounts(store, wall_ms).authenticate(key, None) is not None

    return trio.run(look)


def test_an_account_is_made_shut_out_and_let_in(config: Path) -> None:
    """Its key is shown once; it works unless the account is shut out. By its e-mail or by its id."""
    made = run(config, "new", "Ada@Example.org", "--password", PASSWORD, "--credits", "2.5", "--json")
    assert made.exit_code == 0, made.output
    facts = json.loads(made.output)
    assert works(config, facts["api_key"])
    first, ada = listed(config)
    assert (first["state"], first["email"], first["balance"]) == ("admin", None, 5_000_000)
    assert (ada["user_id"], ada["state"], ada["email"]) == (facts["user_id"], "active", "ada@example.org")
    assert ada["balance"] == 2_500_000
    assert "api_key" not in ada

    assert "is shut out" in run(config, "disable", "ADA@example.org").output
    assert listed(config)[1]["state"] == "shut out"
    assert not works(config, facts["api_key"])
    assert run(config, "enable", facts["user_id"]).exit_code == 0
    assert works(config, facts["api_key"])

    assert run(config, "admin", "ada@example.org").exit_code == 0
    assert listed(config)[1]["state"] == "admin"
    assert run(config, "admin", "ada@example.org", "--no").exit_code == 0
    assert listed(config)[1]["state"] == "active"
    for _ in range(2):
        assert run(config, "credit", "ada@example.org", "1").exit_code == 0
    assert listed(config)[1]["balance"] == 4_500_000


def test_the_first_account_gets_its_password(config: Path) -> None:
    """It is asked for twice, and never shown; an e-mail is needed once."""
    user_id = listed(config)[0]["user_id"]
    without = run(config, "password", user_id, "--password", PASSWORD)
    assert without.exit_code == 1
    assert "email: This account has no e-mail yet" in without.output
    done = run(config, "password", user_id, "--email", "me@example.org", said=f"{PASSWORD}\n{PASSWORD}\n")
    assert done.exit_code == 0, done.output
    assert PASSWORD not in done.output
    assert listed(config)[0]["email"] == "me@example.org"
    assert run(config, "password", "me@example.org", "--password", "another password").exit_code == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("disable", "nobody@example.org"), "there is no account 'nobody@example.org'"),
        (("new", "not an address", "--password", PASSWORD), "email: This is not an e-mail address"),
        (("new", "a@example.org", "--password", "short"), "password: A password has at least"),
        (("new", "a@example.org", "--password", PASSWORD, "--credits", "-1"), "is not a number from 0"),
        (("credit", "a@example.org", "NaN"), "is not a number from 0"),
        (("credit", "a@example.org", "0"), "it is 0"),
    ],
)
def test_what_cannot_be_is_told(config: Path, words: tuple[str, ...], told: str) -> None:
    """With the argument at fault; nothing is changed."""
    before = listed(config)
    result = run(config, *words)
    assert result.exit_code != 0
    assert told in result.output
    assert listed(config) == before
