"""Real gateways and nodes in one loop: what happens to callers, books and streams when programs come and go."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
import trio

from cxp2p import protocols
from cxp2p.net.rhythm import Rhythm
from simulations.calling import Answer
from simulations.day import CALM_LAYOUT, End, Plan, Request, Trouble, end_of, live, traffic
from simulations.layout import Layout
from simulations.programs import GatewayProgram, NodeProgram, Programs, run_programs

T = TypeVar("T")

SMALL = Layout(nodes=3, gateways=2, units_per_s=(10.0, 10.0))
SMALL_DAY = Plan(layout=replace(CALM_LAYOUT, nodes=6, gateways=2), hours=3.0, requests=80, crowd=40, troubles=1)
LONG = Request(at_s=0, gateway=0, words=30, streamed=True, leave_after_s=None)


def in_network(act: Callable[[Programs], Awaitable[T]], layout: Layout = SMALL) -> T:
    """Does something in a network, and asserts that nothing of it is left in the books, nodes and streams."""

    async def acted(programs: Programs) -> T:
        done = await act(programs)
        await programs.calm()
        await programs.settled()
        await trio.sleep(5)
        assert await programs.faults() == []
        return done

    return run_programs(layout, acted)


async def asked(gateway: GatewayProgram, request: Request, answers: list[Answer]) -> None:
    answers.append(await gateway.ask(request.text, streamed=request.streamed, leave_after_s=request.leave_after_s))


def at_work(programs: Programs) -> NodeProgram:
    return max(programs.nodes, key=lambda node: node.running)


@pytest.mark.slow
def test_a_day_loses_no_job() -> None:
    """Every request ends with an answer or a clear error, whatever befalls the programs, and nothing is left of it."""
    day = live(SMALL_DAY)

    assert day.wrong == []
    assert day.faults == []
    assert sum(day.ends.values()) == SMALL_DAY.requests + SMALL_DAY.crowd
    assert day.ends[End.ANSWERED] > 90
    assert day.ends[End.LEFT] > 0
    assert day.booked["stop"] >= day.ends[End.ANSWERED]
    assert set(day.troubles) == set(Trouble)
    assert day.tasks[0] == day.tasks[1]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_day() -> None:
    """To the byte and the microsecond, and another one another day."""
    plan = replace(SMALL_DAY, hours=1.0, requests=30, crowd=10)
    other = replace(plan, layout=replace(plan.layout, seed=2))

    first = live(plan)
    assert live(plan) == first
    assert live(other).digest != first.digest


@pytest.mark.slow
def test_a_day_does_not_depend_on_the_process() -> None:
    """Hashes of strings differ from process to process, days do not."""
    code = (
        "from dataclasses import replace; from simulations.day import *; "
        "layout = replace(CALM_LAYOUT, nodes=6, gateways=2); "
        "print(live(Plan(layout=layout, hours=1.0, requests=30, crowd=10, troubles=1)).digest)"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }

    assert len(digests) == 1


@pytest.mark.slow
def test_a_day_of_fifty_nodes_and_five_gateways() -> None:
    """A thousand requests, a crowd, and a dozen programs that drain and crash: no job is lost and nothing is left."""
    plan = Plan()
    day = live(plan)

    assert day.wrong == []
    assert day.faults == []
    assert day.ended_at_s > 86_400
    assert sum(day.ends.values()) == plan.requests + plan.crowd
    assert day.ends[End.ANSWERED] > 1000
    assert all(day.troubles[trouble] == plan.troubles for trouble in Trouble)
    assert day.tasks[0] == day.tasks[1]


def test_a_caller_that_leaves_stops_the_node() -> None:
    """Within a second, and pays for what was made until then."""

    async def act(programs: Programs) -> int:
        leaving = replace(LONG, leave_after_s=1.0)
        answers: list[Answer] = []
        await asked(programs.gateways[0], leaving, answers)
        assert end_of(leaving, answers[0]) is End.LEFT
        await trio.sleep(1)
        running = sum(node.running for node in programs.nodes)
        assert (await programs.booked())["cancelled"] == 1
        return running

    assert in_network(act) == 0


@pytest.mark.parametrize("streamed", [False, True])
def test_who_finds_no_room_is_told_so(streamed: bool) -> None:
    """Twice as many requests as there are places: half are answered, the others get a reason and when to come back."""
    request = replace(LONG, words=10, streamed=streamed)
    places = SMALL.nodes * (SMALL.slots + SMALL.queue_max)

    async def act(programs: Programs) -> list[Answer]:
        answers: list[Answer] = []
        async with trio.open_nursery() as nursery:
            for number in range(2 * places):
                nursery.start_soon(asked, programs.gateways[number % 2], request, answers)
        return answers

    answers = in_network(act)
    ends = [end_of(request, answer) for answer in answers]
    refused = [answer for answer in answers if end_of(request, answer) is End.REFUSED]
    assert set(ends) == {End.ANSWERED, End.REFUSED}
    assert ends.count(End.ANSWERED) == places
    assert all(answer.status in (429, 503) and "retry-after" in answer.headers for answer in refused)


def test_a_node_that_drains_ends_its_jobs_and_gets_no_more() -> None:
    """What runs there comes to its end; what comes meanwhile goes to the others; started again, it works again."""

    async def act(programs: Programs) -> None:
        answers: list[Answer] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(asked, programs.gateways[0], LONG, answers)
            await trio.sleep(1)
            leaving = at_work(programs)
            nursery.start_soon(leaving.stop)
            await trio.sleep(0.5)
            for _ in range(6):
                nursery.start_soon(asked, programs.gateways[1], replace(LONG, words=3), answers)
            await trio.sleep(0.5)
            assert leaving.running == 1
        assert not leaving.is_up
        assert all(answer.status == 200 and answer.complete for answer in answers)
        assert len(answers) == 7
        await leaving.start()
        await programs.settled()

    in_network(act)


def test_a_gateway_that_drains_ends_its_answers_and_refuses_others() -> None:
    """A stream that runs is whole, a new request is told to come back, and the key works after the restart."""
    short = replace(LONG, words=3)

    async def act(programs: Programs) -> None:
        gateway, answers = programs.gateways[0], list[Answer]()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(asked, gateway, LONG, answers)
            await trio.sleep(1)
            nursery.start_soon(gateway.stop)
            await trio.sleep(0.1)
            await asked(gateway, short, answers)
        assert [(end_of(LONG, answers[1])), answers[0].status] == [End.ANSWERED, 503]
        await gateway.start()
        await programs.settled()
        await asked(gateway, short, answers)
        assert end_of(short, answers[2]) is End.ANSWERED

    in_network(act)


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_gateway_that_crashes_holds_nothing_when_it_is_back(on_disk: bool, tmp_path: Path) -> None:
    """Its caller is cut off, its node is free at once, and its books are whole after the restart: same key, no hold."""
    layout = replace(SMALL, books_path=tmp_path if on_disk else None)
    short = replace(LONG, words=3)

    async def act(programs: Programs) -> None:
        gateway, answers = programs.gateways[0], list[Answer]()
        await asked(gateway, short, answers)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(asked, gateway, LONG, answers)
            await trio.sleep(1)
            await gateway.crash()
        assert end_of(LONG, answers[1]) is End.CUT
        await trio.sleep(1)
        assert not any(node.running for node in programs.nodes)
        faults = await programs.faults()
        assert any("gateway 0 still holds" in fault for fault in faults)
        await gateway.start()
        await programs.settled()
        await asked(gateway, short, answers)
        assert end_of(short, answers[2]) is End.ANSWERED
        assert (await programs.booked())["stop"] == 2

    in_network(act, layout)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_node_that_crashes_in_the_middle(streamed: bool) -> None:
    """A stream that began ends with an error event; a plain answer too is never half; nothing is charged."""
    request = replace(LONG, streamed=streamed)

    async def act(programs: Programs) -> Answer:
        answers: list[Answer] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(asked, programs.gateways[0], request, answers)
            await trio.sleep(1)
            crashed = at_work(programs)
            await crashed.crash()
        assert not (await programs.booked())
        await crashed.start()
        await programs.settled()
        return answers[0]

    assert end_of(request, in_network(act)) in ({End.BROKEN} if streamed else {End.REFUSED, End.ANSWERED})


def test_a_node_that_hangs_is_noticed_by_its_beat() -> None:
    """At the true rhythm: within four seconds its job has failed, and others go elsewhere."""

    async def act(programs: Programs) -> float:
        answers: list[Answer] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(asked, programs.gateways[0], LONG, answers)
            await trio.sleep(1)
            hanging, hung_at = at_work(programs), programs.now
            assert hanging.network is not None
            hanging.network.hang()
        took_s = programs.now - hung_at
        assert end_of(LONG, answers[0]) is End.BROKEN
        await asked(programs.gateways[1], replace(LONG, words=3), answers)
        hanging.network.wake()
        assert end_of(replace(LONG, words=3), answers[1]) is End.ANSWERED
        await trio.sleep(70)  # it was suspended
        return took_s

    assert in_network(act) < 4.5


def test_what_is_left_is_seen() -> None:
    """A hold that nobody ended, a job and a stream: each is a fault."""

    async def act(programs: Programs) -> list[str]:
        gateway, node = programs.gateways[0], programs.nodes[0]
        assert gateway.network is not None
        assert node.node is not None
        with gateway.books.open() as store:
            (account,) = await store.accounts()
            await store.reserve("forgotten", account, 5, programs.wall_ms() + 60_000)
        stream = await gateway.network.open(node.identity.peer, protocols.JOB)
        next(iter(node.node.benches.values())).desk.running += 1
        found = await programs.faults()
        await stream.reset()
        return found

    found = " / ".join(run_programs(SMALL, act))
    assert "gateway 0 still holds" in found
    assert "node 0 counts 1 jobs" in found
    assert protocols.JOB in found


def test_traffic_is_more_by_day_than_by_night() -> None:
    """And comes in order of time, within the day."""
    requests = traffic(Plan(requests=2000, crowd=0))
    hours = [request.at_s / 3600 for request in requests]

    assert hours == sorted(hours)
    assert sum(13 < hour < 17 for hour in hours) > 2 * sum(1 < hour < 5 for hour in hours)


@pytest.mark.parametrize("field", ["beat_s", "exchange_s", "lookup_s_max", "turn_s", "claim_s", "tidy_s"])
@pytest.mark.parametrize("seconds", [0.0, -1.0, 601.0])
def test_a_rhythm_within_which_offers_expire_is_none(field: str, seconds: float) -> None:
    """Its name and what was expected are told."""
    with pytest.raises(ValueError, match=f"{field} is {seconds:g}, expected more than 0 and at most 600"):
        Rhythm(**{field: seconds})  # type: ignore[arg-type]
