"""One engine with the queue in front of it."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, replace

import trio

from cxp2p.records import Capability, Refusal
from cxp2p_node.admission import Desk, decide
from cxp2p_node.engines import Engine
from cxp2p_node.engines.shelf import Shelved
from cxp2p_node.engines.upstream import Upstream


@dataclass(slots=True)
class Bench:
    """An engine, its queue, and a place for each job that runs at once."""

    engine: Engine
    desk: Desk
    places: trio.CapacityLimiter

    @property
    def loaded(self) -> bool:
        """Whether a job would run at once if it had a place."""
        return self.engine.loaded if isinstance(self.engine, Shelved) else self.engine.ready

    @property
    def fault(self) -> str:
        """Why the model could not be loaded, or its server is not well; "" if it is, or if nobody tried."""
        return self.engine.fault if isinstance(self.engine, (Shelved, Upstream)) else ""

    def capability(self) -> Capability:
        """What is offered now, load included."""
        described = self.engine.describe()
        load = self.desk.load(described.load.loading_ms)
        return replace(described, slots=self.desk.slots, queue_max=self.desk.queue_max, load=load)

    def admit(self, *, draining: bool) -> Refusal | None:
        """None: one more job may come. A model that it would have to wait for too long is loaded for the next one."""
        loading_ms = self.engine.describe().load.loading_ms
        refusal = decide(self.desk, ready=self.engine.ready, draining=draining, loading_ms=loading_ms)
        if refusal is not None and not draining and isinstance(self.engine, Shelved):
            self.engine.wish()
        return refusal

    def taken(self) -> AbstractAsyncContextManager[None]:
        """Has the model in memory while the block runs. Raises JobFailed."""
        return self.engine.taken() if isinstance(self.engine, Shelved) else nullcontext()


def bench(engine: Engine) -> Bench:
    """A bench with as many slots as the engine describes."""
    described = engine.describe()
    desk = Desk(slots=described.slots, queue_max=described.queue_max)
    return Bench(engine, desk, trio.CapacityLimiter(described.slots))
