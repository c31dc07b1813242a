"""`cxp2p epoch`, `cxp2p receipt`, `cxp2p rewards`: what was signed, read and checked from files, without a network."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

import click

from cxp2p.epoch_files import Published, read_epoch
from cxp2p.epochs import Entry, Key, check_follows
from cxp2p.errors import CxError, EpochInvalid
from cxp2p.kept_files import Settled, audits_in, jsonable, rules_in, settlements_in
from cxp2p.program import fail, plain
from cxp2p.receipts import digest
from cxp2p.records import EpochRoot
from cxp2p.rewards import DEFAULT_RULES, Rewards, rules_hash
from cxp2p.rewards import rewards as rewards_of
from cxp2p.shown import credits_of, epoch_times, receipt_lines

CHUNK_BYTES = 64 * 1024
SMALL_FILE_BYTES_MAX = 4 * 1024 * 1024  # of receipts, rules or verdicts; an epoch is read in pieces and may be larger

FILE = click.Path(path_type=Path)


def _json_option(command: Callable[..., None]) -> Callable[..., None]:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")(command)


def _small(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(SMALL_FILE_BYTES_MAX + 1)
    except OSError as error:
        fail(click.ClickException(f"{path} cannot be read: {error.strerror}"))
    if len(data) > SMALL_FILE_BYTES_MAX:
        fail(click.ClickException(f"{path} is larger than {SMALL_FILE_BYTES_MAX} bytes"))
    return data


def _chunks(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
    except OSError as error:
        fail(click.ClickException(f"{path} cannot be read: {error.strerror}"))


def _in(path: Path, error: CxError) -> CxError:
    """The error with the file that it is in, spelled out for a terminal."""
    return CxError(plain(f"{path}: {error}"))


# Receipts.


@click.group()
def receipt() -> None:
    """Read and check signed receipts, as `GET /receipts/{id}` gives them."""


@receipt.command("show")
@click.argument("file", type=FILE)
@_json_option
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
@_json_option
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
        return settlements_in(_small(file))
    except EpochInvalid as error:
        fail(_in(file, error))


# Epochs.


@click.group()
def epoch() -> None:
    """Read and check the published hours of gateways."""


@epoch.command("show")
@click.argument("file", type=FILE)
@_json_option
def show_epoch(file: Path, as_json: bool) -> None:
    """Check the published epoch in FILE and say what is in it, by node.

    \b
    Example:
      cxp2p epoch show epoch-500000.cxp2p
    """
    published, nodes = _summed(file)
    if as_json:
        rows = [{"node": node, **sums} for node, sums in sorted(nodes.items())]
        click.echo(json.dumps({"root": jsonable(asdict(published.root)), "nodes": rows}))
        return
    root = published.root
    before = root.prev_root.hex() if root.prev_root else "none, this is the first"
    lines = [
        f"epoch      {root.epoch}, {epoch_times(root.epoch)}",
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
@click.argument("file", type=FILE)
@click.option("--after", type=FILE, help="The published epoch before it: check that this one follows.")
@_json_option
def verify_epoch(file: Path, after: Path | None, as_json: bool) -> None:
    """Check the published epoch in FILE: every signature, every sum, and the root over all.

    Exits with 1 and the reason if anything does not hold.

    \b
    Example:
      cxp2p epoch verify epoch-500001.cxp2p --after epoch-500000.cxp2p
    """
    published, _ = _summed(file)
    if after is not None:
        before, _ = _summed(after)
        try:
            check_follows(published.root, before.root, before.root_envelope)
        except EpochInvalid as error:
            fail(_in(file, error))
    root = published.root
    if as_json:
        click.echo(json.dumps({"valid": True, "epoch": root.epoch, "gateway": root.gateway, "root": root.root.hex()}))
        return
    follows = ", and it follows the epoch before it" if after else ""
    click.echo(f"ok: epoch {root.epoch} of {root.gateway}: {root.count} receipts make root {root.root.hex()}{follows}")


def _is_default(root: EpochRoot) -> bool:
    return root.rules_hash == rules_hash(DEFAULT_RULES)


def _opened(file: Path) -> Published:
    try:
        return read_epoch(_chunks(file))
    except EpochInvalid as error:
        fail(_in(file, error))


def _entries(file: Path, published: Published) -> Iterator[Entry]:
    try:
        yield from published.entries
    except EpochInvalid as error:
        fail(_in(file, error))


def _summed(file: Path) -> tuple[Published, dict[str, dict[str, int]]]:
    published = _opened(file)
    nodes: dict[str, dict[str, int]] = {}
    for entry in _entries(file, published):
        sums = nodes.setdefault(entry.receipt.node, dict.fromkeys(("receipts", "in_units", "out_units", "charge"), 0))
        said = entry.countersign
        for name, more in zip(sums, (1, said.in_units, said.out_units, said.charge), strict=True):
            sums[name] += more
    return published, nodes


# Rewards.


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
@click.argument("files", type=FILE, nargs=-1, required=True)
@click.option("--rules", "rules_path", type=FILE, help="The epoch's rules, if they are not the default ones.")
@click.option("--verdicts", "verdicts_path", type=FILE, help="What auditors found: [{receipt: HASH, valid: BOOL}].")
@click.option("--earlier", type=FILE, multiple=True, help="An epoch before: no receipt of it counts again; repeatable.")
@_json_option
def compute_rewards(
    files: tuple[Path, ...],
    rules_path: Path | None,
    verdicts_path: Path | None,
    earlier: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Check the published epochs in FILES, of one hour and different gateways, and compute every reward.

    The same files give the same numbers on every machine. Exits with 1 and the reason if anything does not hold.

    \b
    Example:
      cxp2p rewards compute epoch-500000.cxp2p
    """
    try:
        rules = rules_in(_small(rules_path)) if rules_path else DEFAULT_RULES
    except CxError as error:
        fail(_in(rules_path or Path(), error))
    try:
        verdicts = audits_in(_small(verdicts_path)) if verdicts_path else ()
    except CxError as error:
        fail(_in(verdicts_path or Path(), error))
    opened = [(file, _opened(file)) for file in files]
    try:
        _check_together([(file, published.root) for file, published in opened], rules_hash(rules))
        paid = _paid(earlier, opened[0][1].root.epoch)
        out = rewards_of(rules, _unpaid(opened, paid), verdicts)
    except EpochInvalid as error:
        fail(CxError(plain(str(error))))
    _tell(out, opened[0][1].root.epoch, as_json)


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
        published = _opened(file)
        if published.root.epoch >= epoch:
            raise EpochInvalid(f"{file} is of epoch {published.root.epoch}, expected one before {epoch}")
        paid.update((published.root.gateway, entry.key) for entry in _entries(file, published))
    return frozenset(paid)


def _unpaid(opened: Iterable[tuple[Path, Published]], paid: frozenset[tuple[str, Key]]) -> Iterator[Entry]:
    for file, published in opened:
        for entry in _entries(file, published):
            if (published.root.gateway, entry.key) in paid:
                name = digest(entry.receipt_envelope).hex()
                raise EpochInvalid(f"{file}: receipt {name} stands in an epoch before, too", entry.receipt_envelope)
            yield entry


def _tell(out: Rewards, epoch_number: int, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"epoch": epoch_number, **jsonable(asdict(out))}))
        return
    lines = [f"epoch {epoch_number}, {epoch_times(epoch_number)}, rules {out.rules_hash.hex()}"]
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
