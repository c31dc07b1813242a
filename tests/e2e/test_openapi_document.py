"""A real gateway, with a node behind it, does what its OpenAPI document says, whatever schemathesis makes of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

import model_hooks
from model_hooks import MODEL, OWN_KEY, OWN_USER
from telling import program

pytestmark = pytest.mark.slow

EXAMPLES = 5


@dataclass(frozen=True)
class Echoing:
    """A gateway and a node that repeats what it is asked."""

    url: str
    key: str
    user: str

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, headers={"Authorization": f"Bearer {self.key}"})


@pytest.fixture(scope="module")
def echoing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Echoing]:
    state = tmp_path_factory.mktemp("echoing")
    listen = "/ip4/127.0.0.1/tcp/0"
    with ExitStack() as programs:
        boot = programs.enter_context(
            program("bootstrap", "--listen", listen, "--data", str(state / "boot"), log_path=state / "boot.log")
        )
        peer = f'[peer]\nlisten = ["{listen}"]\nbootstrap = ["{boot["ready"]["addresses"][0]}"]\n'
        settings = {
            "node": f'[[models]]\nname = "{MODEL}"\nengine = "echo"\nprice_in = 0\nprice_out = 0\n',
            "gateway": '[http]\nhost = "127.0.0.1"\nport = 0\n',
        }
        for name, rest in settings.items():
            (state / f"{name}.toml").write_text(f'data_path = "{state / name}"\n{peer}{rest}')
        run = ("run", "--config")
        programs.enter_context(program("node", *run, str(state / "node.toml"), log_path=state / "node.log"))
        facts = programs.enter_context(
            program("gateway", *run, str(state / "gateway.toml"), log_path=state / "gateway.log")
        )
        running = Echoing(facts["ready"]["url"], facts["account"]["api_key"], facts["account"]["user_id"])
        while MODEL not in running.get("/v1/models").text:
            threading.Event().wait(0.1)
        yield running


@pytest.mark.parametrize(
    ("base", "phases"),
    [("/api/v1", "examples,coverage"), ("/v1", "examples,fuzzing")],
    ids=["every bound under /api/v1", "by chance under /v1"],
)
def test_schemathesis_finds_nothing(echoing: Echoing, base: str, phases: str, tmp_path: Path) -> None:
    """Statuses, media types, headers and bodies are as documented; what the document forbids is refused.

    What depends on more than one field (a choice of tools without any) may be refused, so that right data that is not
    accepted is no failure. A gateway without the voice or model that is asked for says 503, as the document has it.
    Who leaves out the key is seen by `ignored_auth`: a header of the command line is put back where it is left out.
    """
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{echoing.url}{base}/openapi.json"),
        *("--url", f"{echoing.url}{base}", "--header", f"Authorization: Bearer {echoing.key}"),
        *("--checks", "all", "--exclude-checks", "positive_data_acceptance,not_a_server_error,missing_required_header"),
        *("--max-examples", str(EXAMPLES), "--phases", phases, "--seed", "1", "--no-color"),
        *("--continue-on-failure", "--request-timeout", "30"),
    ]
    own_key = echoing.key.split("-")[2]
    told = {"SCHEMATHESIS_HOOKS": model_hooks.__file__, OWN_KEY: own_key, OWN_USER: echoing.user}
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, **told}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    counted = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert counted is not None
    assert int(counted[1]) == int(counted[2]) > 100


def test_the_model_that_it_asks_answers(echoing: Echoing) -> None:
    """With the same key as before: what answers of 200 there were, and that the key still is one."""
    asked = {"model": MODEL, "input": "one two"}
    answer = httpx.post(
        f"{echoing.url}/v1/responses", json=asked, headers={"Authorization": f"Bearer {echoing.key}"}, timeout=30
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["output"][0]["content"][0]["text"].strip() == "one two"
