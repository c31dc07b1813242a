"""Room for large pages: never more than there is, first come, first served, and nothing is lost."""

from __future__ import annotations

from random import Random

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from cxp2p_node.scrape.room import LARGE_BYTES, Place, Room


async def test_there_is_never_more_than_there_is(autojump_clock: MockClock) -> None:
    """Whatever comes and goes, and whoever gives up waiting; at the end all of it is free."""
    rng = Random(4)
    room = Room(100)
    served = 0

    async def one(start_s: float, bytes_max: int, size: int, patience_s: float) -> None:
        nonlocal served
        place = Place(room)
        await trio.sleep(start_s)
        with trio.move_on_after(patience_s):
            try:
                await place.grow(bytes_max)
                assert room.used <= 100
                await trio.sleep(1)
                place.settle(size)
                await trio.sleep(1)
                served += 1
            finally:
                place.leave()

    async with trio.open_nursery() as nursery:
        for _ in range(500):
            bytes_max = rng.randint(1, 100)
            nursery.start_soon(one, rng.random() * 100, bytes_max, rng.randint(0, bytes_max), rng.choice((5.0, 1e4)))
    assert 200 <= served < 500
    assert room.used == 0


async def test_who_comes_first_is_served_first(autojump_clock: MockClock) -> None:
    """A large one is not kept waiting by small ones that come later."""
    room = Room(10)
    order: list[str] = []
    first = Place(room)
    await first.grow(6)

    async def one(name: str, size: int) -> None:
        place = Place(room)
        await place.grow(size)
        order.append(name)
        place.leave()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one, "large", 9)
        await wait_all_tasks_blocked()
        nursery.start_soon(one, "small", 2)
        await wait_all_tasks_blocked()
        assert not order
        first.settle(5)
        await wait_all_tasks_blocked()
        assert not order
        first.leave()
    assert order == ["large", "small"]


async def test_who_gives_up_makes_way(autojump_clock: MockClock) -> None:
    """For those behind him."""
    room = Room(10)
    await Place(room).grow(6)

    async def one(size: int, patience_s: float) -> None:
        with trio.move_on_after(patience_s):
            await Place(room).grow(size)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one, 8, 5.0)
        await wait_all_tasks_blocked()
        nursery.start_soon(one, 2, 60.0)
        await wait_all_tasks_blocked()
        assert room.used == 6
    assert trio.current_time() < 60
    assert room.used == 8


@pytest.mark.parametrize(("size", "used"), [(LARGE_BYTES, 0), (LARGE_BYTES + 1, LARGE_BYTES + 1)])
async def test_a_body_that_is_there_already_has_room_if_it_is_large(size: int, used: int) -> None:
    """Once, however often it is said."""
    room = Room(10 * LARGE_BYTES)
    place = Place(room)
    await place.share(size)
    await place.share(size)
    assert room.used == used
    place.leave()
    place.leave()
    assert room.used == 0
