"""What must hold after every event, whatever peers do. Each function says in words what does not."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from cxp2p.routing import Candidate

if TYPE_CHECKING:
    from simulations.gateways import GatewayModel
    from simulations.nodes import NodeModel
    from simulations.town import Town


def of_node(node: NodeModel) -> list[str]:
    """No node is over its slots or its queue, and no gateway owes it more than the exposure limit."""
    desk, faults = node.desk, []
    if not 0 <= desk.running <= desk.slots:
        faults.append(f"{desk.running} jobs run, there are {desk.slots} slots")
    if desk.queued < 0 or desk.running + desk.queued > desk.slots + desk.queue_max:
        faults.append(f"{desk.queued} jobs wait and {desk.running} run, there is room for {desk.queue_max} to wait")
    for gateway, total in node.owing.grown(node.world.now):
        if total > node.exposure_max:
            faults.append(f"gateway {gateway[-6:]} owes {total} µcredits, the limit is {node.exposure_max}")
    return [f"node {node.peer[-6:]}: {fault}" for fault in faults]


def of_gateway(gateway: GatewayModel) -> list[str]:
    """Every demand ends once, and its holds with it; no node was chosen that should not have been."""
    faults, gateway.wrongly_chosen = gateway.wrongly_chosen, []
    for run in gateway.just_ended:
        if run.ends != 1:
            faults.append(f"demand {run.demand.number} ended {run.ends} times: {run.end}")
        for attempt in run.attempts:
            if attempt.settled and attempt.voided:
                faults.append(f"order {attempt.hold_id} was both settled and voided")
    for attempt in gateway.just_closed:
        if attempt.hold_id and gateway.books.hold(attempt.hold_id) is not None:
            faults.append(f"hold {attempt.hold_id} is still open after its order ended")
    gateway.just_ended.clear()
    gateway.just_closed.clear()
    return [f"gateway {gateway.peer[-6:]}: {fault}" for fault in faults]


def of_choice(chosen: Candidate, candidates: Iterable[Candidate], tried: Collection[str], now: float) -> list[str]:
    """Who said that it is full is asked only when all that were not tried said so too."""
    if chosen[0].busy_until <= now:
        return []
    free = [entry.offer.peer for entry, _ in candidates if entry.busy_until <= now and entry.offer.peer not in tried]
    node = chosen[0].offer.peer[-6:]
    return [f"node {node} said that it is full and is asked all the same, while {len(free)} are not"] if free else []


def at_the_end(town: Town) -> list[str]:
    """When nothing runs any more: no hold is open, no job is left, and all credit sums to zero."""
    faults: list[str] = []
    for gateway in town.gateways.values():
        books = gateway.books
        if gateway.runs:
            faults.append(f"gateway {gateway.peer[-6:]}: {len(gateway.runs)} demands never ended")
        if books.open_holds():
            faults.append(f"books of {books.name}: {len(books.open_holds())} holds never ended")
        total = sum(account.balance for account in books.accounts.values())
        if total:
            faults.append(f"books of {books.name}: all balances together are {total}, not 0")
    for node in town.nodes.values():
        if node.desk.running or node.desk.queued:
            faults.append(f"node {node.peer[-6:]}: {node.desk.running} jobs run and {node.desk.queued} wait for ever")
    return faults
