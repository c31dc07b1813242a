"""What a scenario is: a question, two policies or more that are compared, and a sentence that answers it.

A scenario is a module of `simulations.scenarios`: its docstring is the question, its `SCENARIO` says the rest.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import TypeAlias

from simulations import scenarios
from simulations.demands import End, Outcome
from simulations.signing import KEYS
from simulations.town import Town
from simulations.world import BrokenInvariant, World

STEPS = 200  # how often in a run somebody hears how far it is

Figures: TypeAlias = Mapping[str, float]
"""Named numbers of one policy, units last in the name."""

Advance: TypeAlias = Callable[[float], None]
"""Is told which part of all is done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How large a run is, and its seed. `keys`: "real" has everything signed with Ed25519, "quick" with digests."""

    peers: int
    seed: int
    hours: float
    keys: str = "quick"

    @property
    def seconds(self) -> float:
        return self.hours * 3600.0


@dataclass(frozen=True, slots=True)
class Curve:
    """Points to draw, x ascending."""

    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What came of one policy. `curves` are drawn, those of the same name together."""

    figures: Figures
    curves: Mapping[str, Curve] = field(default_factory=dict)


class Stage:
    """One run of one policy: a world of its own, of the same seed as the other policies'."""

    def __init__(self, setting: Setting, policy: str, advance: Advance = lambda part: None) -> None:
        self.setting = setting
        self.policy = policy
        self.world = World(setting.seed)
        self.town = Town(self.world, KEYS[setting.keys]())
        self._advance = advance

    def run(self, until: float | None = None) -> None:
        """Runs the world until a time, or the whole length, and tells how far it is. Raises BrokenInvariant."""
        until = self.setting.seconds if until is None else until
        begin = self.world.now
        for step in range(1, STEPS + 1):
            time = begin + (until - begin) * step / STEPS
            self.world.run(time)
            self._advance(min(1.0, time / self.setting.seconds) if self.setting.seconds else 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """How a question is asked. `play` runs one policy; `conclude` says in one sentence what all figures tell.

    `policies`: names with a few words each, the first is what the network does. `peers`, `hours`: a modest size that
    still shows the effect. `axes`: for each name of a curve what x and y are; `log_x`: those whose x is drawn so.
    """

    policies: Mapping[str, str]
    play: Callable[[Stage], Played]
    conclude: Callable[[Mapping[str, Figures]], str]
    peers: int
    hours: float
    axes: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    log_x: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.policies) < 2:
            raise ValueError("policies: a scenario compares at least two")


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of a scenario. The same seed and commit give the same result."""

    name: str
    question: str
    setting: Setting
    played: Mapping[str, Played]
    events: int
    digests: Mapping[str, str]
    conclusion: str


class ScenarioFailed(Exception):
    """An invariant broke. The message says which, with the seed and the command that replay it."""


@cache
def all_scenarios() -> Mapping[str, tuple[Scenario, str]]:
    """Every scenario by name, with its question, in order of name."""
    found: dict[str, tuple[Scenario, str]] = {}
    for module_info in sorted(pkgutil.iter_modules(scenarios.__path__), key=lambda each: each.name):
        module = importlib.import_module(f"{scenarios.__name__}.{module_info.name}")
        found[module_info.name] = (module.SCENARIO, " ".join((module.__doc__ or "").split()))
    return MappingProxyType(found)


def run_scenario(
    name: str, setting: Setting, policies: Sequence[str] = (), advance: Advance = lambda part: None
) -> Result:
    """Runs every policy of a scenario, or those that are named. Raises ScenarioFailed; KeyError for unknown names."""
    scenario, question = all_scenarios()[name]
    chosen = tuple(policies) or tuple(scenario.policies)
    played: dict[str, Played] = {}
    digests: dict[str, str] = {}
    events = 0
    for index, policy in enumerate(chosen):
        scenario.policies[policy]
        stage = Stage(setting, policy, _part_of(advance, index, len(chosen)))
        try:
            played[policy] = scenario.play(stage)
        except BrokenInvariant as error:
            raise ScenarioFailed(f"{error}\nreplay with: {replay(name, setting)} --policy {policy}") from error
        digests[policy] = stage.world.digest()
        events += stage.world.events
    figures = {policy: each.figures for policy, each in played.items()}
    whole = len(chosen) == len(scenario.policies)
    return Result(
        name=name,
        question=question,
        setting=setting,
        played=played,
        events=events,
        digests=digests,
        conclusion=scenario.conclude(figures) if whole else "",
    )


def replay(name: str, setting: Setting) -> str:
    """The command that does the same again, at the same commit."""
    keys = "" if setting.keys == "quick" else f" --keys {setting.keys}"
    return f"python -m simulations {name} --peers {setting.peers} --hours {setting.hours!r} --seed {setting.seed}{keys}"


def _part_of(advance: Advance, index: int, count: int) -> Advance:
    return lambda part: advance((index + part) / count)


# Figures that most scenarios have.


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent do not exceed (nearest rank); NaN of none."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def usual_figures(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Jobs, the part of them that was done, and the time to the first piece of those."""
    done = [outcome for outcome in outcomes if outcome.end is End.DONE]
    firsts = [outcome.first_piece_s * 1000 for outcome in done if outcome.first_piece_s is not None]
    return {
        "jobs": float(len(outcomes)),
        "done_percent": 100.0 * len(done) / len(outcomes) if outcomes else math.nan,
        "first_piece_p50_ms": percentile(firsts, 50),
        "first_piece_p99_ms": percentile(firsts, 99),
        "attempts_mean": sum(outcome.attempts for outcome in outcomes) / len(outcomes) if outcomes else math.nan,
    }


def distribution(values: Sequence[float], points: int = 100) -> Curve:
    """How many percent of the values are at most x."""
    percents = [100.0 * step / points for step in range(1, points + 1)]
    return Curve([percentile(values, percent) for percent in percents], percents)
