"""`cxp2p node earnings`: what this node earned, what of it is held and why, and what gateways did wrong."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import trio

from cxp2p.errors import CxError
from cxp2p.paths import default_config_path, default_data_path
from cxp2p.program import fail, plain
from cxp2p.receipts import Calendar
from cxp2p.settings import load_settings
from cxp2p.shown import credits_of
from cxp2p_node.config import NodeSettings
from cxp2p_node.papers import HELD, Counted, KeptWrong, State, Sums
from cxp2p_node.papers.sqlite import FILE_NAME, read_papers
from cxp2p_node.receipt_commands import MEANINGS

WHY = {
    Counted.WAITING: "countersigned, and under no root yet: its epoch is open, or its gateway was not asked since",
    Counted.OMITTED: "countersigned, and left out of every root that could count it",
    Counted.HELD: "counted under a root; audits may still find it invalid for a day",
    Counted.RELEASED: "counted, and nothing can change it any more",
}


@dataclass(frozen=True, slots=True)
class Found:
    """What the papers say: by where it stands in epochs, by state, and the evidence."""

    counted: Mapping[Counted, Sums]
    states: Mapping[State, Sums]
    wrongs: Sequence[KeptWrong]


@click.command()
@click.option("--config", type=click.Path(path_type=Path), default=None, help="The node's settings file (TOML).")
@click.option("--evidence", type=click.Path(path_type=Path), default=None, help="A folder to write the evidence to.")
@click.option("--json", "as_json", is_flag=True, help="Say it as one object.")
def earnings(config: Path | None, evidence: Path | None, as_json: bool) -> None:
    """Tell what this node earned: held, released, and why. The node may run meanwhile.

    What gateways signed that they should not have is listed, too: two roots for one epoch, a receipt that is in none.
    Anybody can check it from the bytes that --evidence writes.

    \b
    Examples:
      cxp2p node earnings
      cxp2p node earnings --evidence ./evidence --json
    """
    try:
        settings = load_settings(
            NodeSettings, "node", config or default_config_path("node"), required=config is not None
        )
        path = (settings.data_path or default_data_path("node")) / FILE_NAME
        found = trio.run(_read, path, settings.peer.calendar)
    except CxError as error:
        fail(error)
    if evidence is not None:
        _write(evidence, found.wrongs)
    click.echo(json.dumps(facts(found)) if as_json else plain("\n".join(lines(found))))


async def _read(path: Path, calendar: Calendar) -> Found:
    now_ms = time.time_ns() // 1_000_000
    released_before = calendar.epoch_of(max(0, now_ms - calendar.grace_ms - calendar.late_ms))
    async with read_papers(path) as papers:
        return Found(await papers.counted(released_before), await papers.sums(), await papers.wrongs())


def _write(folder: Path, wrongs: Sequence[KeptWrong]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for each in wrongs:
            (folder / f"{each.wrong}-{each.id[:16]}.evidence").write_bytes(each.data)
    except OSError as error:
        fail(click.ClickException(f"{folder} cannot be written: {error.strerror}"))


def facts(found: Found) -> dict[str, object]:
    """All of it for programs; money in µcredits."""
    held = sum(each.charge - each.agreed for state, each in found.states.items() if state in HELD)
    return {
        "earned": sum(each.agreed for each in found.counted.values()),
        "released": _agreed(found, Counted.RELEASED),
        "held": _agreed(found, Counted.WAITING) + _agreed(found, Counted.HELD),
        "omitted": _agreed(found, Counted.OMITTED),
        "not_countersigned": held,
        "why": {place.value: {"receipts": each.count, "why": WHY[place]} for place, each in found.counted.items()},
        "evidence": [
            {"id": each.id, "peer": each.peer, "wrong": each.wrong, "says": each.says, "at_ms": each.at_ms}
            for each in found.wrongs
        ],
    }


def lines(found: Found) -> list[str]:
    """All of it for people: a sum, then each part of it with its reason."""
    if not found.states:
        return ["no orders yet"]
    told = [f"earned    {credits_of(sum(each.agreed for each in found.counted.values()))}, before the fee"]
    for place in (Counted.RELEASED, Counted.HELD, Counted.WAITING, Counted.OMITTED):
        if place in found.counted:
            sums = found.counted[place]
            told.append(f"{place:<9} {credits_of(sums.agreed)}: {sums.count} receipts {WHY[place]}")
    for state in sorted(HELD & found.states.keys()):
        sums = found.states[state]
        told.append(f"{state:<9} {credits_of(sums.charge - sums.agreed)}: {sums.count} receipts, {MEANINGS[state]}")
    return [*told, *(f"evidence  {each.peer} {each.says}" for each in found.wrongs)]


def _agreed(found: Found, place: Counted) -> int:
    return found.counted[place].agreed if place in found.counted else 0
