"""How quick simulations are: bare events a second, and jobs a second with all rules, one core.

The peer of the events is a heap and a call and nothing else; that of the jobs is the same world with real signatures.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

from benchmarks.figures import ROUNDS, Figure, Goal, Rate
from simulations.engines import make_capability
from simulations.signing import QuickSigning, RealSigning, Signing
from simulations.town import Town
from simulations.traffic import Traffic, steady
from simulations.world import World

EVENTS_S_MIN = 200_000
WAITING = 1000  # events that are to come at any time
NODES, RATE = 40, 4.0


def measure(seconds: float) -> list[Figure]:
    """Both in about `seconds`."""
    share_s = seconds / (4 * ROUNDS)
    rates: list[list[float]] = [[], [], [], []]
    for _ in range(ROUNDS):
        once = _world(share_s), _heap(share_s), _jobs(share_s, QuickSigning()), _jobs(share_s, RealSigning())
        for into, rate in zip(rates, once, strict=True):
            into.append(rate)
    events, heap, quick, real = (Rate.of(values) for values in rates)
    goal = Goal(value_min=EVENTS_S_MIN)
    return [
        Figure(name="events/s", ours=events, peer=heap, peer_is="a heap and a call", goal=goal),
        Figure(name=f"jobs/s, {NODES} nodes", ours=quick, peer=real, peer_is="the same with Ed25519"),
    ]


def _for_as_long(seconds: float, step: Callable[[], int]) -> float:
    """How many a second, of what `step` counts."""
    started, count = time.perf_counter(), 0
    while (took := time.perf_counter() - started) < seconds:
        count += step()
    return count / took


def _world(seconds: float) -> float:
    world = World(1)

    def again() -> None:
        world.after(0.001 * WAITING, again)

    for number in range(WAITING):
        world.at(0.001 * number, again)

    def step() -> int:
        before = world.events
        world.run(world.now + 5.0)
        return world.events - before

    return _for_as_long(seconds, step)


def _heap(seconds: float) -> float:
    heap: list[tuple[float, int, Callable[..., Any]]] = []
    orders = iter(range(10**12))
    now = 0.0

    def again() -> None:
        heappush(heap, (now + 0.001 * WAITING, next(orders), again))

    for number in range(WAITING):
        heappush(heap, (0.001 * number, next(orders), again))

    def step() -> int:
        nonlocal now
        for _ in range(5000):
            now, _, act = heappop(heap)
            act()
        return 5000

    return _for_as_long(seconds, step)


def _jobs(seconds: float, signing: Signing) -> float:
    world = World(1)
    town = Town(world, signing)
    gateway = town.add_gateway()
    for _ in range(NODES):
        town.add_node(make_capability())
    Traffic(world, [gateway], steady(RATE), RATE, end=1e9)
    world.run(60.0)

    def step() -> int:
        before = len(town.outcomes)
        world.run(world.now + 5.0)
        return len(town.outcomes) - before

    return _for_as_long(seconds, step)
