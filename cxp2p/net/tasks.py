"""Tasks that run beside a block: they end with it, and its error comes out as it went in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


def sole(error: BaseException) -> BaseException:
    """The one exception inside nested groups, or the group itself if there are several."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


@asynccontextmanager
async def background() -> AsyncIterator[trio.Nursery]:
    """A nursery whose tasks are cancelled when the block ends.

    trio wraps what leaves a nursery into an ExceptionGroup. Here a single exception comes out bare, so that callers
    can write `except NoNode`.
    """
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        only = sole(group)
        if only is group:
            raise
        raise only from only.__cause__
