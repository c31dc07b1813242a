"""What stands in `deploy/` names commands, settings, extras and files that there are."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest
from pydantic import BaseModel

from cxp2p import cli
from cxp2p.settings import load_settings
from cxp2p_gateway.config import GatewaySettings
from cxp2p_gateway.workers import CUT_S
from cxp2p_node.config import NodeSettings
from pages import ROOT, page

DEPLOY = ROOT / "deploy"
UNITS = sorted(DEPLOY.glob("*.service"))
DOCKERFILES = sorted(DEPLOY.glob("*.Dockerfile"))
PROGRAM = "/opt/cxp2p/bin/cxp2p"
KINDS: dict[str, type[BaseModel]] = {"gateway": GatewaySettings, "node": NodeSettings}
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def name(path: Path) -> str:
    return path.name


def entries(unit: Path) -> list[tuple[str, str]]:
    """All settings of a unit, in order; comments and sections left out."""
    lines = unit.read_text().splitlines()
    return [(key, value) for key, is_one, value in (line.partition("=") for line in lines if line[:1] != "#") if is_one]


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """All instructions of a Dockerfile, each on one line."""
    text = re.sub(r"^#.*\n", "", dockerfile.read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\s*\\\n\s*", " ", text).splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines if line)]


def parses(words: list[str]) -> None:
    """The words after `cxp2p` are a command with these options. Raises click.UsageError."""
    command: click.Command = cli.main
    context = click.Context(command)
    while isinstance(command, click.Group):
        _, found, words = command.resolve_command(context, words)
        assert found is not None
        command = found
        context = click.Context(command, parent=context)
    command.make_context("deployed", list(words), parent=context)


def set_by(variables: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets these variables, and sees that the programs know them. Raises SettingsError."""
    for each in variables:
        variable, _, value = each.partition("=")
        monkeypatch.setenv(variable, value)
    for program, kind in KINDS.items():
        load_settings(kind, program, Path("/nowhere"), required=False)


def test_there_are_examples() -> None:
    """Of both kinds, for both programs."""
    assert [each.name for each in UNITS] == ["cxp2p-gateway.service", "cxp2p-node.service"]
    assert [each.name for each in DOCKERFILES] == ["gateway.Dockerfile", "node.Dockerfile"]


@pytest.mark.parametrize("unit", UNITS, ids=name)
def test_a_units_commands_parse(unit: Path) -> None:
    """Every command is ours, with options that it has."""
    commands = [value for key, value in entries(unit) if key.startswith("Exec")]
    assert commands
    for command in commands:
        program, *words = shlex.split(command)
        assert program == PROGRAM
        parses(words)


@pytest.mark.parametrize("unit", UNITS, ids=name)
def test_a_units_settings_exist(unit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables are known, those named in comments too, and state is kept in the folder that systemd makes."""
    given = [value for key, value in entries(unit) if key == "Environment"]
    (folder,) = [value for key, value in entries(unit) if key == "StateDirectory"]
    set_by(given, monkeypatch)
    for each in given:
        assert f"=/var/lib/{folder}" in each
    comments = [line for line in unit.read_text().splitlines() if line.startswith("#")]
    named = re.findall(r"CXP2P_[A-Z_]+", "\n".join(comments))
    assert named
    for variable in named:
        _, program, path = variable.split("_", 2)
        section, _, field = path.lower().partition("__")
        assert field in type(getattr(KINDS[program.lower()](), section)).model_fields


@pytest.mark.parametrize("unit", UNITS, ids=name)
def test_systemd_waits_for_a_drain(unit: Path) -> None:
    """It stops the program alone, by SIGTERM, and kills what is left after the default grace and the time to leave."""
    told = dict(entries(unit))
    patience_s = GatewaySettings().http.grace_s + CUT_S if "gateway" in unit.name else NodeSettings().work.drain_s + 15

    assert told["KillMode"] == "mixed"
    assert "KillSignal" not in told
    assert float(told["TimeoutStopSec"]) >= patience_s


@pytest.mark.parametrize("unit", UNITS, ids=name)
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")
def test_systemd_takes_a_unit(unit: Path, tmp_path: Path) -> None:
    """`systemd-analyze verify` has nothing to say, with the program where it is here."""
    here = tmp_path / unit.name
    here.write_text(unit.read_text().replace(PROGRAM, str(Path(sys.executable).parent / "cxp2p")))
    verified = subprocess.run(["systemd-analyze", "verify", here], capture_output=True, text=True)

    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=name)
def test_an_image_runs_a_command(dockerfile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entry point and command parse together; its variables are known; it is not root."""
    told = dict(instructions(dockerfile))
    program, *first = json.loads(told["ENTRYPOINT"])

    assert program == PROGRAM
    parses([*first, *json.loads(told["CMD"])])
    set_by(shlex.split(told["ENV"]), monkeypatch)
    assert told["USER"] == "cxp2p"
    assert told["STOPSIGNAL"] == "SIGTERM"


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=name)
def test_an_image_is_made_of_what_there_is(dockerfile: Path) -> None:
    """The extras are in pyproject.toml, the files in the tree and not left out of the context."""
    text = dockerfile.read_text()
    (extras,) = re.findall(r"'/src\[([a-z,]+)\]'", text)
    left_out = (ROOT / ".dockerignore").read_text().split()

    assert set(extras.split(",")) <= EXTRAS.keys()
    for file in ("constraints.txt", "pyproject.toml", "README.md", "LICENSE", "cxp2p", "node", "gateway"):
        assert (ROOT / file).exists()
        assert file not in left_out


@pytest.mark.parametrize(("written", "why"), page("docs/operating.md").table("setting", "why"))
def test_the_settings_of_the_documentation_exist(written: str, why: str) -> None:
    """Each that docs/operating.md wants looked at is one."""
    assert why
    for setting in re.findall(r"[a-z_.]+", written):
        section, field = setting.split(".")
        assert field in type(getattr(GatewaySettings(), section)).model_fields


def test_a_wrong_option_is_seen() -> None:
    """The check of commands can tell."""
    with pytest.raises(click.UsageError):
        parses(["gateway", "run", "--confg", "x"])
    with pytest.raises(click.UsageError):
        parses(["gatway", "run"])
