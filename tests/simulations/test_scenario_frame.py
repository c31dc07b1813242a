from __future__ import annotations

import math
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import pytest

from cxp2p.ledger import Account, Change
from simulations import scenario
from simulations.plots import svg
from simulations.policies import InTurn
from simulations.report import Told, page
from simulations.rules import Rules
from simulations.scenario import (
    Curve,
    Figures,
    Played,
    Result,
    Scenario,
    ScenarioFailed,
    Setting,
    Stage,
    all_scenarios,
    distribution,
    percentile,
    run_scenario,
    usual_figures,
)
from simulations.scenarios import slow_nodes
from simulations.words import number, words
from towns import SmallTown

README = Path(scenario.__file__).parent / "README.md"
SMALL = Setting(peers=20, seed=3, hours=0.05)


@pytest.fixture(scope="module")
def slow() -> Result:
    return run_scenario("slow_nodes", SMALL)


def test_every_scenario_asks_a_question_and_compares_policies() -> None:
    """Each module of the package is found, its docstring asks something, each policy has a few words."""
    found = all_scenarios()

    assert "slow_nodes" in found
    assert list(found) == sorted(found)
    for name, (each, question) in found.items():
        assert "?" in question, name
        assert len(each.policies) >= 2, name
        assert all(each.policies.values()), name


def test_the_router_waits_less_for_slow_nodes_than_chance_and_turns(slow: Result) -> None:
    """What the scenario's sentence says is so, and all demands were done."""
    figures = {policy: each.figures for policy, each in slow.played.items()}

    assert figures["router"]["first_piece_p99_ms"] < figures["turns"]["first_piece_p99_ms"]
    assert figures["router"]["first_piece_p99_ms"] < figures["chance"]["first_piece_p99_ms"]
    assert {each["jobs"] for each in figures.values()} == {figures["router"]["jobs"]}  # the same demands for all
    assert all(each["done_percent"] == 100 for each in figures.values())
    assert f"within {figures['router']['first_piece_p99_ms'] / 1000:.1f} s" in slow.conclusion


def test_the_same_seed_gives_the_same_result_and_another_seed_another(slow: Result) -> None:
    again = run_scenario("slow_nodes", SMALL, ["router"])
    other = run_scenario("slow_nodes", Setting(peers=20, seed=4, hours=0.05), ["router"])

    assert again.digests["router"] == slow.digests["router"]
    assert again.played["router"] == slow.played["router"]
    assert other.digests["router"] != slow.digests["router"]
    assert again.conclusion == ""  # nothing was compared


def test_how_far_it_is_goes_from_nothing_to_all() -> None:
    """Of all policies together, never backwards."""
    told: list[float] = []
    run_scenario("slow_nodes", SMALL, ["router", "turns"], told.append)

    assert told == sorted(told)
    assert 0 < told[0] < 0.01
    assert told[-1] == 1.0


def test_a_broken_invariant_is_told_with_what_replays_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message has the seed, and the command that runs the same once more."""

    def play(stage: Stage) -> Played:
        stage.town.add_gateway().books.apply(_from_nothing())
        stage.world.check()
        return Played(figures={})

    broken = Scenario(policies={"one": "1", "two": "2"}, play=play, conclude=lambda figures: "", peers=2, hours=1)
    monkeypatch.setattr(scenario, "all_scenarios", lambda: {"broken": (broken, "Does it hold?")})

    with pytest.raises(ScenarioFailed) as failed:
        run_scenario("broken", Setting(peers=5, seed=77, hours=0.5), ["two"])
    message = str(failed.value)
    assert "credit does not sum to zero: 5 µcredits appeared" in message
    assert "seed 77" in message
    assert "python -m simulations broken --peers 5 --hours 0.5 --seed 77 --policy two" in message


def _from_nothing() -> Change:
    return Change(accounts=(Account(id="a", balance=5),))


def test_the_scenario_of_the_readme_runs_and_answers() -> None:
    """It is whole as it stands there: a file of its own would be found."""
    (source,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    module: dict[str, Any] = {}
    exec(compile(source, str(README), "exec"), module)
    written: Scenario = module["SCENARIO"]
    setting = Setting(peers=6, seed=1, hours=0.05)
    figures = {policy: written.play(Stage(setting, policy)).figures for policy in written.policies}

    assert module["__doc__"].endswith("?")
    assert all(each["done_percent"] == 100 for each in figures.values())
    assert re.fullmatch(r"The slowest hundredth waits [0-9.]+ times as long .*", written.conclude(figures))


def test_one_policy_alone_is_no_scenario() -> None:
    with pytest.raises(ValueError, match="a scenario compares at least two"):
        Scenario(policies={"one": ""}, play=slow_nodes.play, conclude=slow_nodes.conclude, peers=2, hours=1)


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [([3.0, 1.0, 2.0], 50, 2.0), ([1.0], 99, 1.0), (list(map(float, range(1, 101))), 99, 99.0), ([1.0, 2.0], 0, 1.0)],
)
def test_a_percentile_is_one_of_the_values(values: list[float], percent: float, expected: float) -> None:
    """Nearest rank, so that it is one that somebody really waited."""
    assert percentile(values, percent) == expected
    assert math.isnan(percentile([], percent))


def test_a_distribution_rises_to_all() -> None:
    curve = distribution([5.0, 1.0, 3.0])

    assert (curve.x[0], curve.x[-1], curve.y[-1]) == (1.0, 5.0, 100.0)
    assert list(curve.x) == sorted(curve.x)


def test_nothing_is_no_figure() -> None:
    """Figures of no demands are not numbers, rather than zero."""
    figures = usual_figures([])

    assert figures["jobs"] == 0
    assert math.isnan(figures["done_percent"])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("first_piece_p50_ms", "first piece p50, ms"),
        ("done_percent", "done, %"),
        ("jobs", "jobs"),
        ("hops_mean", "hops mean"),
    ],
)
def test_figures_have_names_in_words(name: str, expected: str) -> None:
    assert words(name) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "-"),
        (math.nan, "-"),
        (0.0, "0"),
        (1234.5, "1,234"),
        (0.25, "0.25"),
        (2.5e6, "2.5 million"),
        (1e-9, "≈ 0"),
    ],
)
def test_numbers_have_as_many_digits_as_help(value: float | None, expected: str) -> None:
    assert number(value) == expected


def test_taking_turns_asks_everybody_once_before_anybody_twice() -> None:
    """Nine jobs, far apart, on three nodes: three each."""
    town = SmallTown(nodes=3, rules=Rules(rank=InTurn()))
    for _ in range(9):
        town.ask()
        town.world.run(town.world.now + 10.0)

    town.finish()

    assert [node.done for node in town.all] == [3, 3, 3]


def test_the_page_holds_all_and_needs_nothing_else(slow: Result) -> None:
    """Questions, conclusions, figures, pictures and how to run it again; no file or host is asked for."""
    failed = Told(name="broken", question="Does it <hold>?", took_s=1.0, fault="it broke (seed 9)\nreplay with: x")
    made = page([Told(name="slow_nodes", question=slow.question, took_s=2.0, result=slow), failed], "abc1234")

    assert escape(slow.conclusion) in made
    assert "python -m simulations slow_nodes --peers 20 --hours 0.05 --seed 3" in made
    assert "<svg" in made
    assert "abc1234" in made
    assert "Does it &lt;hold&gt;?" in made
    assert "failed: it broke (seed 9)" in made
    assert "src=" not in made
    assert "<script" not in made
    assert '<link rel="stylesheet' not in made


def test_pictures_are_of_curves_or_else_of_figures() -> None:
    """A scenario without curves has bars, and the same result gives the same picture."""
    setting = Setting(peers=2, seed=1, hours=1)

    def result(played: Mapping[str, Played]) -> Result:
        return Result(
            name="slow_nodes", question="", setting=setting, played=played, events=0, digests={}, conclusion=""
        )

    figures: Figures = {"jobs": 3.0, "done_percent": 50.0, "missing": math.nan}
    bars = result({"router": Played(figures=figures), "chance": Played(figures=figures)})
    lines = result({"router": Played(figures=figures, curves={"first piece": Curve([0.1, 2.0], [0.0, 100.0])})})

    assert svg(bars) == svg(bars)
    assert "percent" in svg(bars)
    assert "first piece" in svg(lines)
