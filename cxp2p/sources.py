"""Where commands read receipts and epochs from: files, or whoever published them. What does not hold ends them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from cxp2p.epoch_files import Published, read_epoch
from cxp2p.epochs import Entry
from cxp2p.errors import CxError, EpochInvalid
from cxp2p.program import fail, plain
from cxp2p.receipts import HOURS

CHUNK_BYTES = 64 * 1024
SMALL_FILE_BYTES_MAX = 4 * 1024 * 1024  # of receipts, rules or verdicts; an epoch is read in pieces and may be larger

FILE = click.Path(path_type=Path)


def json_option(command: Callable[..., None]) -> Callable[..., None]:
    """Whether a program reads what is printed."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")(command)


def source_options(command: Callable[..., None]) -> Callable[..., None]:
    """Where an epoch comes from, if not from a file."""
    for option in (
        click.option(
            "-b",
            "--bootstrap",
            multiple=True,
            envvar="CXP2P_BOOTSTRAP",
            help="A peer to join through: the root is compared with the DHT's.",
        ),
        click.option("--gateway", help="Who published it: a URL, or an address that ends in /p2p/<peer id>."),
        click.option("--epoch", "number", type=click.IntRange(0, 10**18), help="Its number."),
    ):
        command = option(command)
    return command


def epoch_s_option(command: Callable[..., None]) -> Callable[..., None]:
    """How long an epoch is, where its times are told."""
    return click.option(
        "--epoch-s",
        type=click.IntRange(1, 86_400),
        default=HOURS.epoch_ms // 1000,
        help="Seconds that an epoch of this network lasts, if it is no hour.",
    )(command)


@contextmanager
def source(file: Path | None, number: int | None, gateway: str | None, bootstrap: tuple[str, ...]) -> Iterator[Path]:
    """The file that is given, or that is fetched for the time being."""
    if file is not None:
        if number is not None or gateway is not None:
            raise click.UsageError("give a FILE, or --epoch and --gateway")
        yield file
        return
    if number is None or gateway is None:
        raise click.UsageError("give a FILE, or --epoch and --gateway")
    with tempfile.TemporaryDirectory(prefix="cxp2p-") as folder:
        path = Path(folder) / f"epoch-{number}.cxp2p"
        fetch_to(gateway, number, bootstrap, path)
        yield path


def fetch_to(gateway: str, number: int, bootstrap: tuple[str, ...], path: Path) -> None:
    """Fetches an epoch into a file, or ends the program with the reason."""
    from cxp2p.fetching import fetch_epoch  # noqa: PLC0415  # who has files needs no network

    try:
        fetch_epoch(gateway, number, bootstrap, path)
    except CxError as error:
        fail(CxError(plain(str(error))))


def small(path: Path) -> bytes:
    """All of a small file, or the end of the program."""
    try:
        with path.open("rb") as file:
            data = file.read(SMALL_FILE_BYTES_MAX + 1)
    except OSError as error:
        fail(click.ClickException(f"{path} cannot be read: {error.strerror}"))
    if len(data) > SMALL_FILE_BYTES_MAX:
        fail(click.ClickException(f"{path} is larger than {SMALL_FILE_BYTES_MAX} bytes"))
    if not data:
        fail(click.ClickException(f"{path} is empty"))
    return data


def chunks(path: Path) -> Iterator[bytes]:
    """A file in pieces, or the end of the program."""
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
    except OSError as error:
        fail(click.ClickException(f"{path} cannot be read: {error.strerror}"))


def in_file(path: Path, error: CxError) -> CxError:
    """The error with the file that it is in, spelled out for a terminal."""
    return CxError(plain(f"{path}: {error}"))


def opened_epoch(file: Path) -> Published:
    """A published epoch, its root checked, or the end of the program."""
    try:
        return read_epoch(chunks(file))
    except EpochInvalid as error:
        fail(in_file(file, error))


def entries_in(file: Path, published: Published) -> Iterator[Entry]:
    """Its receipts, each checked, or the end of the program."""
    try:
        yield from published.entries
    except EpochInvalid as error:
        fail(in_file(file, error))
