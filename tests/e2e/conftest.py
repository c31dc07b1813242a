"""A whole network of real processes and the real model, as `make up` starts it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

MODEL = "smollm2:135m"
EMBED_MODEL = "all-minilm-l6-v2"
VOICE = "en_US-joe-medium"
LEAVE_S = 10.0


@dataclass(frozen=True)
class Up:
    """A running network, and how to reach it."""

    process: subprocess.Popen[str]
    access: dict[str, Any]

    @property
    def base_url(self) -> str:
        return str(self.access["base_url"])

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.access['api_key']}", "X-User-Id": self.access["user_id"]}

    def client(self, **settings: Any) -> openai.OpenAI:
        return openai.OpenAI(
            api_key=self.access["api_key"],
            base_url=self.base_url,
            default_headers={"X-User-Id": self.access["user_id"], "X-Cx-Metadata": "enabled"},
            **settings,
        )

    def workers(self, node: dict[str, Any]) -> list[psutil.Process]:
        """The llama.cpp processes of a node."""
        children: list[psutil.Process] = psutil.Process(node["pid"]).children()
        return children


@contextmanager
def start(state: Path, *, leaves_orphans: bool = False) -> Iterator[Up]:
    """`demo up`, ended by Ctrl-C; fails if a process outlives it, unless that is what is tested."""
    command = [sys.executable, "-m", "demo", "up", "--port", "0", "--state", str(state), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        if not said:
            pytest.fail(f"the network did not start: see {state}/logs")
        family = psutil.Process(process.pid).children(recursive=True)
        try:
            yield Up(process, json.loads(said))
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(LEAVE_S)
    if not leaves_orphans:
        _, alive = psutil.wait_procs(family, timeout=LEAVE_S)
        assert not alive


@pytest.fixture(scope="session")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with start(tmp_path_factory.mktemp("network")) as running:
        yield running
