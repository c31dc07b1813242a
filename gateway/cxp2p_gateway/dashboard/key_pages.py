"""An account's keys: what they may, what they used; made, changed, renewed and revoked."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation

from cxp2p.records import Service
from cxp2p_gateway.dashboard.desk import Desk, Reply, go
from cxp2p_gateway.dashboard.public_pages import SERVICES
from cxp2p_gateway.dashboard.refusals import Refused, no_page
from cxp2p_gateway.dashboard.use_pages import day_chart
from cxp2p_gateway.dashboard.visits import Visit
from cxp2p_gateway.key_ring import KeyIsBase, KeyRevoked, KeysTooMany, KeyUnknown, TermWrong, terms_of
from cxp2p_gateway.keys import Kind, Terms, usable
from cxp2p_gateway.spending import MICRO, Reset

PAGE = "/dashboard/keys"
GRACES_S = {0: "at once", 3600: "in an hour", 86_400: "in a day", 7 * 86_400: "in a week"}
EMPTY = {
    "name": "",
    "spend_limit": "",
    "spend_reset": "never",
    "models": "",
    "rpm": "",
    "tpm": "",
    "max_parallel": "",
    "expires_at": "",
}


async def keys_page(desk: Desk, visit: Visit) -> Reply:
    """All keys, and the form for one more."""
    return await _listed(desk, visit, dict(EMPTY), (), None)


async def _listed(
    desk: Desk, visit: Visit, said: dict[str, str], services: tuple[str, ...], wrong: TermWrong | None
) -> Reply:
    assert visit.user is not None
    keys = await desk.ring.list(visit.user.id)
    standings = {key.id: await desk.ring.standing(key) for key in keys if key.spend_limit is not None}
    return desk.page(
        visit,
        "keys.html",
        status=200 if wrong is None else 400,
        keys=[(key, usable(key, desk.wall_ms()), standings.get(key.id)) for key in keys],
        said=said,
        chosen=services,
        wrong=wrong,
        services=SERVICES,
        resets=[each.value for each in Reset],
        done=visit.asked("done"),
    )


async def make_key(desk: Desk, visit: Visit) -> Reply:
    """Makes a virtual key, and shows it: the only time."""
    assert visit.user is not None
    try:
        made = await desk.ring.make(visit.user.id, _terms(visit))
    except TermWrong as wrong:
        said = {name: visit.said(name)[:2000] for name in EMPTY}
        return await _listed(desk, visit, said, tuple(visit.form.get("services", ())), wrong)
    except KeysTooMany as error:
        raise Refused(403, "keys_too_many", f"There is no room for more: {error}. Revoke one first.") from None
    return desk.page(visit, "key_shown.html", key=made.key, text=made.text, is_new=True, grace="")


async def key_page(desk: Desk, visit: Visit) -> Reply:
    """One key: what it may, what it used, and what can be done with it."""
    return await _shown(desk, visit, None, None)


async def _shown(desk: Desk, visit: Visit, said: dict[str, str] | None, wrong: TermWrong | None) -> Reply:
    assert visit.user is not None
    try:
        key = await desk.ring.key(visit.user.id, visit.params["key"])
    except KeyUnknown:
        raise no_page() from None
    return desk.page(
        visit,
        "key.html",
        status=200 if wrong is None else 400,
        key=key,
        is_base=key.kind is Kind.BASE,
        is_usable=usable(key, desk.wall_ms()),
        standing=await desk.ring.standing(key),
        chart=await day_chart(desk, visit.user.id, 30, key.id),
        said=said or _said(terms_of(key)),
        chosen=key.services if said is None else tuple(visit.form.get("services", ())),
        wrong=wrong,
        services=SERVICES,
        resets=[each.value for each in Reset],
        graces=GRACES_S,
        done=visit.asked("done"),
    )


async def change_key(desk: Desk, visit: Visit) -> Reply:
    """Gives a virtual key other limits."""
    assert visit.user is not None
    key_id = visit.params["key"]
    try:
        terms = _terms(visit)
        await desk.ring.change(visit.user.id, key_id, lambda before: terms)
    except TermWrong as wrong:
        return await _shown(desk, visit, {name: visit.said(name)[:2000] for name in EMPTY}, wrong)
    except (KeyUnknown, KeyRevoked, KeyIsBase) as error:
        raise _refused(error) from None
    return go(f"{PAGE}/{key_id}?done=changed")


async def rotate_key(desk: Desk, visit: Visit) -> Reply:
    """A new secret for a key, shown now and never again."""
    assert visit.user is not None
    grace = visit.said("grace_s") or "0"
    grace_s = int(grace) if grace.isascii() and grace.isdigit() and int(grace[:9]) in GRACES_S else 0
    try:
        made = await desk.ring.rotate(visit.user.id, visit.params["key"], grace_s)
    except (KeyUnknown, KeyRevoked) as error:
        raise _refused(error) from None
    return desk.page(visit, "key_shown.html", key=made.key, text=made.text, is_new=False, grace=GRACES_S[grace_s])


async def revoke_key(desk: Desk, visit: Visit) -> Reply:
    """Ends a virtual key."""
    assert visit.user is not None
    try:
        await desk.ring.revoke(visit.user.id, visit.params["key"])
    except (KeyUnknown, KeyIsBase) as error:
        raise _refused(error) from None
    return go(f"{PAGE}?done=revoked")


def _refused(error: Exception) -> Refused:
    if isinstance(error, KeyUnknown):
        return no_page()
    return Refused(400, "key_unchangeable", f"{str(error).capitalize()}.")


def _terms(visit: Visit) -> Terms:
    """What the form says. Raises TermWrong."""
    reset = visit.said("spend_reset") or "never"
    if reset not in {each.value for each in Reset}:
        raise TermWrong("spend_reset", "it is not one of " + ", ".join(each.value for each in Reset))
    services = tuple(dict.fromkeys(visit.form.get("services", ())))
    models = (line.strip() for line in visit.said("models").replace(",", "\n").splitlines())
    return Terms(
        name=visit.said("name").strip(),
        spend_limit=_micro(visit.said("spend_limit")),
        spend_reset=Reset(reset),
        services=() if len(services) == len(Service) else services,
        models=tuple(dict.fromkeys(model for model in models if model)),
        rpm=_whole(visit.said("rpm"), "rpm"),
        tpm=_whole(visit.said("tpm"), "tpm"),
        parallel_max=_whole(visit.said("max_parallel"), "max_parallel"),
        expires_at_ms=_end_of(visit.said("expires_at")),
    )


def _said(terms: Terms) -> dict[str, str]:
    def shown(value: int | None) -> str:
        return "" if value is None else str(value)

    limit = "" if terms.spend_limit is None else f"{Decimal(terms.spend_limit) / MICRO:f}"
    end = "" if terms.expires_at_ms is None else f"{datetime.fromtimestamp(terms.expires_at_ms / 1000, UTC):%Y-%m-%d}"
    return {
        "name": terms.name,
        "spend_limit": limit,
        "spend_reset": terms.spend_reset.value,
        "models": "\n".join(terms.models),
        "rpm": shown(terms.rpm),
        "tpm": shown(terms.tpm),
        "max_parallel": shown(terms.parallel_max),
        "expires_at": end,
    }


def _micro(text: str) -> int | None:
    text = text.strip().replace(",", "")
    if not text:
        return None
    try:
        credits = Decimal(text[:32])
    except InvalidOperation:
        raise TermWrong("spend_limit", "write a number of credits, such as 5 or 0.25") from None
    if not credits.is_finite() or abs(credits) > 10**12:
        raise TermWrong("spend_limit", "write a number of credits, such as 5 or 0.25")
    return int(credits * MICRO)


def _whole(text: str, term: str) -> int | None:
    text = text.strip().replace(",", "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise TermWrong(term, "write a whole number")
    return int(text)


def _end_of(text: str) -> int | None:
    """The last moment of a day, UTC."""
    if not text.strip():
        return None
    try:
        day = datetime.strptime(text.strip()[:32], "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise TermWrong("expires_at", "write a day as 2027-01-31") from None
    return round(day.timestamp() * 1000) + 86_400_000 - 1
