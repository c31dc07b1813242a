"""`cxp2p models`: what it does and says, to people and to programs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cxp2p_node.catalog import CATALOG
from cxp2p_node.config import NodeSettings
from cxp2p_node.models import Store
from cxp2p_node.models.commands import models as command
from file_host import HUB, Host, hosted
from tiny_model import CONTEXT, write_tiny_model


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture
def host(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    with hosted(tiny.read_bytes(), monkeypatch) as served:
        yield served


class Models:
    """The command, with a folder of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, *arguments: str) -> Result:
        return CliRunner().invoke(command, [*arguments, "--models-path", str(self.path)])

    def lines(self, *arguments: str) -> list[dict[str, Any]]:
        done = self(*arguments, "--json")
        assert done.exit_code == 0, done.output
        return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def models(tmp_path: Path) -> Models:
    return Models(tmp_path / "models")


def test_pull_tells_how_far_it_is_and_what_came(host: Host, models: Models) -> None:
    events = models.lines("pull", "mine:1b", "--source", HUB)
    assert {event["event"] for event in events[:-1]} == {"progress"}
    pulled = events[-1]
    assert (pulled["event"], pulled["model"], pulled["fetched"]) == ("pulled", "mine:1b", True)
    assert (pulled["path"], pulled["licence"]) == (str(models.path / "mine-1b.gguf"), "unknown")
    assert len(pulled["sha256"]) == 64
    again = models("pull", "mine:1b")
    assert again.stdout == f"mine:1b is already at {models.path}/mine-1b.gguf, licence: unknown\n"


def test_a_licence_is_agreed_to_by_an_option_only(models: Models) -> None:
    refused = models("pull", "llama3.1:8b")
    assert refused.exit_code == 1
    assert "Llama 3.1 Community License: read https://" in refused.stderr
    assert "--accept-licence" in refused.stderr


def test_list_has_the_catalogue_and_ones_own(host: Host, models: Models, tiny: Path) -> None:
    models("import", str(tiny), "--name", "mine:1b")
    listed = {facts["model"]: facts for facts in models.lines("list")}
    assert list(listed) == [*(entry.name for entry in CATALOG), "mine:1b"]
    mine = listed["mine:1b"]
    assert (mine["own"], mine["installed"], mine["service"]) == (True, True, "chat")
    assert mine["bytes"] == tiny.stat().st_size
    assert mine["memory_bytes"] > mine["bytes"]
    assert listed["gemma3:270m"]["licence_to_accept"]
    assert listed["llama3.1:8b"]["memory_bytes"] is None
    assert [facts["model"] for facts in models.lines("list", "--here")] == ["mine:1b"]
    shown = models("list").stdout.splitlines()
    assert len(shown) == 1 + len(listed)
    assert all(len(line) < 150 for line in shown)


def test_show_has_all_that_is_known(host: Host, models: Models) -> None:
    models("pull", "mine:1b", "--source", HUB)
    (facts,) = models.lines("show", "mine:1b")
    assert (facts["source"], facts["architecture"], facts["context"]) == (HUB, "llama", CONTEXT)
    assert facts["chat_template"] is True
    page = models("show", "mine:1b").stdout
    for said in (HUB, "chat", facts["sha256"], "unknown", f"{CONTEXT} tokens", "MiB for", "size class tide-pool"):
        assert said in page
    absent = models("show", "codellama:13b").stdout
    assert "no: `cxp2p models pull codellama:13b --accept-licence` fetches it" in absent
    assert "pinned by the first pull" in absent
    assert "about 7.9 GB" in absent
    assert "to be accepted: --accept-licence" in absent
    assert "768 numbers, may be cut to fewer, pooling mean" in models("show", "nomic-embed-text").stdout


def test_the_lines_that_show_prints_are_settings(models: Models) -> None:
    page = models("show", "smollm2").stdout
    settings = NodeSettings.model_validate(tomllib.loads(page[page.index("[[models]]") :]))
    assert [model.name for model in settings.models] == ["smollm2:135m"]


def test_a_file_of_ones_own_is_imported_and_removed(models: Models, tiny: Path) -> None:
    told = models.lines("import", str(tiny), "--name", "mine:1b")[-1]
    assert (told["event"], told["service"], told["architecture"]) == ("imported", "chat", "llama")
    assert told["note"] == ""
    assert Store(models.path).entry("mine:1b").name == "mine:1b"
    assert models("rm", "mine:1b").output == "mine:1b removed\n"
    assert tiny.exists()
    assert models("show", "mine:1b").exit_code == 1
    assert models.lines("rm", "smollm2") == [{"event": "removed", "model": "smollm2:135m", "removed": False}]


def test_a_model_without_a_template_is_imported_with_a_note(models: Models, tmp_path: Path, tiny: Path) -> None:
    bare = tmp_path / "bare.gguf"
    bare.write_bytes(tiny.read_bytes().replace(b"tokenizer.chat_template", b"tokenizer.chat_tempLATE"))
    done = models("import", str(bare), "--name", "bare:1b")
    assert "note: no chat template in the file: prompts are written as ChatML" in done.stderr
    assert "no chat template" in models("show", "bare:1b").stdout


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is not whole"),
        (b"<html>" + bytes(64), "it is not a GGUF file"),
        (b"GGUF" + b"\xff" * 64, "it is of version 4294967295"),
    ],
)
def test_what_is_no_model_is_not_imported(models: Models, tmp_path: Path, content: bytes, said: str) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(content)
    done = models("import", str(bad), "--name", "mine:1b")
    assert done.exit_code == 1
    assert f"{bad} was not imported: " in done.stderr
    assert said in done.stderr
    assert models.lines("list", "--here") == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("pull", "tinny"), "model 'tinny' is not in the catalogue; known are: smollm2:135m"),
        (("pull", "mine:7b"), "one of your own comes by `cxp2p models pull NAME --source SOURCE` or"),
        (("pull", "smolm2:135m"), "did you mean 'smollm2:135m'?"),
        (("pull", "a:1", "b:1", "--source", HUB), "--source is of one model"),
        (("pull", "mine:1b", "--source", "gopher:x"), "the source 'gopher:x' is not known"),
        (("import", "/nowhere.gguf", "--name", "mine:1b"), "there is no file /nowhere.gguf"),
        (("import", "/nowhere.gguf", "--name", "../mine"), "the name '../mine' cannot be used"),
        (("rm", "qqq"), "is not in the catalogue"),
        (("show", "qqq"), "is not in the catalogue"),
    ],
)
def test_mistakes_are_told_in_one_line(models: Models, arguments: tuple[str, ...], said: str) -> None:
    done = models(*arguments)
    assert done.exit_code == 1
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["pull", "list", "show", "rm", "import"])
def test_each_command_has_an_example(name: str) -> None:
    page = CliRunner().invoke(command, [name, "--help"]).stdout
    assert f"cxp2p models {name}" in page
    assert "--json" in page


def test_what_an_interrupted_fetch_left_is_told_and_removed(host: Host, models: Models) -> None:
    """Also of a model that was never here, so that only its name is known."""

    def killed(what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Store(models.path).pull(Store(models.path).entry("mine:1b", HUB), killed)
    for command_name in ("pull", "show"):
        said = models(command_name, "mine:1b").stderr
        assert "mine:1b is not here yet, its fetch was interrupted: give its --source again" in said
    assert models("rm", "mine:1b").output == "mine:1b removed\n"
    assert not list(models.path.rglob("*.part"))
    assert "not in the catalogue" in models("rm", "mine:1b").stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_pull_goes_on(host: Host, tmp_path: Path, tiny: Path, number: signal.Signals) -> None:
    """Ctrl-C or `kill -9` in the middle, with the real program: the next one fetches only the rest."""
    host.files["/tiny.gguf"] = write_tiny_model(tmp_path / "large.gguf").read_bytes() + bytes(64 << 20)
    held = host.hold()
    arguments = [sys.executable, "-m", "cxp2p", "models", "pull", "mine:1b", "--json"]
    arguments += ["--source", f"{host.url}/tiny.gguf", "--models-path", str(tmp_path / "models")]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["event"] == "progress"
        os.kill(process.pid, number)
        said = process.stderr.read()
        assert process.wait(20) == (130 if number is signal.SIGINT else -signal.SIGKILL)
    assert ("interrupted; the next try goes on from here" in said) == (number is signal.SIGINT)
    held.set()
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["event"] == "pulled"
    assert host.transfers[-1] is not None
