"""`cxp2p node receipts`: what this node earned, and what is held back and why."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import click
import trio

from cxp2p.errors import CxError
from cxp2p.paths import default_config_path, default_data_path
from cxp2p.program import fail
from cxp2p.records import Service
from cxp2p.settings import load_settings
from cxp2p.shown import UNITS, credits_of
from cxp2p_node.config import NodeSettings
from cxp2p_node.papers import ANY, HELD, Paper, State, Sums
from cxp2p_node.papers.sqlite import FILE_NAME, read_papers

LINES_MAX = 10_000
MEANINGS = {
    State.OPEN: "its job runs, or ran when the node was last killed",
    State.LOST: "ended without a receipt, costs nothing",
    State.CLAIMED: "not countersigned yet; claimed when its gateway is connected",
    State.REFUSED: "its gateway refuses the claim",
    State.SETTLED: "countersigned",
    State.ADJUSTED: "countersigned for less",
    State.DISPUTED: "its gateway will not pay",
}


@click.command()
@click.option("--config", type=click.Path(path_type=Path), default=None, help="The node's settings file (TOML).")
@click.option("--held", is_flag=True, help="Only what is held back: claimed, refused or disputed.")
@click.option(
    "--limit", type=click.IntRange(1, LINES_MAX), default=50, show_default=True, help="So many orders, the newest."
)
@click.option("--json", "as_json", is_flag=True, help="Say it as lines of JSON, the sums last.")
def receipts(config: Path | None, held: bool, limit: int, as_json: bool) -> None:
    """List what this node worked and earned, and what is held back and why. The node may run meanwhile.

    A receipt is settled when its gateway countersigned it, adjusted if it did so for less; disputed or refused if it
    will not pay; claimed if it has not answered yet.

    \b
    Examples:
      cxp2p node receipts
      cxp2p node receipts --held --json
    """
    try:
        settings = load_settings(
            NodeSettings, "node", config or default_config_path("node"), required=config is not None
        )
        path = (settings.data_path or default_data_path("node")) / FILE_NAME
        papers, sums = trio.run(_read, path, HELD if held else ANY, limit)
    except CxError as error:
        fail(error)
    if as_json:
        for paper in papers:
            click.echo(json.dumps(facts(paper)))
        click.echo(json.dumps({"sums": {state.value: vars_of(sums[state]) for state in State if state in sums}}))
        return
    click.echo("\n".join([*lines(papers), *summary(sums)]))


async def _read(path: Path, states: frozenset[State], limit: int) -> tuple[Sequence[Paper], Mapping[State, Sums]]:
    async with read_papers(path) as papers:
        return await papers.newest(limit, states=states), await papers.sums()


def facts(paper: Paper) -> dict[str, object]:
    """A paper for programs; money in µcredits."""
    return {
        "day": _time(paper.taken_at_ms)[:10],
        "taken_at_ms": paper.taken_at_ms,
        "gateway": paper.gateway,
        "service": paper.service,
        "model": paper.model,
        "in_units": paper.in_units,
        "out_units": paper.out_units,
        "charge": paper.charge,
        "vouched": paper.vouched,
        "agreed": paper.agreed,
        "state": paper.state.value,
        "finish": paper.finish,
        "note": paper.note,
        "receipt": paper.receipt_hash.hex() if paper.receipt_hash else None,
    }


def vars_of(sums: Sums) -> dict[str, int]:
    """Sums for programs."""
    return {"count": sums.count, "charge": sums.charge, "agreed": sums.agreed}


def lines(papers: Sequence[Paper]) -> list[str]:
    """A line for each paper, the newest first, with why it is held back."""
    found = []
    for paper in papers:
        unit_in, unit_out = UNITS[Service(paper.service)]
        units = f"{paper.in_units} {unit_in} in, {paper.out_units} {unit_out} out"
        note = f": {paper.note}" if paper.note else ""
        state = f"{paper.state} ({MEANINGS[paper.state]}{note})" if paper.state in HELD else f"{paper.state}{note}"
        head = f"{_time(paper.taken_at_ms)}  {paper.gateway}  {paper.model}  {units}"
        found.append(f"{head}  {credits_of(paper.charge)}  {state}")
    return found


def summary(sums: Mapping[State, Sums]) -> list[str]:
    """What all papers that are kept come to."""
    if not sums:
        return ["no orders yet"]
    earned = sum(each.agreed for each in sums.values())
    held = sum(each.charge - each.agreed for state, each in sums.items() if state in HELD)
    states = [f"{sums[state].count} {state} ({MEANINGS[state]})" for state in State if state in sums]
    return [f"earned {credits_of(earned)}, held back {credits_of(held)}", *states]


def _time(wall_ms: int) -> str:
    return datetime.fromtimestamp(wall_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
