"""When a server behind a node is offered, and when it is looked at again. Pure."""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from cxp2p_node.engines.upstream_faults import Kind, ServerFault

LOOK_S: Final = 10.0  # at a server that is well
RETRY_S_FIRST: Final = 0.5
RETRY_S_MAX: Final = 15.0
REST_S_FIRST: Final = 1.0
REST_S_MAX: Final = 30.0
STRIKES_MAX: Final = 3  # jobs in a row that failed inside the server: one may be the fault of its job


class State(Enum):
    """`UNSEEN`: it was not looked at yet."""

    UNSEEN = auto()
    WELL = auto()
    DOWN = auto()


class Health:
    """What jobs and looks have shown of the server. `why` it is down, in words for the log."""

    def __init__(self) -> None:
        self.state = State.UNSEEN
        self.why = ""
        self._looks = 0  # that failed in a row, in the same way
        self._fault: Kind | None = None
        self._strikes = 0
        self._rests = 0
        self._rest_until = 0.0

    def seen(self, now: float) -> float:
        """A look went well. Says when to look again; the server is well unless it rests after what it did to jobs."""
        self._looks = 0
        if now < self._rest_until:
            return self._rest_until - now
        self.state, self.why = State.WELL, ""
        return LOOK_S

    def unseen(self, fault: ServerFault) -> float:
        """A look failed. Says when to look again: soon, if it failed in another way than the last one."""
        if fault.kind is not self._fault:
            self._fault, self._looks = fault.kind, 0  # it has begun to load its model, say
        pause_s = max(min(RETRY_S_FIRST * 2.0 ** min(self._looks, 16), RETRY_S_MAX), fault.retry_s)
        self._looks += 1
        self.state, self.why = State.DOWN, fault.words
        return pause_s

    def done(self) -> None:
        """A job went well."""
        self._strikes, self._rests = 0, 0

    def failed(self, fault: ServerFault, now: float) -> bool:
        """A job failed. Says whether to look at the server now; one that must not be asked is down at once."""
        if fault.kind in (Kind.CONTEXT, Kind.REQUEST) or self.state is not State.WELL:
            return False
        if fault.kind is Kind.BROKEN:
            self._strikes += 1
            if self._strikes < STRIKES_MAX:
                return True
        rest_s = min(REST_S_FIRST * 2.0 ** min(self._rests, 16), REST_S_MAX)
        if fault.kind is Kind.GONE and not self._rests:
            rest_s = 0.0  # it may only have been started anew
        if fault.kind is Kind.SETUP:
            rest_s = REST_S_MAX  # somebody must do something about it
        self._rests += 1
        self._rest_until = now + max(rest_s, fault.retry_s)
        self.state, self.why = State.DOWN, fault.words
        return True
