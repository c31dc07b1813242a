"""Web pages of hosts on this machine, through real nodes and a real gateway: from a URL to Markdown and a receipt."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from cxp2p_node.scrape.rendering import NAMES
from sites import PATIENCE_S, TOLD, Site, served

pytestmark = pytest.mark.slow

CXP2P = (sys.executable, "-m", "cxp2p")
DELAY_S = 0.1  # instead of a second
BROWSER = next((found for name in NAMES if (found := shutil.which(name))), None)


@contextmanager
def program(log: Path, *arguments: str) -> Iterator[dict[str, dict[str, Any]]]:
    """A long-running command until the block ends: what it said, by event, until it was ready."""
    with log.open("w") as stderr:
        process = subprocess.Popen([*CXP2P, *arguments, "--json"], stdout=subprocess.PIPE, stderr=stderr, text=True)
    with process:
        try:
            assert process.stdout is not None
            told: dict[str, dict[str, Any]] = {}
            while "ready" not in told:
                line = process.stdout.readline()
                assert line, log.read_text()
                facts = json.loads(line)
                told[facts["event"]] = facts
            told["process"] = {"pid": process.pid}
            yield told
        finally:
            process.send_signal(signal.SIGINT)
            ended = process.wait(PATIENCE_S)
        assert ended in (0, 130, -signal.SIGKILL), log.read_text()


@dataclass(frozen=True)
class Here:
    """A network of two nodes that scrape and a gateway, and two hosts on this machine."""

    base_url: str
    key: str
    bootstrap: str
    sites: tuple[Site, Site]
    pids: dict[str, int]  # of the nodes, by peer

    def scrape(self, *urls: str, **fields: Any) -> tuple[list[dict[str, Any]], httpx.Response]:
        reply = self.ask("POST", "/scrape", {"urls": urls, **fields})
        assert reply.status_code == 200, reply.text
        return reply.json()["results"], reply

    def ask(self, method: str, path: str, body: object = None) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.key}", "X-Cx-Metadata": "enabled"}
        return httpx.request(method, self.base_url + path, json=body, headers=headers, timeout=2 * PATIENCE_S)


def node_settings(data: Path) -> str:
    return f"""\
data_path = "{data}"
peer.listen = ["/ip4/127.0.0.1/tcp/0"]

[scrape]
allow = ["127.0.0.1", "127.0.0.2"]
delay_s = {DELAY_S}
browser = "{BROWSER or "none"}"

[[models]]
name = "web"
engine = "scrape"
"""


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Here]:
    with network(tmp_path_factory.mktemp("scraping")) as running:
        yield running


@contextmanager
def network(path: Path) -> Iterator[Here]:
    """Everything, until the block ends; entered when the gateway has found both nodes."""
    pids: dict[str, int] = {}
    with ExitStack() as stack:
        sites = (stack.enter_context(served(Site("127.0.0.1"))), stack.enter_context(served(Site("127.0.0.2"))))
        way_in = ("--listen", "/ip4/127.0.0.1/tcp/0", "--data", str(path / "bootstrap"))
        bootstrap = stack.enter_context(program(path / "bootstrap.log", "bootstrap", *way_in))
        address = bootstrap["ready"]["addresses"][0]
        for number in (1, 2):
            settings = path / f"node-{number}.toml"
            settings.write_text(node_settings(path / f"node-{number}"))
            arguments = ("node", "run", "--config", str(settings), "-b", address)
            node = stack.enter_context(program(path / f"node-{number}.log", *arguments))
            pids[node["ready"]["peer"]] = node["process"]["pid"]
        settings = path / "gateway.toml"
        settings.write_text(f'data_path = "{path}/gateway"\n[http]\nport = 0\n[scrape]\nallow = ["127.0.0.0/8"]\n')
        arguments = ("gateway", "run", "--config", str(settings), "-b", address)
        gateway = stack.enter_context(program(path / "gateway.log", *arguments))
        found = Here(gateway["ready"]["url"] + "/api/v1", gateway["account"]["api_key"], address, sites, pids)
        until = time.monotonic() + PATIENCE_S
        while not any(model["providers"]["count"] == 2 for model in found.ask("GET", "/models").json()["data"]):
            assert time.monotonic() < until
        yield found


def test_a_page_becomes_markdown_with_a_receipt(here: Here) -> None:
    """Its table and its code are kept, its navigation is not; what was paid is one page."""
    (result,), reply = here.scrape(f"{here.sites[0].url}/page/0")
    receipt = here.ask("GET", f"/receipts/{reply.headers['x-cx-generation-id']}").json()

    assert result["success"], result
    assert result["content"].startswith("# How buoys work\n")
    assert "```python\ndef miles(h):\n    return 2.08 * h ** 0.5\n```" in result["content"]
    assert "| 10 m | 6.6 miles |" in result["content"]
    assert "Ships" not in result["content"]
    metadata = result["metadata"]
    assert metadata["title"] == "How buoys work"
    assert metadata["description"] == "What makes a small lamp visible for twenty miles."
    assert (metadata["author"], metadata["publish_date"]) == ("A. Keeper", "2024-05-17")
    assert (metadata["statusCode"], metadata["language"]) == (200, "en")
    assert metadata["finalUrl"] == f"{here.sites[0].url}/page/0"
    assert receipt["countersign"]["fields"]["verdict"] == "accepted"
    assert receipt["receipt"]["fields"]["out_units"] == 1
    assert all("CxmputeBot" in agent for agent in here.sites[0].agents)


@pytest.mark.parametrize(("form", "begins"), [("text", "How buoys work"), ("html", "<")])
def test_a_page_in_another_form(here: Here, form: str, begins: str) -> None:
    """Without marks, or with all of them."""
    (result,), _ = here.scrape(f"{here.sites[0].url}/page/0", format=form)

    assert result["success"], result
    assert result["content"].startswith(begins)
    assert ("<table>" in result["content"]) is (form == "html")


def test_fifty_pages_of_one_host_are_fetched_one_after_another(here: Here) -> None:
    """By one node, with its pause between them, although two are there; each is told in its place, and paid once."""
    site = here.sites[0]
    site.visits.clear()
    urls = [f"{site.url}/page/{number}" for number in range(100, 150)]
    results, reply = here.scrape(*urls)

    assert [each["url"] for each in results] == urls
    assert all(each["success"] for each in results)
    visits = [visit for visit in site.visits if visit[0].startswith("/page/")]
    assert sorted(path for path, *_ in visits) == sorted(f"/page/{number}" for number in range(100, 150))
    ends = [ended for _, _, ended in visits]
    begins = [begun for _, begun, _ in visits]
    assert min(begun - ended for ended, begun in zip(ends, begins[1:], strict=False)) > DELAY_S / 2
    assert not isinstance(reply.json()["cx"], list)
    receipt = here.ask("GET", f"/receipts/{reply.headers['x-cx-generation-id']}").json()
    assert [each["receipt"]["fields"]["out_units"] for each in receipt["data"]] == [50]


def test_pages_of_two_hosts_are_one_answer(here: Here) -> None:
    """Of one node or of two, each with its own receipt; the same page twice is one fetch, and paid once."""
    urls = [f"{site.url}/page/{number}" for number in (200, 201, 202, 200) for site in here.sites]
    results, reply = here.scrape(*urls)

    assert all(each["success"] for each in results)
    receipts = here.ask("GET", f"/receipts/{reply.headers['x-cx-generation-id']}").json()["data"]
    assert len({each["receipt"]["fields"]["node"] for each in receipts}) == len(receipts) <= 2
    assert sum(each["receipt"]["fields"]["out_units"] for each in receipts) == 6
    assert [site.asked("/page/200") for site in here.sites] == [1, 1]


def test_each_way_to_fail_has_its_code_beside_a_page(here: Here) -> None:
    """Nothing of it is an error of the request; what is blocked is never asked for."""
    base = here.sites[1].url
    wanted = {
        f"{base}/page/1": None,
        f"{base}/moved": None,
        f"{base}/latin": None,
        f"{base}/missing": "http_error",
        f"{base}/round": "http_error",
        f"{base}/inside": "url_blocked",
        f"{base}/private/1": "robots_disallowed",
        f"{base}/empty": "extraction_empty",
        f"{base}/picture": "unsupported_content_type",
        f"{base}/large": "too_large",
        "http://10.0.0.1/": "url_blocked",
        "http://2130706433/": "url_blocked",
        "http://[::ffff:127.0.0.1]/": "url_blocked",
        "http://metadata.google.internal/": "url_blocked",
        "file:///etc/passwd": "invalid_url",
        "nonsense": "invalid_url",
        "http://127.0.0.2:1/": "connect_error",
        f"{base}/hangs": "timeout",
    }
    results, reply = here.scrape(*wanted, timeout=2)

    assert {each["url"]: each.get("code") for each in results} == wanted
    by_url = {each["url"]: each for each in results}
    assert by_url[f"{base}/moved"]["metadata"]["finalUrl"] == f"{base}/page/7"
    assert "Zwölf Boxkämpfer" in by_url[f"{base}/latin"]["content"]
    assert by_url[f"{base}/missing"]["metadata"]["statusCode"] == 404
    assert by_url[f"{base}/inside"]["metadata"] == {}
    assert "10.0.0.1" not in json.dumps(by_url[f"{base}/inside"])
    receipts = here.ask("GET", f"/receipts/{reply.headers['x-cx-generation-id']}").json()["data"]
    assert sum(each["receipt"]["fields"]["out_units"] for each in receipts) == 3
    assert here.sites[1].asked("/private/1") == 0


def test_a_copy_will_do_if_it_is_young_enough(here: Here) -> None:
    """From the same node, and it says so."""
    site = here.sites[0]
    (first,), _ = here.scrape(f"{site.url}/page/300", max_age=3600)
    (second,), _ = here.scrape(f"{site.url}/page/300", max_age=3600)
    (third,), _ = here.scrape(f"{site.url}/page/300")

    assert [each["metadata"]["cached"] for each in (first, second, third)] == [False, True, False]
    assert first["metadata"]["fetchedAt"] == second["metadata"]["fetchedAt"] < third["metadata"]["fetchedAt"]
    assert site.asked("/page/300") == 2


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here: tools/test-packages.sh installs it")
def test_scripts_run_where_they_are_asked_for_and_reach_nobody_inside(here: Here) -> None:
    """What they load belongs to their page, also where robots.txt would keep it from us as a page of its own."""
    site = here.sites[0]
    with served(Site("127.0.0.3")) as inside:
        port = inside.url.rpartition(":")[2]
        site.places = (
            f"{here.sites[1].url}/page/1",  # that may be fetched from
            f"{inside.url}/page/1",
            f"http://localhost:{port}/",
            f"http://[::1]:{port}/",
            f"http://2130706435:{port}/",
            "http://169.254.169.254/latest/meta-data/",
            "http://10.0.0.1/",
        )
        urls = [f"{site.url}/drawn", f"{site.url}/page/500", f"{site.url}/private/drawn", f"{inside.url}/page/2"]
        (drawn, plain, private, blocked), _ = here.scrape(*urls, render="auto")
        (bare,), _ = here.scrape(urls[0])

    assert drawn["success"], drawn
    assert drawn["metadata"]["rendered"] is True
    assert "# Tides" in drawn["content"]
    assert TOLD.strip() in drawn["content"]
    assert f"Found: something, {', '.join(['nothing'] * (len(site.places) - 1))}." in drawn["content"]
    assert not inside.visits
    assert plain["metadata"]["rendered"] is False
    assert (private["code"], blocked["code"]) == ("robots_disallowed", "url_blocked")
    assert site.asked("/private/told.json") == 1
    assert site.asked("/private/drawn") == 0
    assert bare["code"] == "extraction_empty"
    assert all("CxmputeBot" in agent for agent in site.agents)


def test_the_command_prints_what_a_page_says(here: Here) -> None:
    """Markdown, or JSON; a page that fails is told on standard error, and ends it with 1."""
    url = f"{here.sites[0].url}/page/400"
    command = [*CXP2P, "scrape", "-b", here.bootstrap]
    done = subprocess.run([*command, url], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("# How buoys work\n")
    assert "1 of 1 pages, 1 receipts of 1 nodes" in done.stderr

    both = [url, "http://10.0.0.1/"]
    done = subprocess.run([*command, *both, "--json"], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 1
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(each["url"], each["fault"]) for each in lines] == [(url, None), ("http://10.0.0.1/", "url_blocked")]
    assert lines[0]["title"] == "How buoys work"
    done = subprocess.run([*command, *both], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.stdout.startswith(f"<{url}>\n\n# How")
    assert "http://10.0.0.1/: url_blocked" in done.stderr


def test_a_node_that_is_killed_is_not_seen(tmp_path: Path) -> None:
    """What it had fetched is kept, unpaid; the other one fetches what is missing, and signs for that."""
    with network(tmp_path) as here:
        (_, first) = here.scrape(f"{here.sites[0].url}/page/0")
        asked = here.ask("GET", f"/receipts/{first.headers['x-cx-generation-id']}").json()
        fetching = asked["receipt"]["fields"]["node"]  # a host stays with its node
        site = here.sites[0]
        urls = [f"{site.url}/page/{number}" for number in range(100, 130)]
        killer = threading.Thread(target=kill_at_the_tenth, args=(site, here.pids[fetching]))
        killer.start()
        results, reply = here.scrape(*urls)
        killer.join()
        receipts = here.ask("GET", f"/receipts/{reply.headers['x-cx-generation-id']}").json()["data"]

    assert [each["url"] for each in results] == urls
    assert all(each["success"] for each in results)
    (signed,) = receipts
    assert signed["receipt"]["fields"]["node"] != fetching
    assert signed["receipt"]["fields"]["out_units"] < 30
    assert sum(site.asked(url.removeprefix(site.url)) for url in urls) < 30 + 5


def kill_at_the_tenth(site: Site, pid: int) -> None:
    """Kills a process when the site has been asked for its tenth page."""
    assert site.tenth.wait(PATIENCE_S)
    os.kill(pid, signal.SIGKILL)
