"""What was used: the member's front page, charts of use, and the apps it was used by."""

from __future__ import annotations

from cxp2p_gateway.dashboard.charts import Chart, Used, columns, days_back, used
from cxp2p_gateway.dashboard.desk import Desk, Reply
from cxp2p_gateway.dashboard.public_pages import chat_snippets
from cxp2p_gateway.dashboard.visits import Visit
from cxp2p_gateway.keys import Kind
from cxp2p_gateway.moments import day_of
from cxp2p_gateway.store.rows import GroupBy, UseQuery, UseSum

SPANS = (7, 30, 90)


async def sums_by(desk: Desk, account: str, days: int, by: GroupBy, key: str | None = None) -> tuple[UseSum, ...]:
    """What an account used in the last days, with one key or with all."""
    listed = days_back(day_of(desk.wall_ms()), days)
    query = UseQuery(first_day=listed[0], last_day=listed[-1], group_by=by, account=account, key=key)
    return await desk.store.uses(query)


async def day_chart(desk: Desk, account: str, days: int, key: str | None = None) -> dict[str, Chart]:
    """Requests, and credit spent, on each of the last days."""
    by_day = {each.name: each for each in used(await sums_by(desk, account, days, GroupBy.DAY, key))}
    listed = days_back(day_of(desk.wall_ms()), days)
    nothing = Used("", 0, 0, 0, 0.0)
    return {
        "requests": columns([(day, by_day.get(day, nothing).requests) for day in listed]),
        "charge": columns([(day, by_day.get(day, nothing).charge) for day in listed]),
    }


async def overview_page(desk: Desk, visit: Visit) -> Reply:
    """What a member sees first."""
    assert visit.user is not None
    account = visit.user.id
    keys = await desk.ring.list(account)
    return desk.page(
        visit,
        "overview.html",
        live=desk.network(),
        balance=await desk.store.balance(account),
        keys_valid=sum(key.revoked_at_ms is None for key in keys),
        chart=await day_chart(desk, account, 14),
        latest=await desk.store.latest_generations(account, 5),
        snippets=chat_snippets(desk, visit, account),
    )


async def usage_page(desk: Desk, visit: Visit) -> Reply:
    """Use by day, model, app and key."""
    assert visit.user is not None
    account, days = visit.user.id, _span(visit)
    names = {key.id: key.name or ("Base key" if key.kind is Kind.BASE else "") for key in await desk.ring.list(account)}
    lists = {by: used(await sums_by(desk, account, days, by)) for by in (GroupBy.MODEL, GroupBy.APP, GroupBy.KEY)}
    return desk.page(
        visit,
        "usage.html",
        days=days,
        spans=SPANS,
        chart=await day_chart(desk, account, days),
        lists=lists,
        key_names=names,
    )


async def apps_page(desk: Desk, visit: Visit) -> Reply:
    """The apps that named themselves."""
    assert visit.user is not None
    days = _span(visit)
    apps = used(await sums_by(desk, visit.user.id, days, GroupBy.APP))
    return desk.page(visit, "apps.html", days=days, spans=SPANS, apps=apps)


def _span(visit: Visit) -> int:
    asked = visit.asked("days")
    return next((span for span in SPANS if asked == str(span)), 30)
