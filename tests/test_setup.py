"""`tools/setup.sh`, on machines that lack one thing or another. The machine is a folder of stand-ins on PATH."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
REAL_TOOLS = ("bash", "dirname", "mktemp", "rm", "cp", "mkdir", "cat", "chmod", "env", "grep", "touch")

# `facts/` holds one empty file for each thing that the machine has; each stand-in writes its call to `calls`.
PYTHON = """
case "$*" in
    *"version_info <"*) test -e facts/new-python ;;
    *version_info*) echo 3.12 ;;
    *ensurepip*) test -e facts/venv ;;
    *get_path*) echo facts ;;
    "-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
    "-m pip --version") test -e .venv/bin/python ;;
    "-m pip install "*) echo "pip install $*" >>calls; test -e facts/registry ;;
esac
"""
COMPILER = """
source=$(cat)
case "$source" in *gmp.h*) test -e facts/gmp.h || exit 1 ;; esac
test -e facts/compiler
"""
APT = """
echo "apt-get $*" >>calls
case "$1" in
    update) touch facts/fresh-lists ;;
    install) test -e facts/fresh-lists && touch facts/gmp.h facts/Python.h facts/venv facts/compiler ;;
esac
"""
EVERYTHING = ("new-python", "venv", "gmp.h", "Python.h", "compiler", "registry")


@dataclass
class Machine:
    """A tree with the script in it, and a PATH with nothing but stand-ins."""

    tree: Path

    def stand_in(self, name: str, body: str) -> None:
        path = self.tree / "path" / name
        path.write_text(f"#!/usr/bin/env bash\n{body}")
        path.chmod(0o755)

    def has(self, *facts: str) -> None:
        for fact in facts:
            (self.tree / "facts" / fact).touch()

    def lacks(self, *facts: str) -> None:
        for fact in facts:
            (self.tree / "facts" / fact).unlink()

    def setup(self) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": str(self.tree / "path"), "TMPDIR": str(self.tree)}
        return subprocess.run(
            [self.tree / "tools" / "setup.sh"], cwd=self.tree, env=environment, capture_output=True, text=True
        )

    @property
    def calls(self) -> list[str]:
        calls = self.tree / "calls"
        return calls.read_text().splitlines() if calls.exists() else []

    @property
    def stamp(self) -> Path:
        return self.tree / ".venv" / "installed"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine that has everything, with a user who may install nothing."""
    for folder in ("path", "tools", "facts"):
        (tmp_path / folder).mkdir()
    shutil.copy(ROOT / "tools" / "setup.sh", tmp_path / "tools")
    for tool in REAL_TOOLS:
        real = shutil.which(tool)
        assert real is not None
        (tmp_path / "path" / tool).symlink_to(real)
    made = Machine(tmp_path)
    made.stand_in("python3.12", PYTHON)
    made.stand_in("cc", COMPILER)
    made.stand_in("c++", COMPILER)
    made.stand_in("apt-get", APT)
    made.stand_in("id", "echo 1000\n")
    made.has(*EVERYTHING)
    return made


def test_a_whole_machine_is_set_up_with_the_pins(machine: Machine) -> None:
    """pip gets the constraints, apt-get is not called, and the stamp names the tree."""
    done = machine.setup()

    assert done.returncode == 0, done.stderr
    (call,) = machine.calls
    assert "--constraint constraints.txt --editable .[node,gateway,postgres,speech,audio,test]" in call
    assert machine.stamp.read_text() == f"{machine.tree}\n"


def test_a_failed_installation_is_not_taken_as_done(machine: Machine) -> None:
    """After pip fails the stamp is gone, also one of an earlier success."""
    machine.setup()
    machine.lacks("registry")
    done = machine.setup()

    assert done.returncode != 0
    assert "make again goes on from here" in done.stderr
    assert not machine.stamp.exists()


def test_a_half_made_environment_is_made_again(machine: Machine) -> None:
    """A .venv without a Python that runs is thrown away."""
    leftover = machine.tree / ".venv" / "leftover"
    leftover.parent.mkdir()
    leftover.touch()

    assert machine.setup().returncode == 0
    assert not leftover.exists()


def test_a_user_without_rights_gets_the_line_to_type(machine: Machine) -> None:
    """All that is missing stands in one line, and nothing is installed."""
    machine.lacks("gmp.h", "venv")
    done = machine.setup()

    assert done.returncode != 0
    line = "sudo apt-get update && sudo apt-get install -y libgmp-dev python3.12-venv"
    assert line in done.stderr.splitlines()[-1]
    assert machine.calls == []


def test_without_apt_the_packages_are_named(machine: Machine) -> None:
    """On another system the error still says what to install."""
    machine.lacks("gmp.h")
    (machine.tree / "path" / "apt-get").unlink()
    done = machine.setup()

    assert "libgmp-dev" in done.stderr
    assert done.returncode != 0


@pytest.mark.parametrize("user", ["root", "sudo"])
@pytest.mark.parametrize(
    ("fact", "package"),
    [
        ("gmp.h", "libgmp-dev"),
        ("Python.h", "python3.12-dev"),
        ("venv", "python3.12-venv"),
        ("compiler", "g++ libgmp-dev"),
    ],
)
def test_what_is_missing_is_installed(machine: Machine, user: str, fact: str, package: str) -> None:
    """Root and passwordless sudo install it, and bring stale package lists up to date first."""
    if user == "root":
        machine.stand_in("id", "echo 0\n")
    else:
        machine.stand_in("sudo", 'shift; [ "$1" = true ] || exec "$@"\n')
    machine.lacks(fact)
    done = machine.setup()

    assert done.returncode == 0, done.stderr
    install = f"apt-get install -y --no-install-recommends {package}"
    assert machine.calls[:3] == [install, "apt-get update", install]
    assert machine.stamp.exists()


def test_what_apt_cannot_mend_is_named(machine: Machine) -> None:
    """If the probe still fails after apt-get, setup stops and names what it misses."""
    machine.stand_in("id", "echo 0\n")
    machine.stand_in("apt-get", "exit 0\n")
    machine.lacks("gmp.h")
    done = machine.setup()

    assert done.returncode != 0
    assert "still missing after apt-get: libgmp-dev" in done.stderr


def test_an_old_python_is_an_error_that_says_what_is_needed(machine: Machine) -> None:
    """Below 3.11 nothing is tried."""
    machine.lacks("new-python")
    done = machine.setup()

    assert done.returncode != 0
    assert "Python 3.11 or newer is needed" in done.stderr
    assert not (machine.tree / ".venv").exists()


def test_a_shim_without_its_version_is_passed_over(machine: Machine) -> None:
    """A newer Python that is on PATH but does not run is not chosen."""
    machine.stand_in("python3.13", "exit 127\n")

    assert machine.setup().returncode == 0
