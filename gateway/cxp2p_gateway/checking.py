"""`cxp2p gateway check`: whether a gateway would start with these settings, and with what."""

from __future__ import annotations

from cxp2p.checks import Finding, check_addresses, check_folder, check_key, check_network, fault, note, ok
from cxp2p.errors import SettingsError
from cxp2p_gateway.app import check_parts, data_path_of, store_path
from cxp2p_gateway.config import GatewaySettings
from cxp2p_gateway.ports import listen, shown
from cxp2p_gateway.running import check_workers
from cxp2p_gateway.store import StoreError, postgres
from cxp2p_gateway.store.looking import Looked, look, look_at


async def check(settings: GatewaySettings, *, network: bool) -> list[Finding]:
    """Everything that a start would do, without doing it. `network`: asks the bootstrap peers, too.

    Ports that a gateway of the same data folder uses now are not tried: the settings may be for its next start.
    """
    data_path = data_path_of(settings)
    database, keeper = _database(settings)
    findings = [
        check_folder(data_path),
        check_key(settings.peer, settings.peer.key_path or data_path / "identity.key"),
        database,
        *_parts(settings),
        *check_addresses(settings.peer, ports=not keeper),
        await _port("http", settings.http.host, settings.http.port, "/api/v1", keeper),
    ]
    if settings.metrics.port is None:
        findings.append(ok("metrics", "off"))
    else:
        findings.append(await _port("metrics", settings.metrics.host, settings.metrics.port, "/metrics", keeper))
    if network and not any(each.what == "peer" and each.text.startswith("peer.") for each in findings):
        findings += await check_network(settings.peer)
    return findings


def _database(settings: GatewaySettings) -> tuple[Finding, str]:
    """The database, and which process keeps it."""
    url = settings.database.url
    try:
        if url is not None:
            looked = look_at(url.get_secret_value())
            return ok("database", f"{postgres.shown(url.get_secret_value())}{_when(looked)}"), ""
        path = store_path(settings)
        looked = look(path)
    except StoreError as error:
        return fault("database", error), ""
    if looked.keeper:
        text = f"{path} is kept by a gateway that runs (process {looked.keeper}): its ports are not tried"
        return note("database", text), looked.keeper
    return ok("database", f"{path}{_when(looked)}"), ""


def _when(looked: Looked) -> str:
    if looked.version is None:
        return ", which the first start makes"
    return ", whose tables the next start brings up to date: have a copy" if looked.is_old else ""


def _parts(settings: GatewaySettings) -> list[Finding]:
    """What else is read at a start: files and rules that settings name, and whether they go together."""
    try:
        check_workers(settings)
        check_parts(settings)
    except SettingsError as error:
        return [fault("settings", error)]
    return [ok("workers", f"{settings.http.workers} processes")] if settings.http.workers > 1 else []


async def _port(what: str, host: str, port: int, path: str, keeper: str) -> Finding:
    url = f"http://{shown(host)}:{port or '<free port>'}{path}"
    if not keeper:
        try:
            for listener in await listen(host, port):
                await listener.aclose()
        except SettingsError as error:
            return fault(what, error)
    return ok(what, url if host == shown(host) else f"{url} (listens on {host})")
