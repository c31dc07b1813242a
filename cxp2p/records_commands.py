"""`cxp2p epoch`, `cxp2p receipt`, `cxp2p evidence`: what was signed, read and checked from files, without a network."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Final

import click

from cxp2p import protocols
from cxp2p.epoch_files import Published
from cxp2p.epochs import check_follows
from cxp2p.errors import EpochInvalid
from cxp2p.evidence import Accusation, Evidence, Wrong, check_evidence
from cxp2p.kept_files import Settled, jsonable, settlements_in
from cxp2p.program import fail, plain
from cxp2p.receipts import Calendar, digest
from cxp2p.records import EpochRoot
from cxp2p.rewards import DEFAULT_RULES, rules_hash
from cxp2p.shown import credits_of, epoch_times, receipt_lines
from cxp2p.sources import (
    FILE,
    entries_in,
    epoch_s_option,
    fetch_to,
    in_file,
    json_option,
    opened_epoch,
    small,
    source,
    source_options,
)
from cxp2p.wire import decode

CONVICTS: Final = {
    Wrong.DISPUTE: "nobody",
    Wrong.OMITTED: f"it, unless a root up to {protocols.EPOCHS_LATE_MAX} epochs after the receipt's counts it",
}

# Receipts.


@click.group()
def receipt() -> None:
    """Read and check signed receipts, as `GET /receipts/{id}` gives them."""


@receipt.command("show")
@click.argument("file", type=FILE)
@json_option
def show_receipt(file: Path, as_json: bool) -> None:
    """Check the receipts in FILE and say what they mean: who worked for whom, on what, how much, at what price.

    FILE is what `GET /receipts/{id}` answered, an inclusion proof, or one envelope with nothing around it.

    \b
    Example:
      cxp2p receipt show receipt.json
    """
    settled = _settlements(file)
    if as_json:
        click.echo(json.dumps([each.facts() for each in settled]))
        return
    click.echo(plain("\n\n".join("\n".join(receipt_lines(each)) for each in settled)))


@receipt.command("verify")
@click.argument("file", type=FILE)
@json_option
def verify_receipt(file: Path, as_json: bool) -> None:
    """Check the receipts in FILE: signatures, and that order, receipt and countersign are about each other.

    Exits with 1 and the reason if anything does not hold.

    \b
    Example:
      cxp2p receipt verify receipt.json
    """
    settled = _settlements(file)
    if as_json:
        click.echo(json.dumps({"valid": True, "receipts": [digest(each.receipt_envelope).hex() for each in settled]}))
        return
    for each in settled:
        click.echo(plain(f"ok: receipt {digest(each.receipt_envelope).hex()}, {', '.join(each.checked())}"))


def _settlements(file: Path) -> list[Settled]:
    try:
        return settlements_in(small(file))
    except EpochInvalid as error:
        fail(in_file(file, error))


# Epochs.


@click.group()
def epoch() -> None:
    """Read and check the published hours of gateways."""


@epoch.command("fetch")
@source_options
@click.option("-o", "--output", type=FILE, help="Where to write it; epoch-N.cxp2p if not said.")
def fetch(number: int | None, gateway: str | None, bootstrap: tuple[str, ...], output: Path | None) -> None:
    """Fetch a published epoch and keep it as a file. It is checked while it comes.

    \b
    Example:
      cxp2p epoch fetch --epoch 500000 --gateway https://cxmpute.example
    """
    if number is None or gateway is None:
        raise click.UsageError("give --epoch and --gateway")
    path = output or Path(f"epoch-{number}.cxp2p")
    fetch_to(gateway, number, bootstrap, path)
    published, _ = _summed(path)
    click.echo(plain(f"{path}: {published.root.count} receipts of epoch {number} of {published.root.gateway}"))


@epoch.command("show")
@click.argument("file", type=FILE, required=False)
@source_options
@epoch_s_option
@json_option
def show_epoch(
    file: Path | None,
    number: int | None,
    gateway: str | None,
    bootstrap: tuple[str, ...],
    epoch_s: int,
    as_json: bool,
) -> None:
    """Check the published epoch in FILE, or fetch it, and say what is in it, by node.

    \b
    Example:
      cxp2p epoch show epoch-500000.cxp2p
      cxp2p epoch show --epoch 500000 --gateway https://cxmpute.example
    """
    with source(file, number, gateway, bootstrap) as path:
        _show(path, Calendar(epoch_s * 1000), as_json)


def _show(file: Path, calendar: Calendar, as_json: bool) -> None:
    published, nodes = _summed(file)
    if as_json:
        rows = [{"node": node, **sums} for node, sums in sorted(nodes.items())]
        click.echo(json.dumps({"root": jsonable(asdict(published.root)), "nodes": rows}))
        return
    root = published.root
    before = root.prev_root.hex() if root.prev_root else "none, this is the first"
    lines = [
        f"epoch      {root.epoch}, {epoch_times(root.epoch, calendar)}",
        f"gateway    {root.gateway}",
        f"root       {root.root.hex()}",
        f"receipts   {root.count}, worth {credits_of(root.sum)}",
        f"rules      {root.rules_hash.hex()}{' (the default ones)' if _is_default(root) else ''}",
        f"follows    {before}",
    ]
    for node, sums in sorted(nodes.items()):
        what = f"{sums['receipts']} receipts, {sums['in_units']} units in, {sums['out_units']} out"
        lines.append(f"node       {node}: {what}, {credits_of(sums['charge'])}")
    click.echo(plain("\n".join([*lines, "checked    every signature, and that the receipts make the root"])))


@epoch.command("verify")
@click.argument("file", type=FILE, required=False)
@source_options
@click.option("--after", type=FILE, help="The published epoch before it: check that this one follows.")
@json_option
def verify_epoch(
    file: Path | None,
    number: int | None,
    gateway: str | None,
    bootstrap: tuple[str, ...],
    after: Path | None,
    as_json: bool,
) -> None:
    """Check the published epoch in FILE, or fetch it: every signature, every sum, and the root over all.

    Exits with 1 and the reason if anything does not hold.

    \b
    Example:
      cxp2p epoch verify epoch-500001.cxp2p --after epoch-500000.cxp2p
    """
    with source(file, number, gateway, bootstrap) as path:
        _verify(path, after, as_json)


def _verify(file: Path, after: Path | None, as_json: bool) -> None:
    published, _ = _summed(file)
    if after is not None:
        before, _ = _summed(after)
        try:
            check_follows(published.root, before.root, before.root_envelope)
        except EpochInvalid as error:
            fail(in_file(file, error))
    root = published.root
    if as_json:
        click.echo(json.dumps({"valid": True, "epoch": root.epoch, "gateway": root.gateway, "root": root.root.hex()}))
        return
    follows = ", and it follows the epoch before it" if after else ""
    click.echo(f"ok: epoch {root.epoch} of {root.gateway}: {root.count} receipts make root {root.root.hex()}{follows}")


def _is_default(root: EpochRoot) -> bool:
    return root.rules_hash == rules_hash(DEFAULT_RULES)


def _summed(file: Path) -> tuple[Published, dict[str, dict[str, int]]]:
    published = opened_epoch(file)
    nodes: dict[str, dict[str, int]] = {}
    for entry in entries_in(file, published):
        sums = nodes.setdefault(entry.receipt.node, dict.fromkeys(("receipts", "in_units", "out_units", "charge"), 0))
        said = entry.countersign
        for name, more in zip(sums, (1, said.in_units, said.out_units, said.charge), strict=True):
            sums[name] += more
    return published, nodes


# Evidence.


@click.group()
def evidence() -> None:
    """Read and check what peers signed that they should not have, as `cxp2p gateway evidence --export` writes it."""


@evidence.command("show")
@click.argument("file", type=FILE)
@json_option
def show_evidence(file: Path, as_json: bool) -> None:
    """Check the evidence in FILE and say who did what, and what it rests on.

    \b
    Example:
      cxp2p evidence show 5f0c.evidence
    """
    found, signed = _accusation(file)
    if as_json:
        click.echo(json.dumps({**_told(found), "envelopes": [each.hex() for each in signed.envelopes]}))
        return
    hashes = [digest(each).hex() for each in signed.envelopes]
    lines = [
        f"peer       {found.peer}",
        f"what       {found.wrong}",
        f"it         {found.says}",
        f"convicts   {CONVICTS.get(found.wrong, 'yes: nobody else can have signed this')}",
        *(f"envelope   {each}" for each in hashes),
        "checked    every signature, and that these papers are about each other",
    ]
    click.echo(plain("\n".join(lines)))


@evidence.command("verify")
@click.argument("file", type=FILE)
@json_option
def verify_evidence(file: Path, as_json: bool) -> None:
    """Check the evidence in FILE: signatures, and that it shows what it says.

    Exits with 1 and the reason if it shows nothing. The papers of a dispute hold, but convict nobody.

    \b
    Example:
      cxp2p evidence verify 5f0c.evidence
    """
    found, _ = _accusation(file)
    if as_json:
        click.echo(json.dumps({"valid": True, **_told(found)}))
        return
    ends = f"; it convicts {CONVICTS[found.wrong]}" if found.wrong in CONVICTS else ""
    click.echo(plain(f"ok: {found.wrong}: {found.peer} {found.says}{ends}"))


def _told(found: Accusation) -> dict[str, object]:
    return {"peer": found.peer, "wrong": found.wrong.value, "says": found.says, "convicts": found.convicts}


def _accusation(file: Path) -> tuple[Accusation, Evidence]:
    data = small(file)
    try:
        return check_evidence(data), decode(Evidence, data)
    except EpochInvalid as error:
        fail(in_file(file, error))
