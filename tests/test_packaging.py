"""What is installed: the wheel, the source archive, and the pins."""

from __future__ import annotations

import ast
import email
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from configparser import ConfigParser
from email.message import Message
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGES = {"cxp2p": "cxp2p", "cxp2p_node": "node/cxp2p_node", "cxp2p_gateway": "gateway/cxp2p_gateway"}


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source archive, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="session")
def wheel(built: Path) -> zipfile.ZipFile:
    """The wheel, open."""
    (path,) = built.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="session")
def archive_names(built: Path) -> set[str]:
    """The files of the source archive, without its top folder."""
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        return {member.name.partition("/")[2] for member in archive if member.isfile()}


def info(wheel: zipfile.ZipFile, name: str) -> str:
    """A file of the wheel's metadata."""
    return wheel.read(f"cxp2p-{PROJECT['version']}.dist-info/{name}").decode()


def metadata(wheel: zipfile.ZipFile) -> Message:
    return email.message_from_string(info(wheel, "METADATA"))


def test_the_wheel_holds_three_packages(wheel: zipfile.ZipFile) -> None:
    """Nothing else lands in site-packages: a bare `node` or `tests` there would collide with others."""
    tops = {name.partition("/")[0] for name in wheel.namelist()}

    assert tops == {*PACKAGES, f"cxp2p-{PROJECT['version']}.dist-info"}


def test_the_wheel_holds_every_module(wheel: zipfile.ZipFile) -> None:
    """Each module of the tree is in the wheel, none that git ignores, and no documentation."""
    names = set(wheel.namelist())
    tree = {
        f"{package}/{path.relative_to(ROOT / folder).as_posix()}"
        for package, folder in PACKAGES.items()
        for path in (ROOT / folder).rglob("*.py")
    }

    assert tree == {name for name in names if name.endswith(".py")}
    assert not [name for name in names if name.endswith((".md", ".pyc"))]
    assert "cxp2p/py.typed" in names


def test_the_wheel_holds_the_dashboard(wheel: zipfile.ZipFile) -> None:
    """Every template, style sheet and script of the tree, which no import names."""
    folder = ROOT / "gateway" / "cxp2p_gateway" / "dashboard"
    files = {path.relative_to(ROOT / "gateway").as_posix() for path in folder.rglob("*.*") if path.suffix != ".pyc"}

    assert {"cxp2p_gateway/dashboard/templates/base.html", "cxp2p_gateway/dashboard/static/style.css"} < files
    assert files <= set(wheel.namelist())


def test_the_wheel_has_the_entry_points(wheel: zipfile.ZipFile) -> None:
    """`cxp2p` is installed as a command and finds its programs by entry point."""
    points = ConfigParser()
    points.read_string(info(wheel, "entry_points.txt"))

    assert dict(points["console_scripts"]) == {"cxp2p": "cxp2p.cli:main"}
    assert set(points["cxp2p.commands"]) == {"node", "models", "gateway"}


def test_the_wheel_says_what_it_is(wheel: zipfile.ZipFile) -> None:
    """Licence, extras and Python are in the metadata, and the licence's text beside it."""
    facts = metadata(wheel)

    assert facts["License-Expression"] == "Apache-2.0"
    assert "Apache License" in info(wheel, "licenses/LICENSE")
    assert set(facts.get_all("Provides-Extra", [])) == {
        "audio",
        "bench",
        "simulate",
        "gateway",
        "node",
        "postgres",
        "speech",
        "test",
    }
    assert facts["Requires-Python"] == ">=3.11"
    assert str(facts.get_payload()).startswith("# cxp2p")


@pytest.mark.slow
def test_the_wheel_works_by_itself(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """Unpacked far from the tree, the library and the command start."""
    wheel.extractall(tmp_path)
    code = "import cxp2p, cxp2p.cli; print(cxp2p.__file__); cxp2p.cli.main(['--help'])"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path))


def test_the_source_archive_can_be_worked_with(archive_names: set[str]) -> None:
    """It has what is needed to test and build again, and nothing that was made here."""
    assert {"Makefile", "LICENSE", "constraints.txt", "tools/setup.sh", "tests/test_packaging.py"} <= archive_names
    assert "cxp2p/PROTOCOL.md" in archive_names
    assert not [
        name for name in archive_names if name.startswith((".venv/", ".state/", "benchmarks/results/", "dist/"))
    ]


PINS = (ROOT / "constraints.txt").read_text().splitlines()


def test_pins_are_exact_sorted_and_without_addresses() -> None:
    """constraints.txt has one name and one version a line, as pip names them, in order."""
    names = [line.partition("==")[0] for line in PINS]

    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.+]*", line) for line in PINS)
    assert names == [canonicalize_name(name) for name in names]
    assert len(set(names)) == len(names)
    assert sorted(PINS) == PINS


EVERY_EXTRA = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]


@pytest.mark.parametrize("line", [*PROJECT["dependencies"], *EVERY_EXTRA])
def test_every_dependency_is_pinned(line: str) -> None:
    """Each dependency of pyproject.toml has a pin, and the pin is a version that it allows."""
    pins = dict(pin.split("==") for pin in PINS)
    wanted = Requirement(line)

    assert canonicalize_name(wanted.name) in pins
    assert wanted.specifier.contains(Version(pins[canonicalize_name(wanted.name)]))


EXTRAS = {"cxp2p": (), "cxp2p_node": ("node", "speech"), "cxp2p_gateway": ("gateway", "postgres", "audio")}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_import_is_a_dependency(package: str) -> None:
    """What a package imports is named in pyproject.toml: by the library always, by a program in its extra."""
    lines = [
        *PROJECT["dependencies"],
        *(line for name in EXTRAS[package] for line in PROJECT["optional-dependencies"][name]),
    ]
    named = {canonicalize_name(Requirement(line).name) for line in lines} | {"cxp2p"}
    distributions = packages_distributions()
    missing = {
        (top, path.name)
        for path in (ROOT / PACKAGES[package]).rglob("*.py")
        for top in imported(path)
        if top not in sys.stdlib_module_names
        and top not in PACKAGES
        and not {canonicalize_name(name) for name in distributions.get(top, [])} & named
    }

    assert not missing


def imported(path: Path) -> set[str]:
    """The top-level names of everything that a module imports, wherever it does."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module or "").partition(".")[0])
    return found
