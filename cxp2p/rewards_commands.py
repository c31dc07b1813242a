"""`cxp2p rewards`: what everybody earns, from what was published."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

import click

from cxp2p.epoch_files import Published
from cxp2p.epochs import Entry, Key
from cxp2p.errors import CxError, EpochInvalid
from cxp2p.kept_files import audits_in, jsonable, rules_in
from cxp2p.program import fail, plain
from cxp2p.receipts import Calendar, digest
from cxp2p.records import EpochRoot
from cxp2p.rewards import DEFAULT_RULES, Rewards, rules_hash
from cxp2p.rewards import rewards as rewards_of
from cxp2p.shown import credits_of, epoch_times
from cxp2p.sources import (
    FILE,
    entries_in,
    epoch_s_option,
    in_file,
    json_option,
    opened_epoch,
    small,
    source,
    source_options,
)


@click.group()
def rewards() -> None:
    """Compute what everybody earns, from published epochs."""


@rewards.command("rules")
def show_rules() -> None:
    """Print the default rules as JSON: a file to change and to give to `compute --rules`.

    \b
    Example:
      cxp2p rewards rules > rules.json
    """
    click.echo(json.dumps(jsonable(asdict(DEFAULT_RULES)), indent=2))


@rewards.command("compute")
@click.argument("files", type=FILE, nargs=-1)
@source_options
@click.option("--rules", "rules_path", type=FILE, help="The epoch's rules, if they are not the default ones.")
@click.option("--verdicts", "verdicts_path", type=FILE, help="What auditors found: [{receipt: HASH, valid: BOOL}].")
@click.option("--earlier", type=FILE, multiple=True, help="An epoch before: no receipt of it counts again; repeatable.")
@epoch_s_option
@json_option
def compute_rewards(
    files: tuple[Path, ...],
    number: int | None,
    gateway: str | None,
    bootstrap: tuple[str, ...],
    rules_path: Path | None,
    verdicts_path: Path | None,
    earlier: tuple[Path, ...],
    epoch_s: int,
    as_json: bool,
) -> None:
    """Check the published epochs in FILES, of one hour and different gateways, and compute every reward.

    Without FILES the epoch is fetched: --epoch of --gateway.

    The same files give the same numbers on every machine. Exits with 1 and the reason if anything does not hold.

    \b
    Example:
      cxp2p rewards compute epoch-500000.cxp2p
      cxp2p rewards compute --epoch 500000 --gateway https://cxmpute.example
    """
    with source(files[0] if files else None, number, gateway, bootstrap) as path:
        _compute(files or (path,), rules_path, verdicts_path, earlier, Calendar(epoch_s * 1000), as_json)


def _compute(
    files: tuple[Path, ...],
    rules_path: Path | None,
    verdicts_path: Path | None,
    earlier: tuple[Path, ...],
    calendar: Calendar,
    as_json: bool,
) -> None:
    try:
        rules = rules_in(small(rules_path)) if rules_path else DEFAULT_RULES
    except CxError as error:
        fail(in_file(rules_path or Path(), error))
    try:
        verdicts = audits_in(small(verdicts_path)) if verdicts_path else ()
    except CxError as error:
        fail(in_file(verdicts_path or Path(), error))
    opened = [(file, opened_epoch(file)) for file in files]
    try:
        _check_together([(file, published.root) for file, published in opened], rules_hash(rules))
        paid = _paid(earlier, opened[0][1].root.epoch)
        out = rewards_of(rules, _unpaid(opened, paid), verdicts)
    except EpochInvalid as error:
        fail(CxError(plain(str(error))))
    _tell(out, opened[0][1].root.epoch, calendar, as_json)


def _check_together(roots: Iterable[tuple[Path, EpochRoot]], expected: bytes) -> None:
    epochs, gateways = set(), set()
    for file, root in roots:
        if root.rules_hash != expected:
            raise EpochInvalid(f"{file} is by rules {root.rules_hash.hex()}, these are {expected.hex()}: give --rules")
        if root.gateway in gateways:
            raise EpochInvalid(f"{file} is of gateway {root.gateway}, of which there is another file")
        epochs.add(root.epoch)
        gateways.add(root.gateway)
    if len(epochs) > 1:
        raise EpochInvalid(f"the files are of several epochs: {', '.join(map(str, sorted(epochs)))}")


def _paid(files: Iterable[Path], epoch: int) -> frozenset[tuple[str, Key]]:
    """The places of all receipts in epochs before this one: a late receipt must not stand in two."""
    paid: set[tuple[str, Key]] = set()
    for file in files:
        published = opened_epoch(file)
        if published.root.epoch >= epoch:
            raise EpochInvalid(f"{file} is of epoch {published.root.epoch}, expected one before {epoch}")
        paid.update((published.root.gateway, entry.key) for entry in entries_in(file, published))
    return frozenset(paid)


def _unpaid(opened: Iterable[tuple[Path, Published]], paid: frozenset[tuple[str, Key]]) -> Iterator[Entry]:
    for file, published in opened:
        for entry in entries_in(file, published):
            if (published.root.gateway, entry.key) in paid:
                name = digest(entry.receipt_envelope).hex()
                raise EpochInvalid(f"{file}: receipt {name} stands in an epoch before, too", entry.receipt_envelope)
            yield entry


def _tell(out: Rewards, epoch_number: int, calendar: Calendar, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"epoch": epoch_number, **jsonable(asdict(out))}))
        return
    lines = [f"epoch {epoch_number}, {epoch_times(epoch_number, calendar)}, rules {out.rules_hash.hex()}"]
    for each in out.nodes:
        owner = f" (owner {each.owner})" if each.owner else ""
        caught = "; an audit found a receipt invalid: no share" if each.caught else ""
        sources = f"{credits_of(each.paid)} from users, {credits_of(each.pool)} of the pool"
        lines.append(
            f"node {each.node}{owner}: {sources}, for {each.receipts} receipts of weight {each.weight}{caught}"
        )
    lines += [f"points {who}: {amount}" for who, amount in out.points.items()]
    kept = f"fee {credits_of(out.fee)}, given back {credits_of(out.returned)}"
    lines.append(f"users were charged {credits_of(out.charged)}; {kept}")
    lines.append(f"the pool is {credits_of(out.pool)}, of which {credits_of(out.pool_left)} is left")
    click.echo(plain("\n".join(lines)))
