"""The dashboard of a whole gateway, as its settings have it: its first link, its address, or none at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from browsers import EMAIL, PASSWORD, hidden
from cxp2p_gateway.app import open_gateway
from cxp2p_gateway.config import AccountSettings, DashboardSettings, GatewaySettings, HttpSettings
from cxp2p_gateway.http import Front
from cxp2p_gateway.people import Signup
from cxp2p_gateway.running import _Heard, tell
from doors import ask

FORM = "application/x-www-form-urlencoded"


def settings(folder: Path, **dashboard: Any) -> GatewaySettings:
    return GatewaySettings(data_path=folder, http=HttpSettings(port=0), dashboard=DashboardSettings(**dashboard))


async def claim(front: Front, link: str) -> int:
    """Opens the link and sends its form, as somebody with a browser does."""
    page = await ask(front, "GET", link, headers={"host": "x"}, key=None)
    cookie = page.headers["set-cookie"].partition(";")[0]
    fields = {**hidden(page, "/claim"), "email": EMAIL, "password": PASSWORD}
    body = "&".join(f"{name}={value.replace('@', '%40').replace(' ', '+')}" for name, value in fields.items())
    headers = {"host": "x", "cookie": cookie, "content-type": FORM}
    return (await ask(front, "POST", "/claim", headers=headers, body=body.encode(), key=None)).status


async def test_the_first_start_tells_where_the_first_account_gets_its_password(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each start does, until it has one."""
    told = []
    for _ in range(3):
        async with open_gateway(settings(tmp_path)) as running:
            tell(running, as_json=True)
            events = {fact["event"]: fact for fact in map(json.loads, capsys.readouterr().out.splitlines())}
            told.append(events.get("claim", {}).get("url"))
            if len(told) == 2:
                assert str(told[-1]).startswith(running.url + "/claim?link=")
                assert await claim(running.front, str(told[-1]).removeprefix(running.url)) == 303
    assert told[0] is not None
    assert told[0] != told[1]
    assert told[2] is None


async def test_a_gateway_may_have_no_pages(tmp_path: Path) -> None:
    """Then there is the API and nothing else, and no link."""
    async with open_gateway(settings(tmp_path, enabled=False)) as running:
        assert running.claim_url is None
        for path in ("/", "/login", "/dashboard", "/dashboard/live.json"):
            answer = await ask(running.front, "GET", path, headers={"accept": "text/html"}, key=None)
            assert answer.status == 404
            assert answer.headers["content-type"] == "application/json"
        assert (await ask(running.front, "GET", "/health", key=None)).status == 200


async def test_links_have_the_public_address(tmp_path: Path) -> None:
    """Whatever the gateway listens on; and it has to be one."""
    async with open_gateway(settings(tmp_path, public_url="https://cxmpute.example/")) as running:
        assert str(running.claim_url).startswith("https://cxmpute.example/claim?link=")
        page = await ask(running.front, "GET", "/login", key=None)
        assert page.headers["set-cookie"].startswith("__Host-")
    with pytest.raises(ValidationError):
        DashboardSettings(public_url="cxmpute.example")
    assert AccountSettings().signup is Signup.CLOSED


def test_of_several_workers_one_tells_the_link(capsys: pytest.CaptureFixture[str]) -> None:
    """All links work; one is enough."""
    heard = _Heard(2, True)
    for number in (1, 2):
        heard.tell(number, {"event": "claim", "url": f"http://x/claim?link={number}"})
    assert [json.loads(line)["url"] for line in capsys.readouterr().out.splitlines()] == ["http://x/claim?link=1"]
