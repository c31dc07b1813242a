"""Puts the dashboard together from a gateway's parts."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import trio

from cxp2p.client import Net
from cxp2p_gateway.accounts import Accounts
from cxp2p_gateway.asking import Door
from cxp2p_gateway.config import GatewaySettings
from cxp2p_gateway.dashboard.desk import Desk
from cxp2p_gateway.dashboard.live import Live, Recent, live_of
from cxp2p_gateway.dashboard.routes import Dashboard
from cxp2p_gateway.key_ring import KeyRing
from cxp2p_gateway.listing import live
from cxp2p_gateway.passwords import Argon2
from cxp2p_gateway.people import People, PeopleRules
from cxp2p_gateway.store import Store


def open_people(
    settings: GatewaySettings, store: Store, accounts: Accounts, wall_ms: Callable[[], int], rng: Random
) -> People:
    """People by the rules of these settings. `rng` must be fit for secrets."""
    told = settings.accounts
    rules = PeopleRules(
        signup=told.signup,
        accounts_max=told.accounts_max,
        signup_credit=told.signup_credit,
        referral_credit=told.referral_credit,
        referrals_max=told.referrals_max,
        session_days=told.session_days,
    )
    return People(store, accounts, Argon2(), rules, now=trio.current_time, wall_ms=wall_ms, rng=rng)


def open_dashboard(
    settings: GatewaySettings,
    people: People,
    ring: KeyRing,
    store: Store,
    door: Door,
    net: Net,
    state: Callable[[], dict[str, str]],
    wall_ms: Callable[[], int],
    rng: Random,
) -> Dashboard | None:
    """The pages for people, if the settings want any. `state`: how the gateway is, in words, for its admins."""
    if not settings.dashboard.enabled:
        return None
    url = settings.dashboard.public_url

    def look() -> Live:
        return live_of(live(net.offers(), wall_ms(), trio.current_time()))

    desk = Desk(
        people=people,
        ring=ring,
        store=store,
        door=door,
        wall_ms=wall_ms,
        rng=rng,
        network=Recent(look, trio.current_time),
        state=state,
        public_url="" if url is None else str(url),
        trusted=settings.http.trusted_proxies,
    )
    return Dashboard(desk)
