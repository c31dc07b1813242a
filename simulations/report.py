"""One page over all scenarios: each question, what came of it, and how to run it again. It needs no other file."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from html import escape
from itertools import repeat
from string import Template
from typing import Final

from simulations.plots import COLUMNS_MAX, svg
from simulations.replay import commit
from simulations.scenario import Advance, Result, ScenarioFailed, Setting, all_scenarios, replay, run_scenario
from simulations.words import number, words


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A result, or why there is none, and how long it took."""

    name: str
    question: str
    took_s: float
    result: Result | None = None
    fault: str = ""


STYLE: Final = """
:root { color-scheme: light dark; --ink: #1d2733; --pale: #5d6b7a; --line: #dfe5ea; --back: #ffffff; --card: #f6f8fa;
  --own: #0b6e99; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6ebf0; --pale: #9aa8b5; --line: #2f3a45; --back: #12181f;
  --card: #1a222b; --own: #5fb7de; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 2rem 1.25rem 4rem; background: var(--back); color: var(--ink);
  font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.9rem; margin: 0 0 .25rem; letter-spacing: -.02em; }
h2 { font-size: 1.25rem; margin: 0; }
h2 a { color: inherit; text-decoration: none; }
p { margin: .5rem 0; }
.pale { color: var(--pale); font-size: .9rem; }
.summary { width: 100%; border-collapse: collapse; margin: 1.5rem 0 2.5rem; }
.summary td { padding: .55rem .75rem .55rem 0; border-top: 1px solid var(--line); vertical-align: top; }
.summary td:first-child { white-space: nowrap; font-weight: 600; }
.summary a { color: var(--own); text-decoration: none; }
section { border-top: 2px solid var(--line); padding: 1.75rem 0; }
.question { font-size: 1.05rem; max-width: 52rem; }
.conclusion { border-left: 4px solid var(--own); background: var(--card); padding: .75rem 1rem; margin: 1rem 0;
  font-weight: 600; max-width: 58rem; }
.fault { border-color: var(--bad); color: var(--bad); white-space: pre-wrap; }
.both { display: grid; grid-template-columns: minmax(0, 5fr) minmax(0, 6fr); gap: 1.5rem; align-items: start; }
.both > *, .stacked > * { min-width: 0; }
.stacked .plot { margin-top: 1.5rem; }
.stacked .plot svg { width: auto; max-width: 100%; margin: 0 auto; }
.stacked td:first-child { white-space: nowrap; }
@media (max-width: 60rem) { .both { grid-template-columns: 1fr; } }
.figures { overflow-x: auto; }
.figures table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; width: 100%; }
.figures th { text-align: right; padding: .35rem .5rem; border-bottom: 2px solid var(--line); }
.figures th:first-child, .figures td:first-child { text-align: left; padding-left: 0; }
.figures th:nth-child(2), .figures td:nth-child(2) { color: var(--own); font-weight: 600; }
.figures td { text-align: right; padding: .3rem .5rem; border-bottom: 1px solid var(--line); }
.plot { background: #fff; border-radius: 6px; padding: .5rem; }
.plot svg { width: 100%; height: auto; display: block; }
ul.policies { padding-left: 1.1rem; margin: .75rem 0; font-size: .92rem; }
code { background: var(--card); border: 1px solid var(--line); border-radius: 4px; padding: .1rem .35rem;
  font-size: .85rem; overflow-wrap: anywhere; }
"""

PAGE: Final = Template(
    """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>cxp2p: simulations</title>
<link rel="icon" href="data:,">
<style>$style</style>
</head>
<body>
<h1>What the network would do</h1>
<p class="pale">$count scenarios at commit <code>$commit</code>, $events events in $took s of computing. The rules are
the network's own; peers, links and engines are models. The same seed and commit give the same figures.</p>
<table class="summary">$summary</table>
$sections
</body>
</html>
"""
)


def tell(name: str, seed: int, advance: Advance = lambda part: None) -> Told:
    """Runs a scenario at its own modest size. One that fails is told of too."""
    scenario, question = all_scenarios()[name]
    setting = Setting(peers=scenario.peers, seed=seed, hours=scenario.hours)
    started = time.perf_counter()
    try:
        result = run_scenario(name, setting, advance=advance)
    except ScenarioFailed as error:
        fault = f"{error}\nat commit {commit()}"
        return Told(name=name, question=question, took_s=time.perf_counter() - started, fault=fault)
    return Told(name=name, question=question, took_s=time.perf_counter() - started, result=result)


def tell_all(seed: int, at_once: int) -> Iterator[Told]:
    """All scenarios, in order of their names; so many at once, each in a process of its own if there are several."""
    names = list(all_scenarios())
    if at_once == 1:
        yield from (tell(name, seed) for name in names)
        return
    with ProcessPoolExecutor(min(at_once, len(names)), multiprocessing.get_context("spawn")) as processes:
        yield from processes.map(tell, names, repeat(seed))


def page(told: Sequence[Told], source: str) -> str:
    """The page, of runs at the commit `source`. It is whole: pictures and style are in it, and there is no script."""
    events = sum(each.result.events for each in told if each.result)
    return PAGE.substitute(
        style=STYLE,
        count=len(told),
        commit=escape(source),
        events=f"{events:,}",
        took=f"{sum(each.took_s for each in told):.0f}",
        summary="".join(_summary(each) for each in told),
        sections="\n".join(_section(each) for each in told),
    )


def _summary(told: Told) -> str:
    said = told.result.conclusion if told.result else f"failed: {told.fault.splitlines()[0]}"
    link = f'<a href="#{escape(told.name)}">{escape(words(told.name))}</a>'
    return f"<tr><td>{link}</td><td>{escape(said)}</td></tr>"


def _section(told: Told) -> str:
    head = (
        f'<section id="{escape(told.name)}"><h2><a href="#{escape(told.name)}">{escape(words(told.name))}</a></h2>'
        f'<p class="question">{escape(told.question)}</p>'
    )
    if told.result is None:
        return f'{head}<p class="conclusion fault">{escape(told.fault)}</p></section>'
    result, setting = told.result, told.result.setting
    again = replay(told.name, setting)
    layout, columns = ("both", 1) if _is_small(result) else ("stacked", COLUMNS_MAX)
    return (
        f'{head}<p class="conclusion">{escape(result.conclusion)}</p>'
        f'<div class="{layout}"><div>{_policies(result)}<div class="figures">{_table(result)}</div></div>'
        f'<div class="plot">{svg(result, columns)}</div></div>'
        f'<p class="pale">{setting.peers} peers, {setting.hours:g} simulated hours, {result.events:,} events in '
        f"{told.took_s:.1f} s. Again: <code>{escape(again)}</code></p></section>"
    )


def _is_small(result: Result) -> bool:
    """Whether the table and the picture can stand side by side."""
    figures = {name for each in result.played.values() for name in each.figures}
    curves = {name for each in result.played.values() for name in each.curves}
    return len(result.played) <= 3 and len(figures) <= 12 and len(curves) <= 2


def _policies(result: Result) -> str:
    policies: Mapping[str, str] = all_scenarios()[result.name][0].policies
    rows = "".join(f"<li><b>{escape(policy)}</b>: {escape(what)}</li>" for policy, what in policies.items())
    return f'<ul class="policies">{rows}</ul>'


def _table(result: Result) -> str:
    head = "".join(f"<th>{escape(policy)}</th>" for policy in result.played)
    names = dict.fromkeys(name for each in result.played.values() for name in each.figures)
    rows = "".join(
        f"<tr><td>{escape(words(name))}</td>"
        + "".join(f"<td>{number(each.figures.get(name))}</td>" for each in result.played.values())
        + "</tr>"
        for name in names
    )
    return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table>"
