"""Who brought whom: once, at sign-up, by somebody who was there before, and never in a circle."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import replace

import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from browsers import OPEN, PASSWORD, House
from cxp2p_gateway.people import FormWrong
from cxp2p_gateway.store.rows import User

RULES = replace(OPEN, referrals_max=3)
NUMBERS = st.integers(0, 7)
ACTS = st.one_of(
    st.tuples(st.just("sign up"), NUMBERS, st.one_of(NUMBERS, st.sampled_from(["", "usr_nobody", "their own e-mail"]))),
    st.tuples(st.sampled_from(["disable", "enable", "set password", "make admin"]), NUMBERS, st.just("")),
)


async def play(house: House, acts: list[tuple[str, int, int | str]]) -> dict[str, str | None]:
    """Does it all; returns who was said to have brought each, at their sign-up."""
    said: dict[str, str | None] = {}
    for what, number, by in acts:
        ids = list(house.tables.people)
        email = f"{number}@example.org"
        if what == "sign up":
            code = (ids[by] if by < len(ids) else "") if isinstance(by, int) else by
            with suppress(FormWrong):
                made = (
                    await house.people.sign_up(email, PASSWORD, email if by == "their own e-mail" else code, None)
                ).user
                said[made.id] = made.referred_by
        elif number < len(ids):
            match what:
                case "set password":
                    await house.people.set_password(ids[number], None, PASSWORD[::-1])
                case "make admin":
                    await house.people.set_admin(ids[number], True)
                case _:
                    await house.people.set_disabled(ids[number], what == "disable")
    return said


def ancestors(people: dict[str, User], user_id: str) -> list[str]:
    """Who brought them, who brought those, and so on; ends if it is a circle."""
    found: list[str] = []
    brought_by = people[user_id].referred_by
    while brought_by is not None and brought_by not in found:
        found.append(brought_by)
        brought_by = people[brought_by].referred_by
    return found


@settings(max_examples=60, deadline=None)
@given(st.lists(ACTS, max_size=25))
def test_nobody_is_brought_twice_or_in_a_circle(acts: list[tuple[str, int, int | str]]) -> None:
    """Whatever sign-ups and other acts there are: what was said at the sign-up stays, and is paid once."""

    async def main() -> None:
        house = House(rules=RULES)
        said = await play(house, acts)
        people = house.tables.people
        assert {each.id: each.referred_by for each in people.values()} == said
        order = list(people)
        for user_id in people:
            line = ancestors(people, user_id)
            assert user_id not in line
            assert all(order.index(older) < order.index(user_id) for older in line)
        brought = Counter(each.referred_by for each in people.values() if each.referred_by is not None)
        for user_id in people:
            gifts = RULES.referral_credit * min(brought[user_id], RULES.referrals_max)
            assert (await house.store.balance(user_id)).balance == RULES.signup_credit + gifts
        names = [each.id for each in house.tables.transfers.values() if each.id.startswith("referral:")]
        assert len(names) == len(set(names)) == sum(min(count, RULES.referrals_max) for count in brought.values())
        assert await house.store.audit() == ()

    trio.run(main)


async def test_a_code_is_of_somebody_who_is_there_and_may_be() -> None:
    """One's own cannot be used, as it is not known before; nor one of who is shut out, nor a second one later."""
    house = House(rules=RULES)
    ada = (await house.people.sign_up("ada@example.org", PASSWORD, "", None)).user
    await house.people.set_disabled(ada.id, True)
    bob = (await house.people.sign_up("bob@example.org", PASSWORD, ada.id, None)).user
    assert bob.referred_by is None
    await house.people.set_disabled(ada.id, False)
    with suppress(FormWrong):
        await house.people.sign_up("bob@example.org", PASSWORD, ada.id, None)
    assert house.tables.people[bob.id].referred_by is None
    assert house.tables.referred_count(ada.id) == 0
