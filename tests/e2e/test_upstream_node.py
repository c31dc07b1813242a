"""A server of one's own behind a node, as the documentation has it: real processes, from settings to answer."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tiny_model import ANSWER, write_tiny_model
from upstreams import llama_server

pytestmark = pytest.mark.slow

CXP2P = (sys.executable, "-m", "cxp2p")
PATIENCE_S = 60


@dataclass(frozen=True)
class Running:
    """A program, and what it said when it was ready."""

    process: subprocess.Popen[str]
    facts: dict[str, Any]

    def until_logged(self, words: str) -> None:
        assert self.process.stderr is not None
        assert any(words in line for line in self.process.stderr)


@contextmanager
def program(*arguments: str) -> Iterator[Running]:
    """A long-running command until the block ends."""
    command = [*CXP2P, *arguments, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            facts = (json.loads(line) for line in process.stdout)
            yield Running(process, next(each for each in facts if each["event"] == "ready"))
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE_S) in (0, 130)


def chat(bootstrap: str) -> subprocess.CompletedProcess[str]:
    command = [*CXP2P, "chat", "mine", "hello", "--temperature", "0", "-b", bootstrap]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)


def test_a_settings_file_of_three_lines_offers_a_server(tmp_path: Path) -> None:
    """The node starts while the server is down, says so, and offers it when it comes."""
    model = write_tiny_model(tmp_path / "tiny.gguf")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = tmp_path / "node.toml"
    settings.write_text(
        f'data_path = "{tmp_path}/node"\n[peer]\nlisten = ["/ip4/127.0.0.1/tcp/0"]\n'
        f'[[models]]\nname = "mine"\nengine = "upstream"\nurl = "http://127.0.0.1:{port}"\nslots = 2\n'
    )
    way_in = ("bootstrap", "--listen", "/ip4/127.0.0.1/tcp/0", "--data", str(tmp_path / "bootstrap"))
    with program(*way_in) as bootstrap:
        address = bootstrap.facts["addresses"][0]
        with program("node", "run", "--config", str(settings), "-b", address) as node:
            assert node.facts["models"] == []
            assert "Connection refused" in node.facts["failed"]["mine"]
            with llama_server(model, port=port):
                node.until_logged("mine is offered, by upstream llama.cpp")
                done = chat(address)
    assert done.returncode == 0, done.stderr
    assert ANSWER in done.stdout
    assert "receipt accepted" in done.stdout + done.stderr
    assert f"{len(ANSWER.encode()) + 1} tokens" in done.stdout + done.stderr
