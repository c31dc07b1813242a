"""Documentation that lists is compared with the code; documentation that can be run is run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from cxp2p import cli, protocols
from cxp2p.identity import Kind, identity_from_seed
from cxp2p.records import (
    Capability,
    ChatJob,
    Countersign,
    EpochRoot,
    FailureCode,
    Finish,
    Load,
    Message,
    Offer,
    Order,
    Receipt,
    RefusalCode,
    Sampling,
    Voucher,
)
from cxp2p.rewards import DEFAULT_RULES
from cxp2p.wire import RECORD_OF_TAG
from pages import ROOT, Fence, Page, names, page, pages

PAGES = list(pages())
FENCES = [fence for each in PAGES for fence in each.fences]
PROTOCOL = page("cxp2p/PROTOCOL.md")
SHELLS = ("bash", "sh", "console")
NONE = "\N{EN DASH}"


def fields_of(record: type[Any]) -> list[str]:
    return [each.name for each in fields(record)]


def where(value: object) -> str:
    return f"{value.page}:{value.line}" if isinstance(value, Fence) else str(getattr(value, "path", value))


# What PROTOCOL.md lists.


def test_protocol_ids_are_listed() -> None:
    """PROTOCOL.md lists exactly the protocol ids of protocols.py."""
    code = {value for value in vars(protocols).values() if isinstance(value, str) and value.startswith("/cxp2p/")}

    assert {row[0] for row in PROTOCOL.table("id", "what")} == code


def test_frames_are_listed() -> None:
    """PROTOCOL.md lists every tag with its record and that record's fields, in order."""
    code = [(str(tag), record.__name__, ", ".join(fields_of(record)) or NONE) for tag, record in RECORD_OF_TAG.items()]

    assert PROTOCOL.table("tag", "record", "fields") == code


@pytest.mark.parametrize(("name", "value", "why"), PROTOCOL.table("limit", "value", "why"))
def test_a_limit_has_the_value_that_is_written(name: str, value: str, why: str) -> None:
    """Each limit of PROTOCOL.md is that of protocols.py, and says why."""
    assert int(value) == getattr(protocols, name)
    assert why


def test_signatures_are_listed() -> None:
    """PROTOCOL.md lists each kind of signature with the domain and payload type that are signed."""
    rows = PROTOCOL.table("kind", "domain", "payload type")
    envelopes = {kind: identity_from_seed(b"s" * 32).seal(kind, b"") for kind in Kind}

    assert [(kind, f"cxp2p/{kind}/1", f"/cxp2p/{kind}/1") for kind in Kind] == rows
    assert all(payload_type.encode() in envelopes[Kind(kind)] for kind, _, payload_type in rows)


@pytest.mark.parametrize(
    ("start", "listed"),
    [
        ("**Order** (the asker signs):", fields_of(Order)),
        ("**Voucher** (the asker signs):", fields_of(Voucher)),
        ("**Receipt** (the node signs):", fields_of(Receipt)),
        ("**Countersign** (the asker signs):", fields_of(Countersign)),
        ("**EpochRoot** (the gateway signs):", fields_of(EpochRoot)),
        ("Refusal codes:", list(RefusalCode)),
        ("Failure codes:", list(FailureCode)),
        ("The request of a chat job is the record `ChatJob`:", fields_of(ChatJob)),
    ],
)
def test_a_list_is_complete(start: str, listed: list[str]) -> None:
    """A list in PROTOCOL.md's prose has all its names and no other, in order."""
    assert names(PROTOCOL.after(start)) == listed


def test_nested_fields_are_listed() -> None:
    """PROTOCOL.md names the fields of the records inside an offer and a chat job."""
    offer = PROTOCOL.after("An `Offer` says what a node serves:")
    job = PROTOCOL.after("The request of a chat job is the record `ChatJob`:")

    assert set(fields_of(Offer)) - {"capabilities"} <= set(names(offer))
    assert all(re.search(rf"\b{name}\b", offer) for name in [*fields_of(Capability), *fields_of(Load)])
    assert f"messages ({', '.join(fields_of(Message))})" in job
    assert f"sampling ({', '.join(fields_of(Sampling))})" in job


def test_endings_are_listed() -> None:
    """PROTOCOL.md names every way a job can finish."""
    assert names(PROTOCOL.after("`finish` is").partition(";")[0]) == list(Finish)


# What is anywhere else.


FOLDERS = {"net/": "cxp2p/net", "cxp2p_node": "node/cxp2p_node", "cxp2p_gateway": "gateway/cxp2p_gateway"}


@pytest.mark.parametrize(("modules", "keeps"), page("cxp2p/ARCHITECTURE.md").table("module", "what it keeps"))
def test_the_modules_of_the_architecture_exist(modules: str, keeps: str) -> None:
    """Every module that ARCHITECTURE.md places is there."""
    folder = ROOT / FOLDERS.get(modules, "cxp2p")
    listed = re.findall(r"`(\w+)/?`", keeps) if modules in FOLDERS else names(modules)

    assert len(listed) > 1
    assert [name for name in listed if not (folder / f"{name}.py").exists() and not (folder / name).is_dir()] == []


@pytest.mark.parametrize("each", PAGES, ids=where)
def test_links_resolve(each: Page) -> None:
    """A link to a file of the tree leads to one, and its anchor to a heading."""
    for link in each.links:
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        path = ((ROOT / each.path).parent / target).resolve() if target else ROOT / each.path
        assert path.exists(), f"{each.path} links to {link}"
        if anchor:
            assert anchor in page(path.relative_to(ROOT).as_posix()).anchors, f"{each.path} links to {link}"


def test_make_targets_exist() -> None:
    """Every `make TARGET` in the documentation is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    code = [span for each in PAGES for span in spans(each)]
    named = {match for span in code for match in re.findall(r"(?:^|[;&|`$] *)make ([a-z][a-z-]*)", span, re.MULTILINE)}

    assert {"demo", "test"} <= named <= targets


def spans(each: Page) -> list[str]:
    """Everything that is set as code: in backticks or in a fence."""
    return re.findall(r"`([^`\n]+)`", each.prose) + [fence.text for fence in each.fences]


def test_the_help_of_make_is_complete() -> None:
    """`make help` names every target that a stranger needs."""
    shown = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert re.findall(r"^  make ([a-z]+)", shown, re.MULTILINE) == [
        "demo",
        "up",
        "test",
        "check",
        "bench",
        "simulate",
        "clean",
        "help",
    ]


# Commands.


def commands(
    group: click.Group = cli.main, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command of `cxp2p` with the words that call it."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


COMMANDS = dict(commands())


def calls(text: str) -> Iterator[list[str]]:
    """The words after `cxp2p` of each line that calls it, up to the comment or the next command."""
    for line in re.sub(r"\\\n", " ", text).splitlines():
        found = re.match(r"\s*(?:\$ )?(?:\S*/)?cxp2p (.*)", line)
        if found:
            yield shlex.split(re.split(r"\s{2,}| #| [|>&]|;", found.group(1))[0])


def written_calls() -> Iterator[tuple[str, list[str]]]:
    for each in PAGES:
        for span in spans(each):
            yield from ((each.path, words) for words in calls(span))
    for path, command in [((), cli.main), *COMMANDS.items()]:
        yield from ((" ".join(["cxp2p", *path, "--help"]), words) for words in calls(command.help or ""))


def fault_of(words: list[str]) -> str | None:
    """What is wrong with a call: an unknown command or option."""
    command: click.Command = cli.main
    rest = list(words)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        child = command.get_command(click.Context(command), name)
        if child is None:
            return None if name.isupper() or name == "..." else f"there is no command {name!r}"
        command = child
    context = click.Context(command, help_option_names=["-h", "--help"])
    known = {flag for each in command.get_params(context) for flag in (*each.opts, *each.secondary_opts)}
    unknown = [word for word in rest if re.match(r"--?[a-z]", word) and word.partition("=")[0] not in known]
    return f"there is no option {unknown[0]}" if unknown else None


def test_written_commands_exist() -> None:
    """Every `cxp2p ...` in the documentation and in help texts is a command with those options."""
    faults = [
        f"{place}: `cxp2p {' '.join(words)}`: {fault}" for place, words in written_calls() if (fault := fault_of(words))
    ]

    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(path: tuple[str, ...]) -> None:
    """`--help` of every command works and starts with what the command does."""
    result = CliRunner().invoke(cli.main, [*path, "--help"])

    assert result.exit_code == 0, result.output
    assert COMMANDS[path].help
    assert "not installed" not in result.output


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["chat", "MODEL", "text", "--seed", "1"], None),
        (["chat", "MODEL", "--sead", "1"], "no option --sead"),
        (["chatt", "MODEL"], "no command 'chatt'"),
    ],
)
def test_a_wrong_command_is_seen(words: list[str], fault: str | None) -> None:
    """The check of commands can tell."""
    found = fault_of(words)

    assert found is None if fault is None else found is not None and fault in found


# Blocks. The word `run` after a fence's language has the block run; `...` in its output stands for anything.


def run_block(fence: Fence, folder: Path) -> None:
    """Runs a block in an empty folder; of `console` each `$ ` line, whose output must follow it."""
    steps = [(fence.text, None)] if fence.language != "console" else list(prompts(fence.text))
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for command, expected in steps:
        caller = [sys.executable, "-c"] if fence.language == "python" else ["bash", "-euo", "pipefail", "-c"]
        done = subprocess.run(
            [*caller, command], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, f"{where(fence)}: {command}\n{done.stdout}{done.stderr}"
        if expected is not None:
            pattern = expected.replace("[", "[[]").replace("...", "*")
            assert fnmatchcase(done.stdout.strip(), pattern), f"{where(fence)}: {command} printed\n{done.stdout}"


def prompts(text: str) -> Iterator[tuple[str, str]]:
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, output.strip()


@pytest.mark.parametrize("fence", [fence for fence in FENCES if fence.runnable], ids=where)
def test_a_block_runs(fence: Fence, tmp_path: Path) -> None:
    """A block that is marked `run` does what it says."""
    run_block(fence, tmp_path)


@pytest.mark.parametrize("fence", [fence for fence in FENCES if fence.language in (*SHELLS, "python")], ids=where)
def test_a_block_is_well_formed(fence: Fence) -> None:
    """Every Python and shell block can at least be parsed."""
    if fence.language == "python":
        compile(fence.text, where(fence), "exec")
    elif not re.search(r"^\$ ", fence.text, re.MULTILINE):
        subprocess.run(["bash", "-n"], input=fence.text, text=True, check=True)


@pytest.mark.parametrize(
    ("language", "text"),
    [("python", "assert 1 + 1 == 2"), ("bash", "test -d ."), ("console", "$ echo one; echo two\none\n...\n$ true\n")],
)
def test_a_right_block_passes(language: str, text: str, tmp_path: Path) -> None:
    """Blocks of each language are run."""
    run_block(Fence("x.md", 1, language, ("run",), text), tmp_path)


@pytest.mark.parametrize(
    ("language", "text"), [("python", "assert 1 + 1 == 3"), ("bash", "false"), ("console", "$ echo one\ntwo\n")]
)
def test_a_wrong_block_fails(language: str, text: str, tmp_path: Path) -> None:
    """A block that fails, or prints something else, is seen."""
    with pytest.raises(AssertionError):
        run_block(Fence("x.md", 1, language, ("run",), text), tmp_path)


def test_the_default_rules_are_written() -> None:
    """docs/receipts.md has the weights and the numbers of the default rules."""
    text = page("docs/receipts.md")
    rules = DEFAULT_RULES
    numbers = (
        f"a fee of {rules.fee_ppm // 10_000} %",
        f"The pool, {rules.pool // 1_000_000:,} credits an hour",
        f"up to {rules.referral_max // 1_000_000} credits an hour",
        f"at most {rules.match_ppm // 10_000} % of what users were charged",
        f"a point for each {1_000_000 // rules.points_ppm:,} µcredits",
    )

    assert text.table("service", "a unit of input", "a unit of output") == [
        (str(each.service), str(each.input), str(each.output)) for each in rules.units
    ]
    assert text.table("size", "factor") == [(str(each.size), str(each.factor)) for each in rules.sizes]
    assert rules.referral_ppm == 1_000_000 // 5
    assert [words for words in numbers if words not in text.text] == []
