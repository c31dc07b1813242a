"""One thread does what is asked of a node's papers: many acts in one commit, each whole or not at all."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
import trio

from cxp2p_node.papers import PapersError
from cxp2p_node.papers.sqlite import open_papers
from test_papers import paper


async def test_many_at_once_share_commits(tmp_path: Path) -> None:
    """A hundred orders that come together cost a few commits, and each is there."""
    async with open_papers(tmp_path / "receipts.db") as papers:
        before = papers.writer.commits
        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(papers.take, paper(number))
        commits = papers.writer.commits - before

        assert len(await papers.newest(200)) == 100
        assert commits < 50


async def test_one_that_fails_takes_no_other_with_it(tmp_path: Path) -> None:
    """Acts in one commit: only the wrong one is undone."""
    async with open_papers(tmp_path / "receipts.db") as papers:
        await papers.take(paper(3))
        failed: list[int] = []

        async def take(number: int) -> None:
            try:
                await papers.take(paper(number))
            except PapersError:
                failed.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(take, number)
        assert failed == [3]
        assert len(await papers.newest(20)) == 10


@pytest.mark.parametrize("count", [1, 10])
async def test_an_act_that_is_wrong_in_itself_stops_nobody(count: int, tmp_path: Path) -> None:
    """Its caller hears of it, alone or among others; the thread goes on."""

    def wrong(connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM papers")
        raise LookupError("a bug")

    async with open_papers(tmp_path / "receipts.db") as papers:
        await papers.take(paper(100))

        async def go_wrong() -> None:
            with pytest.raises(LookupError, match="a bug"):
                await papers.writer.do(wrong)

        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(go_wrong)
                for number in range(count - 1):
                    nursery.start_soon(papers.take, paper(number))
            assert len(await papers.newest(20)) == count
