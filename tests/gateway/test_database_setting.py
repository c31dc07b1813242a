"""`database.url`: where a gateway keeps its books, what a wrong one says, and that its password is said nowhere."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from random import SystemRandom

import pytest
import trio
from click.testing import CliRunner

from cxp2p.errors import SettingsError
from cxp2p.settings import load_settings, render_commented
from cxp2p_gateway.accounts import Accounts, FirstAccount, found_account
from cxp2p_gateway.app import open_books
from cxp2p_gateway.commands import gateway
from cxp2p_gateway.config import DatabaseSettings, GatewaySettings
from cxp2p_gateway.keys import key_id
from cxp2p_gateway.store import StoreError, StoreUnavailable, postgres
from test_store import Clock

VARIABLE = "CXP2P_GATEWAY_DATABASE__URL"
SECRET = "hunter2"
NOWHERE = f"postgresql://gateway:{SECRET}@127.0.0.1:1/books"


def settings(path: Path) -> GatewaySettings:
    return load_settings(GatewaySettings, "gateway", path / "none.toml", required=False)


def run(*arguments: str) -> str:
    result = CliRunner().invoke(gateway, arguments)
    assert result.exit_code == 0, result.output
    return result.output


async def test_without_one_it_is_a_file(tmp_path: Path) -> None:
    """The default needs no server: a SQLite file in the data folder."""
    chosen = GatewaySettings(data_path=tmp_path)
    async with open_books(chosen) as store:
        assert await store.accounts() == ()

    assert (tmp_path / "gateway.sqlite").exists()
    assert "\n# url =\n" in render_commented(GatewaySettings, "gateway")


async def test_the_environment_wins(tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with every setting; then nothing is written into the data folder."""
    monkeypatch.setenv(VARIABLE, postgres_url)
    monkeypatch.setenv("CXP2P_GATEWAY_DATA_PATH", str(tmp_path / "data"))
    async with open_books(settings(tmp_path)) as store:
        await store.grant("g1", "user_1", 5)
    async with postgres.open_store(postgres_url, Clock()) as store:
        assert (await store.balance("user_1")).balance == 5

    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("url", ["mysql://u:hunter2@host/x", "hunter2", "", "postgresql//u:hunter2@host"])
def test_what_is_no_such_url_is_refused(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the field and what was expected, and not what was given: that may be a secret."""
    monkeypatch.setenv(VARIABLE, url)
    with pytest.raises(SettingsError) as told:
        settings(tmp_path)

    assert "url: expected postgresql://user:password@host/name" in str(told.value)
    assert SECRET not in str(told.value)


async def test_a_server_that_is_not_there_is_told_without_the_password(caplog: pytest.LogCaptureFixture) -> None:
    """Neither the error, nor the settings when they are shown, nor the log."""
    caplog.set_level(logging.DEBUG)
    chosen = GatewaySettings(database=DatabaseSettings.model_validate({"url": NOWHERE}))
    with pytest.raises(
        StoreError, match=r"postgresql://gateway:\*\*\*@127.0.0.1:1/books cannot be used: .*refused"
    ) as told:
        async with open_books(chosen):
            pass

    assert not isinstance(told.value, StoreUnavailable)
    assert SECRET not in "".join([str(told.value), repr(told.value.__cause__), repr(chosen), str(chosen), caplog.text])


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("postgresql://", "cannot be used"),
        (f"postgresql://gateway:{SECRET}@127.0.0.1:1/books?sslmode=perhaps", "cannot be used"),
        (f"postgresql://gateway:{SECRET}@127.0.0.1:1/books?colour=red", "cannot be used"),
        (f"postgresql://gateway:{SECRET}@127.0.0.1:many/books", "cannot be read: expected postgresql://"),
    ],
)
async def test_a_url_that_the_driver_refuses(url: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told as the database's error, without the password."""
    monkeypatch.setenv("PGHOST", "127.0.0.1")
    monkeypatch.setenv("PGPORT", "1")
    with pytest.raises(StoreError, match=told) as raised:
        async with postgres.open_store(url, Clock()):
            pass

    assert SECRET not in str(raised.value)


def test_keys_are_kept_while_gateways_run(postgres_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`gateway key` works beside a gateway that has the database; what it revokes has ended at once."""
    monkeypatch.setenv(VARIABLE, postgres_url)
    monkeypatch.setenv("CXP2P_GATEWAY_DATA_PATH", str(tmp_path / "data"))

    async def main() -> None:
        async with postgres.open_store(postgres_url, Clock()) as store:
            accounts = Accounts(store, Clock(), is_alone=False)
            first = await found_account(store, 100, 0, SystemRandom())
            assert isinstance(first, FirstAccount)
            made = json.loads(await trio.to_thread.run_sync(run, "key", "new", "--json"))["api_key"]
            for key in (first.key, made):
                assert await accounts.authenticate(key, first.user_id)
            listed = await trio.to_thread.run_sync(run, "key", "list")
            assert listed.count("valid") == 2
            ended = key_id(first.key)
            assert ended is not None
            await trio.to_thread.run_sync(run, "key", "revoke", ended)
            assert await accounts.authenticate(first.key, None) is None
            assert await accounts.authenticate(made, None)

    trio.run(main)


def test_check_looks_and_changes_nothing(
    postgres_server: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An empty database, one that is ready, and one that is not there."""
    monkeypatch.setenv("CXP2P_GATEWAY_DATA_PATH", str(tmp_path / "data"))
    told = []
    for url in (f"{postgres_server}/postgres", postgres_url, NOWHERE):
        monkeypatch.setenv(VARIABLE, url)
        lines = CliRunner().invoke(gateway, ["check", "--port", "0", "--json"]).stdout.splitlines()
        told += [each for each in map(json.loads, lines) if each["what"] == "database"]

    assert "which the first start makes" in told[0]["text"]
    assert "makes" not in told[1]["text"]
    assert "cannot be used" in told[2]["text"]
    assert SECRET not in str(told)
    assert postgres.step_at(f"{postgres_server}/postgres") is None
