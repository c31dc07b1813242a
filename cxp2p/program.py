"""How a long-running program starts, speaks and stops: shared by the bootstrap peer, the node and the gateway."""

from __future__ import annotations

import json
import logging
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import NoReturn

import click
import trio

from cxp2p.errors import CxError
from cxp2p.net.tasks import sole

LEAVE_S = 1.5  # after an interrupt: enough to close connections, short enough not to be interrupted twice
LOG_LEVELS = ("debug", "info", "warning", "error")
FIELDS = "fields"  # of a log record: what it says, by name, for whoever reads JSON


class LogForm(StrEnum):
    """How lines of the log look."""

    TEXT = "text"
    JSON = "json"


class JsonLines(logging.Formatter):
    """Each record as one object: when (RFC 3339, UTC), how bad, who says it, and what.

    What a record has in `fields` stands beside these; otherwise there is a `message`.
    """

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, object] = {"at": at, "level": record.levelname.lower(), "logger": record.name}
        line |= getattr(record, FIELDS, None) or {"message": record.getMessage()}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def set_up_logging(level: str, form: LogForm = LogForm.TEXT) -> None:
    """One line an event on standard error. libp2p's own noise is kept down where it is opened."""
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonLines() if form is LogForm.JSON else text)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def announce(facts: Mapping[str, object], text: str, *, as_json: bool) -> None:
    """Tells standard output that something a caller waits for is so: a line of text, or of JSON."""
    click.echo(json.dumps(facts) if as_json else text)
    sys.stdout.flush()


def plain(text: str) -> str:
    """Text from a stranger for a terminal: lines and tabs are kept, whatever would drive it is spelled out."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else ascii(letter)[1:-1] for letter in text)


def fail(error: Exception) -> NoReturn:
    """Ends the program with the error's own words."""
    click.echo(f"error: {error}", err=True)
    raise SystemExit(1)


def run(main: Callable[[trio.Event], Awaitable[None]]) -> None:
    """Runs `main` until it returns or a signal comes.

    SIGTERM sets the event that `main` gets: it should drain and return. SIGINT cancels `main`, which then has 1.5 s to
    leave. A CxError ends the program with its text and exit code 1.
    """
    try:
        trio.run(_run, main)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except (CxError, BaseExceptionGroup) as error:
        only = sole(error)
        if isinstance(only, CxError):
            fail(only)
        raise


async def _run(main: Callable[[trio.Event], Awaitable[None]]) -> None:
    draining = trio.Event()
    interrupted = False
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def heed() -> None:
                nonlocal interrupted
                async for number in signals:
                    if number == signal.SIGTERM and not draining.is_set():
                        draining.set()
                        continue
                    interrupted = True
                    nursery.cancel_scope.cancel()
                    signal.setitimer(signal.ITIMER_REAL, LEAVE_S)  # SIGALRM ends what does not leave by itself
                    return

            nursery.start_soon(heed)
            await main(draining)
            nursery.cancel_scope.cancel()
    signal.setitimer(signal.ITIMER_REAL, 0)
    if interrupted:
        raise SystemExit(130)
