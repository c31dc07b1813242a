"""A day of one city: chats, embeddings and speech follow the hours in which its people are awake. How busy do nodes
get, and what do users wait at the busiest hour, also if there are fewer nodes?
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random
from statistics import fmean

from cxp2p.records import Service
from simulations.demands import Demand, End, Outcome
from simulations.engines import Speed, make_capability
from simulations.links import Access, Place
from simulations.nodes import NodeModel
from simulations.percents import percent
from simulations.policies import by_chance
from simulations.rules import REAL
from simulations.scenario import Curve, Figures, Played, Scenario, Stage, percentile, usual_figures
from simulations.traffic import Traffic, drawn_units, usual_demand

CITY = "London"
# Web traffic of a day by hour: Sandvine, "The Mobile Internet Phenomena Report" (2021), read off for Traffic Weaver
# 1.5.4 (Lipiecki et al., dataset `sandvine_web`).
WEB_BY_HOUR = (
    *(0.3848, 0.1872, 0.2080, 0.2288, 0.2600, 0.5200, 0.6096, 0.6096, 0.7366, 0.7239, 0.7366, 0.7874),
    *(0.7296, 0.7296, 0.9006, 0.9234, 0.9006, 0.9462, 0.7696, 0.6864, 0.6344, 0.5616, 0.5720, 0.4784),
)
PARTS = {Service.CHAT: 0.7, Service.EMBED: 0.2, Service.SPEECH: 0.1}
SHARES = {Service.CHAT: 0.7, Service.EMBED: 0.15, Service.SPEECH: 0.15}  # of the nodes
JOBS_PER_NODE_S = 0.16  # in the mean of a day: half of what a chat node of four slots can do
GATEWAYS = 2
SPOKEN_UNITS_MEAN, SPOKEN_UNITS_MAX = 600.0, 3000  # of 20 ms here: twelve seconds, and a minute
POLICIES = {
    "router": "the network's own",
    "chance": "any node of the service",
    "fewer": "the network's own, with two thirds of the nodes",
}
SPEEDS = {
    Service.CHAT: Speed(),
    Service.EMBED: Speed(prompt_units_s=4000.0, output_units_s=1e9),
    Service.SPEECH: Speed(prompt_units_s=2000.0, output_units_s=400.0),  # eight times as quick as it is heard
}


def demand_of(number: int, rng: Random) -> Demand:
    """A chat, an embedding of some text, or a few sentences to be spoken."""
    chat = usual_demand(number, rng)
    service = rng.choices(list(PARTS), list(PARTS.values()))[0]
    if service is Service.EMBED:
        return replace(chat, service=service, model=service.value, in_units=drawn_units(rng, 800.0, 6000), out_units=0)
    if service is Service.SPEECH:
        spoken = drawn_units(rng, SPOKEN_UNITS_MEAN, SPOKEN_UNITS_MAX)
        return replace(
            chat, service=service, model=service.value, in_units=200, out_units=spoken, max_out=SPOKEN_UNITS_MAX
        )
    return replace(chat, model=service.value)


def play(stage: Stage) -> Played:
    """A day is as long as the run: a shorter one has fewer users, and as many at once."""
    town, world, peers, seconds = stage.town, stage.world, stage.setting.peers, stage.setting.seconds
    rng, home = world.rng("places"), Place(CITY, Access.FIBRE)
    rules = replace(REAL, rank=by_chance) if stage.policy == "chance" else REAL
    gateways = [town.add_gateway(Place(CITY), rules=rules) for _ in range(GATEWAYS)]
    usual = peers - GATEWAYS
    count = usual * 2 // 3 if stage.policy == "fewer" else usual
    for service, share in SHARES.items():
        for _ in range(max(1, round(share * count))):
            able = make_capability(service.value, service=service)
            place = home if rng.random() < 0.7 else Place(CITY, Access.CABLE)
            town.add_node(able, SPEEDS[service], place)
    per_hour = [each / fmean(WEB_BY_HOUR) for each in WEB_BY_HOUR]
    rate = JOBS_PER_NODE_S * usual

    def rate_at(time: float) -> float:
        return rate * per_hour[int(time / seconds * len(per_hour)) % len(per_hour)]

    loads: list[tuple[float, float]] = []
    _look(stage, [node for node in town.nodes.values() if node.capability.service is Service.CHAT], loads)
    Traffic(world, gateways, rate_at, rate * max(per_hour), end=seconds, make=demand_of)
    stage.run()
    curves = {"slots in use": Curve([at / seconds * 24 for at, _ in loads], [part for _, part in loads])}
    town.settle()
    return Played(figures=_figures(town.outcomes, loads, seconds), curves=curves)


def _look(stage: Stage, nodes: Sequence[NodeModel], loads: list[tuple[float, float]]) -> None:
    """Notes a hundred times how many percent of the slots for chats are taken."""
    world = stage.world
    running = sum(node.desk.running for node in nodes)
    loads.append((world.now, percent(running, sum(node.desk.slots for node in nodes))))
    if world.now < stage.setting.seconds:
        world.after(stage.setting.seconds / 100, _look, stage, nodes, loads)


def _figures(outcomes: Sequence[Outcome], loads: Sequence[tuple[float, float]], seconds: float) -> dict[str, float]:
    busiest = max(range(24), key=lambda hour: WEB_BY_HOUR[hour])
    peak = [each for each in outcomes if int(each.came_at / seconds * 24) == busiest]
    figures = {
        **usual_figures(outcomes),
        "busiest_done_percent": usual_figures(peak)["done_percent"],
        "chat_slots_mean_percent": fmean(part for _, part in loads),
        "chat_slots_max_percent": max(part for _, part in loads),
    }
    for service in PARTS:
        done = [each for each in peak if each.demand.service is service and each.end is End.DONE]
        firsts = [1000 * each.first_piece_s for each in done if each.first_piece_s is not None]
        figures[f"busiest_{service.value}_first_piece_p99_ms"] = percentile(firsts, 99)
    return figures


def conclude(figures: Mapping[str, Figures]) -> str:
    """What the busiest hour is like."""
    own, chance, fewer = figures["router"], figures["chance"], figures["fewer"]
    tails = [f"{each['busiest_chat_first_piece_p99_ms'] / 1000:.1f} s" for each in (own, chance, fewer)]
    return (
        f"With {own['chat_slots_mean_percent']:.0f} % of the slots for chats in use in the mean of a day and "
        f"{own['chat_slots_max_percent']:.0f} % at most, 99 of 100 chats of the busiest hour begin within {tails[0]} "
        f"({tails[1]} if nodes are chosen by chance); with a third fewer nodes within {tails[2]}, and "
        f"{fewer['busiest_done_percent']:.1f} % of that hour's jobs are done."
    )


SCENARIO = Scenario(
    policies=POLICIES,
    play=play,
    conclude=conclude,
    peers=32,
    hours=0.5,
    axes={"slots in use": ("hour of the day", "percent of the slots for chats that are in use")},
)
