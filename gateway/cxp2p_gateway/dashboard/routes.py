"""Which page is under which path. All that changes anything is a form with its proof, or a call of the playground."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from cxp2p_gateway.dashboard import (
    account_pages,
    admin_pages,
    entry_pages,
    key_pages,
    play_pages,
    public_pages,
    receipt_pages,
    use_pages,
)
from cxp2p_gateway.dashboard.desk import Desk
from cxp2p_gateway.dashboard.guard import Guarded, Played, View, Who
from cxp2p_gateway.exchange import exchange_of
from cxp2p_gateway.faults import Base, Condition, Fault
from cxp2p_gateway.middleware import Endpoint, Methods
from cxp2p_gateway.origins import Crowd

SHOWN: Final[Mapping[str, tuple[View, Who]]] = {
    "/": (public_pages.front_page, Who.ANYBODY),
    "/models": (public_pages.models_page, Who.ANYBODY),
    "/models/{model:path}": (public_pages.model_page, Who.ANYBODY),
    "/login": (entry_pages.log_in_page, Who.ANYBODY),
    "/signup": (entry_pages.sign_up_page, Who.ANYBODY),
    "/claim": (entry_pages.claim_page, Who.ANYBODY),
    "/dashboard/live.json": (public_pages.live_numbers, Who.ANYBODY),
    "/dashboard/static/{name}": (public_pages.asset, Who.ANYBODY),
    "/dashboard": (use_pages.overview_page, Who.MEMBER),
    "/dashboard/keys": (key_pages.keys_page, Who.MEMBER),
    "/dashboard/keys/{key}": (key_pages.key_page, Who.MEMBER),
    "/dashboard/usage": (use_pages.usage_page, Who.MEMBER),
    "/dashboard/apps": (use_pages.apps_page, Who.MEMBER),
    "/dashboard/receipts": (receipt_pages.receipts_page, Who.MEMBER),
    "/dashboard/receipts/{generation}": (receipt_pages.receipt_page, Who.MEMBER),
    "/dashboard/rewards": (account_pages.rewards_page, Who.MEMBER),
    "/dashboard/playground": (play_pages.playground_page, Who.MEMBER),
    "/dashboard/account": (account_pages.account_page, Who.MEMBER),
    "/dashboard/admin": (admin_pages.admin_page, Who.ADMIN),
}
FORMS: Final[Mapping[str, tuple[View, Who]]] = {
    "/login": (entry_pages.log_in, Who.ANYBODY),
    "/signup": (entry_pages.sign_up, Who.ANYBODY),
    "/claim": (entry_pages.claim, Who.ANYBODY),
    "/logout": (entry_pages.log_out, Who.MEMBER),
    "/dashboard/keys": (key_pages.make_key, Who.MEMBER),
    "/dashboard/keys/{key}": (key_pages.change_key, Who.MEMBER),
    "/dashboard/keys/{key}/rotate": (key_pages.rotate_key, Who.MEMBER),
    "/dashboard/keys/{key}/revoke": (key_pages.revoke_key, Who.MEMBER),
    "/dashboard/account/password": (account_pages.change_password, Who.MEMBER),
    "/dashboard/account/leave": (account_pages.log_out_everywhere, Who.MEMBER),
    "/dashboard/admin/accounts/{account}/disable": (admin_pages.disable, Who.ADMIN),
    "/dashboard/admin/accounts/{account}/enable": (admin_pages.enable, Who.ADMIN),
    "/dashboard/admin/accounts/{account}/credit": (admin_pages.give_credit, Who.ADMIN),
}


class Dashboard:
    """The pages over a desk."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def routes(self, played: Mapping[str, Endpoint], crowd: Crowd) -> list[Route]:
        """All routes. `played`: the API's endpoints that the playground calls, by name; `crowd`: see `Admitted`."""
        served: dict[str, dict[str, Endpoint]] = {}
        for path, (view, who) in SHOWN.items():
            served.setdefault(path, {})["GET"] = Guarded(view, self._desk, who, gives_proof=path in FORMS)
        for path, (view, who) in FORMS.items():
            served.setdefault(path, {})["POST"] = Guarded(view, self._desk, who, changes=True)
        for name, endpoint in played.items():
            served[f"/dashboard/playground/{name}"] = {"POST": Played(endpoint, self._desk, crowd)}
        routes = []
        for path, endpoints in served.items():
            methods = Methods(**endpoints)
            methods.path = path.replace(":path}", "}")
            routes.append(Route(path, methods))
        return routes

    async def unknown(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuses a path that nothing is under: as a page, if a person's browser asks outside of the API."""
        exchange = exchange_of(scope)
        if exchange.base is Base.ROOT and "text/html" in exchange.headers.get("accept", ""):
            exchange.is_page = True
            exchange.as_page = self._desk.fault_page
        raise Fault(Condition.PATH_UNKNOWN)
