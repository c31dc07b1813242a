"""Shows how far a fetch is: a bar on a terminal, a line now and then elsewhere, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bar

from cxp2p_node.models import Progress

LINE_EVERY = 0.1  # of the whole
JSON_EVERY = 0.05


@contextmanager
def show_progress(name: str, *, as_json: bool) -> Iterator[Progress]:
    """Gives what `Store.pull` calls. JSON goes to standard output, all else to standard error."""
    if as_json:
        yield _Steps(
            JSON_EVERY, lambda facts: click.echo(json.dumps({"event": "progress", "model": name, **facts}))
        ).tell
    elif sys.stderr.isatty():
        with _bar() as bar:
            task = bar.add_task(name, total=None, visible=False)
            yield lambda what, done, total: bar.update(
                task, description=f"{what} {name}", completed=done, total=total or None, visible=True
            )
    else:
        yield _Steps(LINE_EVERY, lambda facts: click.echo(_line(name, facts), err=True)).tell


def _bar() -> Bar:
    return Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def _line(name: str, facts: dict[str, object]) -> str:
    done, total = facts["bytes"], facts["bytes_total"]
    assert isinstance(done, int)
    assert isinstance(total, int)
    amount = f": {done / 1e6:.0f} of {total / 1e6:.0f} MB" if total else ""
    return f"{facts['what']} {name}{amount}"


class _Steps:
    """Passes on only what is news: another phase, or another step of the whole."""

    def __init__(self, step: float, tell: Callable[[dict[str, object]], None]) -> None:
        self._step = step
        self._tell = tell
        self._last: tuple[str, int] = ("", -1)

    def tell(self, what: str, done: int, total: int) -> None:
        at = int(done / total / self._step) if total else 0
        if (what, at) != self._last:
            self._last = (what, at)
            self._tell({"what": what, "bytes": done, "bytes_total": total})
