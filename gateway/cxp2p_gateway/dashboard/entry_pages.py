"""How people come in and go out: sign-up, log-in, the first account's link, log-out."""

from __future__ import annotations

from cxp2p_gateway.dashboard.desk import Desk, Reply, go
from cxp2p_gateway.dashboard.refusals import Refused, forged
from cxp2p_gateway.dashboard.visits import SESSION, VISIT, Visit, set_cookie
from cxp2p_gateway.people import FormWrong, LinkSpent, Signup

HOME = "/dashboard"


def entered(reply: Reply, desk: Desk, visit: Visit, token: str) -> Reply:
    """The reply, with the cookie of a new session; what the browser held before it logged in is dropped."""
    age_s = desk.people.rules.session_days * 86_400
    return reply.also((set_cookie(SESSION, token, visit.is_secure, age_s), set_cookie(VISIT, "", visit.is_secure, 0)))


def next_of(text: str) -> str:
    """Where somebody wanted to go, if that is a page of ours; otherwise home."""
    is_ours = text.startswith("/") and not text.startswith(("//", "/\\")) and text.isprintable()
    return text if is_ours and text.isascii() else HOME


async def log_in_page(desk: Desk, visit: Visit) -> Reply:
    """The form."""
    if visit.user is not None:
        return go(next_of(visit.asked("next")))
    return desk.page(visit, "log_in.html", email="", wrong=None, next=next_of(visit.asked("next")))


async def log_in(desk: Desk, visit: Visit) -> Reply:
    """Logs somebody in."""
    following = next_of(visit.said("next"))
    try:
        token = await desk.people.log_in(visit.said("email"), visit.said("password"), visit.place)
    except FormWrong as wrong:
        return desk.page(visit, "log_in.html", status=400, email=visit.said("email")[:254], wrong=wrong, next=following)
    return entered(go(following), desk, visit, token)


async def sign_up_page(desk: Desk, visit: Visit) -> Reply:
    """The form, or why there is none."""
    if visit.user is not None:
        return go(HOME)
    is_open = desk.people.rules.signup is Signup.OPEN
    ref = visit.asked("ref")[:64]
    return desk.page(visit, "sign_up.html", is_open=is_open, email="", ref=ref, wrong=None)


async def sign_up(desk: Desk, visit: Visit) -> Reply:
    """Makes an account, and shows its key: the only time."""
    if visit.user is not None:
        raise forged()
    email, ref = visit.said("email"), visit.said("ref")[:64]
    try:
        welcome = await desk.people.sign_up(email, visit.said("password"), ref, visit.place)
    except FormWrong as wrong:
        return desk.page(visit, "sign_up.html", status=400, is_open=True, email=email[:254], ref=ref, wrong=wrong)
    visit.user, visit.token = welcome.user, welcome.token
    return entered(desk.page(visit, "welcome.html", key=welcome.key), desk, visit, welcome.token)


async def claim_page(desk: Desk, visit: Visit) -> Reply:
    """The form behind the link that the first start shows."""
    if visit.user is not None:
        return go(HOME)
    return desk.page(visit, "claim.html", link=visit.asked("link")[:64], email="", wrong=None)


async def claim(desk: Desk, visit: Visit) -> Reply:
    """Gives the first account an e-mail and a password."""
    link, email = visit.said("link"), visit.said("email")
    try:
        token = await desk.people.claim(link, email, visit.said("password"))
    except LinkSpent as spent:
        raise Refused(403, "link_spent", f"{str(spent).capitalize()}.") from None
    except FormWrong as wrong:
        return desk.page(visit, "claim.html", status=400, link=link[:64], email=email[:254], wrong=wrong)
    return entered(go(HOME), desk, visit, token)


async def log_out(desk: Desk, visit: Visit) -> Reply:
    """Ends this browser's session."""
    assert visit.token is not None
    await desk.people.log_out(visit.token)
    return go("/").also((set_cookie(SESSION, "", visit.is_secure, 0),))
