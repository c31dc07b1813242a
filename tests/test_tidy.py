"""The house rules hold, and each rule can tell."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import tidy
from tidy import ALL_RULES, ROOT, Rule, module_of, modules, names_a_machine

PURE_FILE = "cxp2p/routing.py"
WORLD_FILE = "simulations/world.py"
GATEWAY_FILE = "gateway/cxp2p_gateway/http.py"


@pytest.mark.parametrize("rule", ALL_RULES, ids=lambda rule: rule.__name__)
def test_the_tree_keeps_the_rule(rule: Rule) -> None:
    """No module of the tree breaks the rule."""
    faults = [fault for module in modules() for fault in rule(module)]

    assert not faults, f"rule: {rule.__doc__}\n" + "\n".join(faults)


def test_no_file_names_a_machine() -> None:
    """No file that is or may be committed names a machine's path or a registry's host."""
    faults = [fault for path, text in texts() for fault in names_a_machine(path, text)]

    assert not faults, f"rule: {names_a_machine.__doc__}\n" + "\n".join(faults)


def texts() -> Iterator[tuple[str, str]]:
    """The text files that git keeps or would keep; without git, those of the shipped and the neighbouring folders."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listing.returncode == 0:
        paths = [ROOT / line for line in listing.stdout.splitlines()]
    else:
        paths = [path for folder in (*tidy.SHIPPED, *tidy.BESIDE) for path in (ROOT / folder).rglob("*.*")]
    for path in paths:
        if path.is_file() and path != Path(tidy.__file__) and path != Path(__file__):
            yield path.relative_to(ROOT).as_posix(), path.read_text(errors="replace")


PLANTED = [
    (tidy.imports_point_down, "cxp2p/records.py", "from cxp2p import protocols", "records may not import cxp2p.protoc"),
    (tidy.imports_point_down, "cxp2p/wire.py", "import cxp2p.session", "wire may not import cxp2p.session"),
    (tidy.imports_point_down, "cxp2p/routing.py", "from cxp2p.net import Network", "routing may not import cxp2p.net"),
    (tidy.imports_point_down, "cxp2p/routing.py", "from .wire import decode", "routing may not import cxp2p.wire"),
    (tidy.imports_point_down, "cxp2p/net/pump.py", "from cxp2p.client import Net", "pump may not import cxp2p.client"),
    (tidy.imports_point_down, "cxp2p/net/__init__.py", "from ..peer import x", "net may not import cxp2p.peer"),
    (tidy.imports_point_down, "cxp2p/net/pump.py", "import cxp2p", "pump may not import cxp2p"),
    (tidy.imports_point_down, "cxp2p/cli.py", "def f():\n    import cxp2p_node.app", "never imports the programs"),
    (tidy.imports_point_down, "cxp2p/helpers.py", "", "cxp2p.helpers has no place yet"),
    (tidy.programs_meet_on_the_wire, "node/cxp2p_node/app.py", "import cxp2p_gateway.http", "meet on the wire"),
    (tidy.programs_meet_on_the_wire, GATEWAY_FILE, "from cxp2p_node import serve", "meet on the wire"),
    (tidy.only_app_constructs, GATEWAY_FILE, "from cxp2p.peer import open_peer", "only app constructs"),
    (tidy.dependencies_are_known_in_one_place, "cxp2p/client.py", "from libp2p.peer.id import ID", "libp2p may be"),
    (tidy.dependencies_are_known_in_one_place, "node/cxp2p_node/serve.py", "import cbor2", "cbor2 may be known to"),
    (tidy.dependencies_are_known_in_one_place, "node/cxp2p_node/app.py", "import llama_cpp", "llama_cpp may be known"),
    (tidy.dependencies_are_known_in_one_place, GATEWAY_FILE, "import asyncio", "asyncio may be known to nothing"),
    (tidy.openai_json_has_one_place, GATEWAY_FILE, "x = {'finish_reason': 1}", "is OpenAI's JSON"),
    (tidy.pure_modules_stay_pure, PURE_FILE, "import time", "may not import time"),
    (tidy.pure_modules_stay_pure, PURE_FILE, "from random import random", "may not import random.random"),
    (tidy.pure_modules_stay_pure, PURE_FILE, "from os import environ", "may not import os.environ"),
    (tidy.pure_modules_stay_pure, PURE_FILE, "import logging", "may not import logging"),
    (tidy.pure_modules_stay_pure, PURE_FILE, "async def rank(): ...", "has no async"),
    (tidy.pure_modules_stay_pure, PURE_FILE, "x = open('f')", "does not call open()"),
    (tidy.simulations_are_drawn_from_a_seed, WORLD_FILE, "import time", "may not import time"),
    (tidy.simulations_are_drawn_from_a_seed, WORLD_FILE, "from os import urandom", "may not import os.urandom"),
    (tidy.simulations_are_drawn_from_a_seed, WORLD_FILE, "from random import random", "may not import random.random"),
    (tidy.simulations_are_drawn_from_a_seed, WORLD_FILE, "for x in set(y): ...", "the order of a set changes"),
    (tidy.simulations_are_drawn_from_a_seed, WORLD_FILE, "x = [z for z in {1, 2}]", "the order of a set changes"),
    (tidy.simulations_are_drawn_from_a_seed, WORLD_FILE, "x = hash(y)", "hash() changes from run to run"),
    (tidy.files_are_short, PURE_FILE, "\n" * 401, "401 lines, the limit is 400"),
    *[(tidy.files_are_short, path, "\n", "take it out of LONG") for path in tidy.LONG],
    (tidy.functions_are_short, PURE_FILE, "def f():\n" + "    1\n" * 60, "f has 61 lines, the limit is 60"),
    (tidy.exceptions_are_named, PURE_FILE, "try: 1\nexcept Exception: 2\n", "name what you expect"),
    (tidy.exceptions_are_named, PURE_FILE, "try: 1\nexcept (OSError, BaseException): 2\n", "name what you expect"),
    (tidy.exceptions_are_named, PURE_FILE, "try: 1\nexcept: 2\n", "name what you expect"),
    (tidy.exceptions_are_named, "cxp2p/net/libp2p_dht.py", "try: 1\nexcept Exception:\n    2\n", "name what you"),
    (
        tidy.exceptions_are_named,
        "cxp2p/net/memory.py",
        "def _handle():\n    try: 1\n    except Exception: 2",
        "name what",
    ),
    (tidy.nothing_prints, "demo/network.py", "print('here')", "print() is for nobody"),
    (tidy.limits_have_units_and_reasons, "cxp2p/protocols.py", "PEERS_MAX: Final = 7", "PEERS_MAX needs a unit"),
    (tidy.public_names_have_docstrings, PURE_FILE, "def rank(): ...", "rank is public and has no docstring"),
    (tidy.public_names_have_docstrings, PURE_FILE, "class Rank: ...", "Rank is public and has no docstring"),
    (tidy.tests_say_their_truth, "tests/test_x.py", "async def test_it_all_right(): ...", "does not say what is true"),
]


@pytest.mark.parametrize(("rule", "path", "source", "fault"), PLANTED)
def test_a_planted_fault_is_found(rule: Rule, path: str, source: str, fault: str) -> None:
    """Each rule sees the fault it is for, and names where it is."""
    (found,) = rule(module_of(path, source))

    assert fault in found
    assert found.startswith(path)


ALLOWED = [
    (tidy.tests_say_their_truth, "tests/test_x.py", "def test_a_lost_lane_is_closed(): ..."),
    (tidy.imports_point_down, "cxp2p/errors.py", "if TYPE_CHECKING:\n    from cxp2p.records import Offer"),
    (tidy.imports_point_down, "cxp2p/receipts.py", "from cxp2p import protocols\nfrom cxp2p.merkle import merkle_root"),
    (tidy.programs_meet_on_the_wire, GATEWAY_FILE, "from cxp2p.client import Net"),
    (tidy.only_app_constructs, "node/cxp2p_node/app.py", "from cxp2p.peer import open_peer"),
    (tidy.pure_modules_stay_pure, PURE_FILE, "from random import Random"),
    (tidy.simulations_are_drawn_from_a_seed, WORLD_FILE, "from random import Random"),
    (tidy.simulations_are_drawn_from_a_seed, WORLD_FILE, "for x in sorted(set(y)): ..."),
    (tidy.simulations_are_drawn_from_a_seed, "simulations/__main__.py", "import time"),
    (tidy.exceptions_are_named, PURE_FILE, "try: 1\nexcept BaseException:\n    clean()\n    raise\n"),
    (tidy.exceptions_are_named, "cxp2p/net/libp2p_dht.py", "try: 1\nexcept Exception:\n    # Because.\n    2\n"),
    (tidy.limits_have_units_and_reasons, "cxp2p/protocols.py", "WAIT_S: Final = 5.0\nJOB: Final = '/cxp2p/job/1'"),
]


@pytest.mark.parametrize(("rule", "path", "source"), ALLOWED)
def test_what_is_allowed_is_not_a_fault(rule: Rule, path: str, source: str) -> None:
    """The exceptions that the rules make are made."""
    assert list(rule(module_of(path, source))) == []


def test_every_rule_has_a_planted_fault() -> None:
    """A rule that was never seen to fail is no rule."""
    assert {rule for rule, *_ in PLANTED} == set(ALL_RULES)


@pytest.mark.parametrize(
    "line",
    [
        "log = open('/ro" + "ot/x')",
        "see /ho" + "me/someone/notes",
        "pip install -i https://py" + "pi.org/simple",
        "--extra-ind" + "ex-url https://example.org",
        "cd /wo" + "rk/main",
    ],
)
def test_a_machine_is_recognised(line: str) -> None:
    """Paths of one machine and registries' hosts are seen, in any file."""
    assert len(list(names_a_machine("x.md", line))) == 1


@pytest.mark.parametrize("line", ["docs at https://example.org/home", "the root/ of a tree", "~/.config", "a/work/b"])
def test_other_paths_are_not_a_machine(line: str) -> None:
    """Ordinary prose and addresses pass."""
    assert list(names_a_machine("x.md", line)) == []
