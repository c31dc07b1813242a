"""A member's own account: its settings, and what it is rewarded for."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from cxp2p_gateway.archive import NEWEST
from cxp2p_gateway.dashboard.charts import used
from cxp2p_gateway.dashboard.desk import Desk, Reply, go
from cxp2p_gateway.dashboard.entry_pages import entered
from cxp2p_gateway.dashboard.visits import SESSION, Visit, set_cookie
from cxp2p_gateway.earnings import SHOWN_MAX, WHY, Hold
from cxp2p_gateway.people import FormWrong
from cxp2p_gateway.statements import EVER
from cxp2p_gateway.store import node_account

HOLDS: Final = {"held": Hold.HELD, "released": Hold.RELEASED}


async def account_page(desk: Desk, visit: Visit) -> Reply:
    """E-mail, base key, password, sessions."""
    return await _shown(desk, visit, None)


async def _shown(desk: Desk, visit: Visit, wrong: FormWrong | None) -> Reply:
    assert visit.user is not None
    return desk.page(
        visit,
        "account.html",
        status=200 if wrong is None else 400,
        base_key=await desk.people.base_key(visit.user.id),
        wrong=wrong,
        done=visit.asked("done"),
    )


async def change_password(desk: Desk, visit: Visit) -> Reply:
    """A new password; all other browsers are logged out."""
    assert visit.user is not None
    try:
        token = await desk.people.change_password(visit.user, visit.said("old"), visit.said("password"))
    except FormWrong as wrong:
        return await _shown(desk, visit, wrong)
    return entered(go("/dashboard/account?done=password"), desk, visit, token)


async def log_out_everywhere(desk: Desk, visit: Visit) -> Reply:
    """Ends all sessions of this account, this one too."""
    assert visit.user is not None
    await desk.people.log_out_everywhere(visit.user.id)
    return go("/login").also((set_cookie(SESSION, "", visit.is_secure, 0),))


async def rewards_page(desk: Desk, visit: Visit) -> Reply:
    """What was used in all, who was brought, and what one's own nodes earned."""
    assert visit.user is not None
    account = visit.user.id
    brought = await desk.store.read(lambda tables: tables.referred_count(account))
    nodes = [row for row in desk.network().rows if row.owner == account]
    rules = desk.people.rules
    earned = await desk.door.earnings.of_account(account, NEWEST, SHOWN_MAX)
    calendar = desk.door.earnings.calendar
    return desk.page(
        visit,
        "rewards.html",
        earned=[(each, calendar.begins_at_ms(each.epoch)) for each in earned],
        sums={name: sum(each.amount for each in earned if each.hold is hold) for name, hold in HOLDS.items()},
        points=sum(each.points for each in earned),
        why=WHY,
        link=f"{visit.own}/signup?ref={account}",
        brought=brought,
        rules=rules,
        by_service=used(await desk.store.uses(replace(EVER, account=account))),
        nodes=[(row, await desk.store.balance(node_account(row.peer))) for row in nodes],
    )
