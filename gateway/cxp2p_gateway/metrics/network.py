"""The network as this gateway sees it, read from its directory when somebody looks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from cxp2p.client import Net
from cxp2p.directory import Entry
from cxp2p.records import Service
from cxp2p_gateway.listing import live


class NodeState(StrEnum):
    """What a node is to this gateway; each that is known is in one of these."""

    LIVE = "live"  # it beats, and gets jobs
    FULL = "full"  # it beats, and said lately that it has no room: it is asked last
    SUSPENDED = "suspended"  # it failed lately, and gets no jobs for a while
    DRAINING = "draining"  # it ends what it has, and takes no more
    RESTING = "resting"  # it is known, and not listened to: others of its kind are, or nobody wants what it offers


def state_of(entry: Entry, now: float) -> NodeState:
    """The state of a node whose offer holds. `now` is monotonic seconds."""
    if entry.offer.draining:
        return NodeState.DRAINING
    if entry.suspended_until > now:
        return NodeState.SUSPENDED
    if entry.alive_until <= now:
        return NodeState.RESTING
    return NodeState.FULL if entry.busy_until > now else NodeState.LIVE


class NetworkCollector(Collector):
    """Tells Prometheus of nodes by state and service, and of connected peers."""

    def __init__(self, net: Net, wall_ms: Callable[[], int], now: Callable[[], float]) -> None:
        self._net = net
        self._wall_ms = wall_ms
        self._now = now

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """The names, without looking at the network."""
        return iter(families())

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The network as it is now."""
        nodes, offers, peers = families()
        wall_ms, now = self._wall_ms(), self._now()
        entries = [entry for entry in self._net.offers() if entry.offer.expires_at_ms > wall_ms]
        states = Counter(state_of(entry, now) for entry in entries)
        for state in NodeState:
            nodes.add_metric([state.value], states[state])
        services = Counter(
            service
            for entry in live(entries, wall_ms, now)
            for service in {capability.service for capability in entry.offer.capabilities}
        )
        for service in Service:
            offers.add_metric([service.value], services[service])
        peers.add_metric([], len(self._net.network.connected()))
        yield from (nodes, offers, peers)


def families() -> tuple[GaugeMetricFamily, GaugeMetricFamily, GaugeMetricFamily]:
    """What is told, still without numbers: nodes by state, nodes by service, peers."""
    return (
        GaugeMetricFamily("cxp2p_nodes", "Nodes that are known, by state", labels=["state"]),
        GaugeMetricFamily("cxp2p_nodes_offering", "Nodes that beat and offer a service", labels=["service"]),
        GaugeMetricFamily("cxp2p_peers_connected", "Peers with which there is a connection"),
    )
