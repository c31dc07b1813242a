"""`cxp2p node check`: what would keep a node from starting, told before it starts, with no model loaded."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

from cxp2p_node.commands import node


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The settings of a node that would start."""
    path = tmp_path / "node.toml"
    path.write_text(
        f'data_path = "{tmp_path / "data"}"\nmodels_path = "{tmp_path / "models"}"\n'
        '[peer]\nlisten = ["/ip4/127.0.0.1/tcp/0"]\n[[models]]\nname = "echo"\nengine = "echo"\n'
    )
    return path


def checked(config: Path, *arguments: str) -> tuple[int, list[tuple[str, str, str]]]:
    """The exit status, and what was found."""
    result = CliRunner().invoke(node, ["check", "--config", str(config), "--json", *arguments])
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    return result.exit_code, [(line["what"], line["standing"], line["text"]) for line in lines]


def test_a_node_that_would_start(config: Path) -> None:
    """Nothing is made."""
    status, found = checked(config)

    assert status == 0
    assert ("model", "ok", "echo, by the engine echo") in found
    assert [path.name for path in config.parent.iterdir()] == ["node.toml"]


@pytest.mark.parametrize(
    ("added", "said"),
    [
        ('[[models]]\nname = "echo"\nengine = "echo"', "each name may stand once, given are echo, echo"),
        ('[[models]]\nname = "nobody:1b"', "model 'nobody:1b' is not in the catalogue"),
        ('[[models]]\nname = "mine"\npath = "/nowhere/x.gguf"', "there is no file /nowhere/x.gguf"),
    ],
)
def test_models_that_cannot_be_served_are_told(config: Path, added: str, said: str) -> None:
    """By name, as a fault."""
    config.write_text(config.read_text() + added)
    status, found = checked(config)

    assert status == 1
    assert any(standing == "fault" and said in text for _, standing, text in found)


def test_a_model_that_is_not_here_is_fetched_or_missed(config: Path) -> None:
    """Whether the start may fetch it makes the difference."""
    status, found = checked(config, "--model", "smollm2:135m")
    assert status == 0
    assert ("model", "note", "smollm2:135m is not on this machine: the start fetches it") in found
    config.write_text("pull = false\n" + config.read_text())
    status, found = checked(config, "--model", "smollm2:135m")

    assert status == 1
    assert ("model", "fault") in [(what, standing) for what, standing, _ in found]


def test_a_port_that_is_taken_is_told(config: Path) -> None:
    """libp2p itself would share it silently."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        config.write_text(config.read_text().replace("tcp/0", f"tcp/{port}"))
        status, found = checked(config)

    assert status == 1
    assert (
        "peer",
        "fault",
        f"peer.listen: cannot listen on /ip4/127.0.0.1/tcp/{port}: Address already in use",
    ) in found
