"""A gateway as a program: one process, or several on one port, and what it tells whoever started it."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio

from cxp2p.errors import SettingsError
from cxp2p.net.tasks import background
from cxp2p.program import LogForm, announce
from cxp2p_gateway.app import Gateway, data_path_of, open_gateway
from cxp2p_gateway.config import GatewaySettings
from cxp2p_gateway.ports import inherited, listen
from cxp2p_gateway.workers import Facts, Supervisor, processes

log = logging.getLogger("cxp2p.gateway.workers")

PORT_MAX: Final = 65_535


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """How `cxp2p gateway run` was called, so that its workers can be called alike."""

    config: Path | None
    bootstrap: tuple[str, ...]
    log_level: str
    log_form: LogForm
    as_json: bool

    def worker(self, number: int, descriptors: Sequence[int]) -> list[str]:
        """The command that starts a worker."""
        words = [sys.executable, "-m", "cxp2p", "gateway", "run", "--json", "--worker", str(number)]
        words += ["--log-level", self.log_level, "--log-format", self.log_form.value]
        words += ["--config", str(self.config)] if self.config is not None else []
        for address in self.bootstrap:
            words += ["--bootstrap", address]
        for descriptor in descriptors:
            words += ["--listen-fd", str(descriptor)]
        return words


def check_workers(settings: GatewaySettings) -> None:
    """Raises SettingsError for settings that several workers cannot share."""
    if settings.http.workers == 1:
        return
    if settings.database.url is None:
        raise SettingsError(
            "http.workers: several workers need PostgreSQL, set database.url: a SQLite file has one process"
        )
    if settings.peer.key_path is not None:
        raise SettingsError("peer.key_path: each worker is a peer with a key of its own, in its folder in data_path")
    last = (settings.metrics.port or 0) + settings.http.workers - 1
    if last > PORT_MAX:
        raise SettingsError(f"metrics.port: the last worker's would be {last}, ports end at {PORT_MAX}")
    fixed = [address for address in settings.peer.listen if not address.endswith("/tcp/0")]
    if fixed:
        raise SettingsError(f"peer.listen: {fixed[0]} is one port, several workers need /tcp/0: nobody dials gateways")


def of_worker(settings: GatewaySettings, number: int) -> GatewaySettings:
    """The settings of one worker: a folder of its own, and the metrics' port that follows the one before."""
    metrics = settings.metrics
    if metrics.port:
        metrics = metrics.model_copy(update={"port": metrics.port + number - 1})
    data_path = data_path_of(settings) / f"worker-{number}"
    return settings.model_copy(update={"data_path": data_path, "metrics": metrics})


async def serve(settings: GatewaySettings, stopping: trio.Event, *, as_json: bool) -> None:
    """A gateway in this process, until `stopping` is set and its answers are out."""
    async with open_gateway(settings) as running:
        tell(running, as_json=as_json)
        await stopping.wait()
        running.stop()


async def serve_as_worker(
    settings: GatewaySettings, number: int, descriptors: Sequence[int], stopping: trio.Event
) -> None:
    """One of several, on sockets that it inherited; it drains when who started it is gone."""
    async with background() as nursery:
        nursery.start_soon(_stop_with_parent, stopping)
        async with open_gateway(of_worker(settings, number), inherited(descriptors)) as running:
            tell(running, as_json=True)
            await stopping.wait()
            running.stop()


async def _stop_with_parent(stopping: trio.Event) -> None:
    """Standard input is a pipe from the supervisor, and ends when it does."""
    async with trio.lowlevel.FdStream(os.dup(0)) as ours:
        while await ours.receive_some():
            pass
    stopping.set()


async def supervise(settings: GatewaySettings, call: Call, stopping: trio.Event) -> None:
    """Several gateways in processes of their own, until `stopping` is set and all have drained."""
    listeners = await listen(settings.http.host, settings.http.port)
    descriptors = [listener.socket.fileno() for listener in listeners]
    heard = _Heard(settings.http.workers, call.as_json)
    start = processes(lambda number: call.worker(number, descriptors), descriptors)
    try:
        await Supervisor(start, settings.http.workers, heard.tell, grace_s=settings.http.grace_s).run(stopping)
    finally:
        for listener in listeners:
            await listener.aclose()


@dataclass(slots=True)
class _Heard:
    """What workers told so far: the first account is passed on, and once all are ready, so is that."""

    count: int
    as_json: bool
    ready: dict[int, Facts] = field(default_factory=dict)

    def tell(self, number: int, facts: Facts) -> None:
        """Passes on what others may want to know."""
        event = facts.get("event")
        if event == "account":
            _tell_account(facts["user_id"], facts["api_key"], as_json=self.as_json)
        elif event == "claim" and number == 1:
            _tell_claim(facts["url"], as_json=self.as_json)
        elif event == "ready":
            self._note(number, facts)

    def _note(self, number: int, facts: Facts) -> None:
        log.info("worker %d is ready: %s", number, facts["peer"])
        all_were = len(self.ready) == self.count
        self.ready[number] = facts
        if all_were or len(self.ready) < self.count:
            return
        workers = [self.ready[each] for each in sorted(self.ready)]
        told: dict[str, object] = {"event": "ready", "url": facts["url"], "peers": [each["peer"] for each in workers]}
        text = f"gateway of {self.count} workers at {facts['url']}/api/v1 (also /v1)"
        if "metrics" in facts:
            told["metrics"] = urls = [each["metrics"] for each in workers]
            text += f", metrics at {', '.join(urls)}"
        announce(told, text, as_json=self.as_json)


def tell(running: Gateway, *, as_json: bool) -> None:
    """Says where a gateway is, and what nobody can learn later."""
    if running.first is not None:
        _tell_account(running.first.user_id, running.first.key, as_json=as_json)
    if running.claim_url is not None:
        _tell_claim(running.claim_url, as_json=as_json)
    addresses = list(running.net.network.addresses)
    facts: dict[str, object] = {"event": "ready", "peer": running.peer, "url": running.url, "addresses": addresses}
    text = f"gateway {running.peer} at {running.url}/api/v1 (also /v1)"
    if running.metrics_url is not None:
        facts["metrics"] = running.metrics_url
        text += f", metrics at {running.metrics_url}"
    announce(facts, text, as_json=as_json)


def _tell_account(user_id: str, key: str, *, as_json: bool) -> None:
    facts = {"event": "account", "user_id": user_id, "api_key": key}
    announce(facts, f"first account {user_id}\nits API key, shown only now: {key}", as_json=as_json)


def _tell_claim(url: str, *, as_json: bool) -> None:
    text = f"its e-mail and password for the dashboard are set here, once, within a day: {url}"
    announce({"event": "claim", "url": url}, text, as_json=as_json)
