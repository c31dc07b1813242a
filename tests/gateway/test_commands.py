"""`cxp2p gateway key`: what an operator does who lost a key, or whose key was stolen."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from random import SystemRandom

import pytest
import trio
from click.testing import CliRunner, Result

from cxp2p_gateway.accounts import Accounts, FirstAccount, found_account
from cxp2p_gateway.asking import Caller
from cxp2p_gateway.commands import gateway
from cxp2p_gateway.keys import key_id
from cxp2p_gateway.store.sqlite import open_store

WALL_MS = 1_700_000_000_000


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A gateway's data folder, which its settings point to."""
    path = tmp_path / "data"
    monkeypatch.setenv("CXP2P_GATEWAY_DATA_PATH", str(path))
    return path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(gateway, ["key", *arguments])


def started_once(data: Path) -> FirstAccount:
    """What the first start of a gateway leaves behind."""

    async def main() -> FirstAccount | None:
        async with open_store(data / "gateway.sqlite", lambda: WALL_MS) as store:
            return await found_account(store, 100, WALL_MS, SystemRandom())

    first = trio.run(main)
    assert first is not None
    return first


def caller_of(data: Path, key: str) -> Caller | None:
    async def main() -> Caller | None:
        async with open_store(data / "gateway.sqlite", lambda: WALL_MS) as store:
            return await Accounts(store, lambda: WALL_MS).authenticate(key, None)

    return trio.run(main)


def test_a_lost_key_is_replaced_and_revoked(data: Path) -> None:
    """A new key is the same account's; the old one works until it is revoked, by the id that the list shows."""
    first = started_once(data)
    made = run("new", "--json")
    assert made.exit_code == 0
    facts = json.loads(made.output)
    assert facts.keys() == {"event", "user_id", "api_key"}
    assert facts["user_id"] == first.user_id
    for key in (first.key, facts["api_key"]):
        caller = caller_of(data, key)
        assert caller is not None
        assert (caller.account, caller.key) == (first.user_id, key_id(key))

    listed = run("list")
    old, new = key_id(first.key), key_id(facts["api_key"])
    assert old is not None
    assert new is not None
    lines = listed.output.splitlines()
    assert [line.split()[:2] for line in lines] == [[old, "valid"], [new, "valid"]]
    assert facts["api_key"] not in listed.output

    ended = run("revoke", old)
    assert (ended.exit_code, ended.output) == (0, f"key {old} is revoked\n")
    assert caller_of(data, first.key) is None
    assert caller_of(data, facts["api_key"]) is not None
    states = [json.loads(line)["state"] for line in run("list", "--json").output.splitlines()]
    assert states == ["revoked", "valid"]
    assert run("revoke", facts["api_key"]).output == f"key {new} is revoked\n"


def test_a_new_key_is_shown_to_people_too(data: Path) -> None:
    first = started_once(data)
    lines = run("new").output.splitlines()
    assert lines[0] == f"account {first.user_id}"
    text, _, key = lines[1].rpartition(" ")
    assert text == "its new API key, shown only now:"
    assert caller_of(data, key) is not None


def test_an_unknown_id_is_told(data: Path) -> None:
    started_once(data)
    failed = run("revoke", "abcdefgh")
    assert failed.exit_code == 1
    assert failed.output == ("error: there is no key 'abcdefgh'; `cxp2p gateway key list` shows the ids of all keys\n")


@pytest.mark.parametrize("arguments", [["new"], ["list"], ["revoke", "abcdefgh"]])
def test_without_an_account_nothing_is_made(data: Path, arguments: list[str]) -> None:
    """A gateway that never ran has no database, and gets none by this."""
    failed = run(*arguments)
    assert failed.exit_code == 1
    assert failed.output.startswith("error: there is no account yet: the first start of `cxp2p gateway run` makes one")
    assert not data.exists()


HOLDER = """
import sys, trio
from pathlib import Path
from cxp2p_gateway.store.sqlite import open_store
async def main():
    async with open_store(Path(sys.argv[1]), lambda: 0):
        print("kept", flush=True)
        await trio.sleep_forever()
trio.run(main)
"""


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["new"], ["list"], ["revoke", "abcdefgh"]])
def test_while_the_gateway_runs_it_says_what_to_do(data: Path, arguments: list[str]) -> None:
    """The database is the running gateway's: it is named, with the way out."""
    started_once(data)
    command = [sys.executable, "-c", HOLDER, str(data / "gateway.sqlite")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "kept\n"
        failed = run(*arguments)
        holder.kill()
    assert failed.exit_code == 1
    assert failed.output == (
        f"error: the gateway runs (process {holder.pid}) and keeps its database for itself: "
        f"stop it (kill {holder.pid}), do this again, and start it anew\n"
    )


def test_a_key_with_limits_is_virtual(data: Path) -> None:
    """What was said of it is kept, shown in the list, and in force."""
    started_once(data)
    options = (
        "--spend-limit 2.5 --reset monthly --service chat --service embed --model m --rpm 60 --tpm 1000 --parallel 2"
    )
    made = run("new", "--json", "--name", "an app", "--expires", "2050-01-31", *options.split())
    assert made.exit_code == 0, made.output
    caller = caller_of(data, json.loads(made.output)["api_key"])
    assert caller is not None
    assert (caller.kind.value, caller.services, caller.models, caller.rpm) == ("virtual", ("chat", "embed"), ("m",), 60)

    told = json.loads(run("list", "--json").output.splitlines()[1])
    assert {name: told[name] for name in told if name not in {"id", "created_at_ms", "used_at_ms"}} == {
        "event": "key",
        "state": "valid",
        "kind": "virtual",
        "name": "an app",
        "spent": 0,
        "spend_limit": 2_500_000,
        "spend_reset": "monthly",
        "services": ["chat", "embed"],
        "models": ["m"],
        "rpm": 60,
        "tpm": 1000,
        "max_parallel": 2,
        "expires_at_ms": 2_527_200_000_000,
    }
    line = run("list").output.splitlines()[1]
    assert "'an app'; 0 of 2.5 credits monthly; 60 rpm; 1000 tpm; 2 at once; chat, embed; m; until 2050-01-31" in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("new", "--spend-limit", "x"), "'x' is not a number"),
        (("new", "--spend-limit", "0.0000001"), "at most six decimals"),
        (("new", "--spend-limit", "nan"), "at most six decimals"),
        (("new", "--spend-limit", "-1"), "spend_limit: it is not between 0 and 1000000000 credits"),
        (("new", "--service", "video"), "'video' is not one of"),
        (("new", "--rpm", "0"), "0 is not in the range"),
        (("new", "--expires", "soon"), "'soon' is not a time like 2027-01-31"),
        (("new", "--expires", "2020-01-01"), "expires_at: it is not in the future"),
        (("new", "--name", "a\nb"), "name: it has characters that cannot be printed"),
        (("rotate", "zzzzzzzz"), "there is no key 'zzzzzzzz'"),
        (("rotate", "zzzzzzzz", "--grace", "-1"), "-1 is not in the range"),
    ],
)
def test_limits_that_cannot_be_are_refused(data: Path, arguments: tuple[str, ...], said: str) -> None:
    """And no key is made."""
    started_once(data)
    result = run(*arguments)
    assert result.exit_code != 0
    assert said in result.output
    assert len(run("list").output.splitlines()) == 1


def test_a_key_is_rotated_with_and_without_grace(data: Path) -> None:
    """By its id or by its whole text; its id stays."""
    first = started_once(data)
    wanted = key_id(first.key)
    assert wanted is not None
    made = json.loads(run("rotate", first.key, "--json", "--grace", "3600").output)
    assert key_id(made["api_key"]) == wanted
    assert caller_of(data, first.key) is not None  # by the tests' clock it is long before the end of the grace
    assert caller_of(data, made["api_key"]) is not None
    again = json.loads(run("rotate", wanted, "--json").output)
    assert caller_of(data, made["api_key"]) is None
    assert caller_of(data, again["api_key"]) is not None
