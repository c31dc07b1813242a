"""Transactions of a node's papers, for the one thread that keeps them (`cxp2p.writing`)."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from functools import partial
from typing import TypeAlias

import outcome

from cxp2p import writing
from cxp2p_node.papers import PapersError

OpenConnection: TypeAlias = Callable[[], AbstractContextManager[sqlite3.Connection]]
Writer: TypeAlias = writing.Writer[sqlite3.Connection]


def open_writer(open_connection: OpenConnection, begin: str = "BEGIN IMMEDIATE") -> AbstractAsyncContextManager[Writer]:
    """The writer over this connection, see `cxp2p.writing.open_writer`. What cannot be written raises PapersError."""
    return writing.open_writer(
        open_connection, partial(_transact, begin), _told, PapersError("the node's papers are closed")
    )


def _transact(begin: str, connection: sqlite3.Connection, batch: Sequence[writing.Pending[sqlite3.Connection]]) -> bool:
    connection.execute(begin)
    try:
        for pending in batch:
            if not _do(connection, pending, alone=len(batch) == 1):
                return False
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    return True


def _do(connection: sqlite3.Connection, pending: writing.Pending[sqlite3.Connection], *, alone: bool) -> bool:
    """One act; whether there is something to commit. In a savepoint, which one that is alone does not need.

    SQLite ends a whole transaction by itself when the disk is full: then all of it fails.
    """
    if not alone:
        connection.execute("SAVEPOINT act")
    pending.result = outcome.capture(pending.act, connection)
    if isinstance(pending.result, outcome.Error):
        error = pending.result.error
        if not connection.in_transaction and not alone:
            raise error
        if isinstance(error, sqlite3.Error):
            pending.result = outcome.Error(_told(error))
        if alone:
            return False
        connection.execute("ROLLBACK TO act")
    if not alone:
        connection.execute("RELEASE act")
    return True


def _told(error: BaseException) -> PapersError:
    return PapersError(f"the node's papers cannot be written: {error}")
