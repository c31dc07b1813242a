"""The seam to the engines that do the work."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeAlias

from cxp2p.records import Capability, Job, Piece, Usage

Emit: TypeAlias = Callable[[Piece], Awaitable[None]]
"""Takes one piece towards the asker; waits while the asker does not read."""

Counted: TypeAlias = Callable[[int, int], None]
"""Takes the prompt's units and how many of them were reused, as soon as they are known, before the first piece."""


class Engine(Protocol):
    """Serves one model. Opened by an async context manager of its module, closed by leaving it."""

    @property
    def ready(self) -> bool:
        """Whether a job would run now. False while the model loads or its worker comes back."""

    def on_change(self, call: Callable[[], None]) -> None:
        """Calls `call` whenever `ready` or what is described changes; replaces an earlier one."""

    def describe(self) -> Capability:
        """What is offered, with zero load: the node fills the load in."""

    async def run(self, job: Job, seed: int, max_out: int, emit: Emit, counted: Counted) -> Usage:
        """Does one job: pieces go to `emit` in order, then the usage is returned.

        Cancelling the call stops the work within 100 ms. Everything emitted is whole: text ends at a character, never
        within a stop string. Raises JobFailed.
        """
