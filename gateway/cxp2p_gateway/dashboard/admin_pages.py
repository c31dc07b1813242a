"""For the operator: accounts, nodes, and how the gateway is."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

from cxp2p.ledger import Account
from cxp2p_gateway.dashboard.desk import Desk, Reply, go
from cxp2p_gateway.dashboard.refusals import Refused, no_page
from cxp2p_gateway.dashboard.visits import PAGES_MAX, Visit
from cxp2p_gateway.spending import MICRO
from cxp2p_gateway.store.rows import User
from cxp2p_gateway.store.tables import Tables

PAGE = "/dashboard/admin"
PAGE_SIZE = 25
GRANT_CREDITS_MAX = 1_000_000


async def admin_page(desk: Desk, visit: Visit) -> Reply:
    """Accounts, oldest first, the live nodes, and the gateway's own state."""
    number = visit.page_number

    def look(tables: Tables) -> tuple[int, list[tuple[User, Account]]]:
        found = tables.users(PAGE_SIZE + 1, (number - 1) * PAGE_SIZE)
        return tables.user_count(), [(user, tables.account(user.id)) for user in found]

    count, found = await desk.store.read(look)
    return desk.page(
        visit,
        "admin.html",
        accounts=found[:PAGE_SIZE],
        count=count,
        number=number,
        has_more=len(found) > PAGE_SIZE and number < PAGES_MAX,
        live=desk.network(),
        state=desk.state(),
        done=visit.asked("done"),
        grant_id=desk.rng.getrandbits(64),
    )


async def disable(desk: Desk, visit: Visit) -> Reply:
    """Shuts an account out."""
    return await _set_disabled(desk, visit, True)


async def enable(desk: Desk, visit: Visit) -> Reply:
    """Lets an account in again."""
    return await _set_disabled(desk, visit, False)


async def _set_disabled(desk: Desk, visit: Visit, disabled: bool) -> Reply:
    assert visit.user is not None
    account = visit.params["account"]
    if account == visit.user.id:
        raise Refused(400, "own_account", "You cannot shut yourself out.")
    if await desk.people.set_disabled(account, disabled) is None:
        raise no_page()
    return go(f"{PAGE}?done={'disabled' if disabled else 'enabled'}")


async def give_credit(desk: Desk, visit: Visit) -> Reply:
    """Gives an account credit; the same form sent twice gives it once."""
    account = visit.params["account"]
    try:
        credits = Decimal(visit.said("credits").strip()[:32])
    except InvalidOperation:
        credits = Decimal(0)
    grant_id = visit.said("grant_id")
    if not credits.is_finite() or not 0 < credits <= GRANT_CREDITS_MAX:
        raise Refused(400, "invalid_form", f"Credits are more than 0, and at most {GRANT_CREDITS_MAX:,}.")
    if not (grant_id.isascii() and grant_id.isdigit() and len(grant_id) <= 20):
        raise Refused(400, "invalid_form", "This form is not whole: load the page again.")
    if await desk.store.read(lambda tables: tables.user(account)) is None:
        raise no_page()
    await desk.store.grant(f"gift:{account}:{grant_id}", account, int(credits * MICRO))
    return go(f"{PAGE}?done=credit")
