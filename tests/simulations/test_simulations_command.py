from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cxp2p.ledger import Account, Change
from simulations import __main__ as command
from simulations import report
from simulations import scenario as frame
from simulations.replay import commit
from simulations.scenario import Played, Scenario, Stage, all_scenarios

SMALL = ("slow_nodes", "--peers", "8", "--hours", "0.02")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(command.main, [str(argument) for argument in arguments])


def test_without_a_scenario_all_are_listed_with_their_questions() -> None:
    told = run()

    assert told.exit_code == 0
    assert "slow_nodes" in told.stdout
    assert "A third of the nodes is three times as slow" in " ".join(told.stdout.split())
    assert [each["scenario"] for each in json.loads(run("--json").stdout)] == list(all_scenarios())


def test_a_scenario_says_its_figures_its_seed_its_commit_and_its_conclusion() -> None:
    """Piped, there is no bar and nothing else on standard error."""
    told = run(*SMALL, "--seed", 5)

    assert told.exit_code == 0
    for part in ("8 peers, 0.02 hours, seed 5, commit ", "first piece p99, ms", "router", "chance", "turns", "within"):
        assert part in told.stdout
    assert told.stderr == ""


def test_json_holds_the_same_and_only_chosen_policies_are_run() -> None:
    told = json.loads(run(*SMALL, "--json", "--policy", "turns", "--policy", "router").stdout)

    assert list(told["played"]) == ["turns", "router"]
    assert told["setting"] == {"peers": 8, "seed": 1, "hours": 0.02, "keys": "quick"}
    assert told["played"]["router"]["figures"]["jobs"] > 10
    assert len(told["digests"]["router"]) == 64
    assert told["commit"]
    assert told["conclusion"] == ""


def test_real_keys_change_who_peers_are_and_not_what_is_true() -> None:
    """The same users come, everything is done, and it can be told apart."""
    quick, real = (json.loads(run(*SMALL, "--json", "--keys", keys).stdout) for keys in ("quick", "real"))

    assert real["setting"]["keys"] == "real"
    assert real["digests"]["router"] != quick["digests"]["router"]
    for figure in ("jobs", "done_percent"):
        assert real["played"]["router"]["figures"][figure] == quick["played"]["router"]["figures"][figure]


@pytest.mark.parametrize("name", ["plot.png", "plot.svg"])
def test_a_plot_is_drawn_into_the_file(tmp_path: Path, name: str) -> None:
    told = run(*SMALL, "--plot", tmp_path / name)

    assert told.exit_code == 0
    assert (tmp_path / name).read_bytes()[:5] in (b"\x89PNG\r", b"<?xml")


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (("slow_node",), "Invalid value for SCENARIO: 'slow_node' is none of"),
        ((*SMALL, "--policy", "luck"), "Invalid value for --policy: 'luck' is none of router, chance, turns"),
        ((*SMALL, "--peers", "1"), "1 is not in the range x>=2"),
        ((*SMALL, "--hours", "0"), "0.0 is not in the range x>0"),
        ((*SMALL, "--keys", "x"), "Invalid value for '--keys': 'x' is not one of 'quick', 'real'"),
        ((*SMALL, "--seed", "x"), "'x' is not a valid integer"),
        ((*SMALL, "--plot", "plot.txt"), "Invalid value for --plot: 'plot.txt' must end in .png or .svg"),
        (("--peers", "5"), "SCENARIO is missing"),
        (("slow_nodes", "--report", "page.html"), "--report runs all scenarios as they are"),
        ((*SMALL, "--plot", "/nowhere/plot.png"), "Invalid value for --plot: there is no folder '/nowhere'"),
    ],
)
def test_what_cannot_be_is_refused_with_the_name_of_the_option(arguments: tuple[str, ...], fault: str) -> None:
    told = run(*arguments)

    assert told.exit_code != 0
    assert fault in " ".join(told.stderr.split())
    assert "Traceback" not in told.output


def breaks(stage: Stage) -> Played:
    stage.town.add_gateway().books.apply(Change(accounts=(Account(id="a", balance=5),)))
    stage.world.check()
    return Played(figures={})


def test_a_failing_run_prints_the_seed_and_the_commit_and_exits_with_a_fault(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """So does the report, which is written all the same, with the scenarios that went well."""
    broken = Scenario(policies={"one": "1", "two": "2"}, play=breaks, conclude=lambda figures: "", peers=3, hours=0.5)
    known = {"broken": (broken, "Does it hold?")}
    monkeypatch.setattr(frame, "all_scenarios", lambda: known)
    monkeypatch.setattr(command, "all_scenarios", lambda: known)
    monkeypatch.setattr(report, "all_scenarios", lambda: known)

    told = run("broken", "--seed", 77)
    reported = run("--report", tmp_path / "page.html", "--seed", 78, "--at-once", 1)

    assert told.exit_code == 1
    assert "replay with: python -m simulations broken --peers 3 --hours 0.5 --seed 77 --policy one" in told.stderr
    assert f"at commit {commit()}" in told.stderr
    assert reported.exit_code == 1
    assert "1 of 1 scenarios failed: broken" in reported.stderr
    assert "--seed 78" in (tmp_path / "page.html").read_text()
