from __future__ import annotations

from statistics import median

import pytest

from simulations.links import CITIES, LINES, ROUND_TRIP_MS, Access, Links, Place, Way, drawn_place
from simulations.world import World

HERE, THERE, FAR = Place("London"), Place("Frankfurt"), Place("Sydney")


def between(**places: Place) -> tuple[World, Links]:
    world = World(1)
    links = Links(world)
    for peer, place in places.items():
        links.place(peer, place)
    return world, links


def heard(links: Links, source: str, target: str) -> bool:
    """Whether a message arrives."""
    seen: list[str] = []
    links.send(source, target, 100, seen.append, "heard")
    links.world.run(links.world.now + 10.0)
    return bool(seen)


def test_the_table_is_whole_and_the_same_in_both_directions() -> None:
    """Every pair of cities has a distance, and cities that are far apart on the map are far apart in it."""
    assert len(ROUND_TRIP_MS) == len(CITIES) ** 2
    assert all(ROUND_TRIP_MS[one, other] == ROUND_TRIP_MS[other, one] for one, other in ROUND_TRIP_MS)
    assert ROUND_TRIP_MS["London", "Frankfurt"] == 13
    assert ROUND_TRIP_MS["Sao Paulo", "Sydney"] == 327
    assert ROUND_TRIP_MS["Tokyo", "Sao Paulo"] == 284
    assert ROUND_TRIP_MS["Osaka", "Tokyo"] == 9


def test_a_message_takes_half_a_round_trip_and_a_little_more() -> None:
    """In the middle of many: half of the published round trip, and what jitter adds."""
    _, links = between(a=HERE, b=FAR)
    delays_ms = [1000 * links.delay_s("a", "b", 0) for _ in range(1000)]

    assert min(delays_ms) >= 261 / 2
    assert median(delays_ms) == pytest.approx(261 / 2 * 1.08, rel=0.03)


def test_homes_are_slower_than_data_centres_and_large_messages_than_small_ones() -> None:
    """The last mile adds its own, and the narrower of both ends decides how long bytes take."""
    _, links = between(a=HERE, b=THERE, home=Place("Frankfurt", Access.CABLE))
    small = median(links.delay_s("a", "b", 0) for _ in range(300))
    at_home = median(links.delay_s("a", "home", 0) for _ in range(300))
    upload = median(links.delay_s("home", "a", 1_250_000) for _ in range(300))

    assert at_home - small == pytest.approx(0.013 * 1.08, rel=0.2)
    assert upload - at_home == pytest.approx(1.0, rel=0.05)


def test_what_is_lost_is_sent_again_later() -> None:
    """Loss is delay, as in any stream: the slowest of many messages waited for at least one more sending."""
    _, links = between(a=Place("London", Access.CABLE), b=Place("Frankfurt", Access.CABLE))
    delays = sorted(links.delay_s("a", "b", 0) for _ in range(20_000))
    late = sum(delay > 0.2 for delay in delays) / len(delays)

    assert late == pytest.approx(2 * LINES[Access.CABLE].loss, rel=0.4)


def test_a_cut_is_in_one_direction_and_a_split_in_both() -> None:
    """What is cut can be healed, and nothing else can."""
    _, links = between(a=HERE, b=THERE, c=FAR)

    links.cut(["a"], ["b"])
    assert not heard(links, "a", "b")
    assert heard(links, "b", "a")
    assert heard(links, "a", "c")
    links.heal(["a"], ["b"])
    assert heard(links, "a", "b")

    links.split(["a", "b"], ["c"])
    assert not heard(links, "a", "c")
    assert not heard(links, "c", "b")
    assert heard(links, "a", "b")
    links.join(["a", "b"], ["c"])
    assert heard(links, "c", "b")
    with pytest.raises(ValueError, match="not in list"):
        links.heal(["a"], ["b"])


def test_a_message_on_its_way_is_lost_when_the_wall_is_there_before_it() -> None:
    """What had not arrived when the peer went down does not arrive."""
    world, links = between(a=HERE, b=FAR)
    seen: list[str] = []
    links.send("a", "b", 100, seen.append, "heard")
    world.run(0.05)
    links.take_down("b")
    world.run(5.0)
    assert seen == []
    assert not links.is_up("b")

    links.bring_up("b")
    assert heard(links, "a", "b")


def test_a_stream_keeps_its_order() -> None:
    """However long single messages take, the first that was sent is the first that arrives."""
    world, links = between(a=Place("London", Access.CABLE), b=FAR)
    way, seen = Way(links, "a", "b"), list[int]()
    for number in range(300):
        way.send(20_000 if number % 7 == 0 else 20, seen.append, number)
    world.run(60.0)

    assert seen == list(range(300))


def test_a_city_that_is_not_on_the_map_is_refused() -> None:
    with pytest.raises(ValueError, match="city: 'Atlantis' is not one of Dallas, Toronto"):
        Place("Atlantis")


def test_places_are_drawn_from_all_cities_and_kinds_of_access() -> None:
    rng = World(2).rng("places")
    places = [drawn_place(rng) for _ in range(500)]

    assert {place.city for place in places} == set(CITIES)
    assert {place.access for place in places} == set(Access)
