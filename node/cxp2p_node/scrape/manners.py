"""When a host may be visited again, and whether it is worth it. Pure: `now` is monotonic seconds.

One visit at a time, and a pause after it: a visit is robots.txt, if it is not known, and a page with the redirects that
stay at its host. A host from which nothing came twice in a row is let alone for a while: what it did last holds
for all of its pages meanwhile.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from cxp2p.records import PageFault

HOSTS_MAX: Final = 8192  # that are remembered
FAILURES_MAX: Final = 2
UNWELL_S: Final = 30.0


@dataclass(slots=True)
class _Host:
    """`next_at`: when it may be visited. `asked_status`: with which it asked for a pause, 0 if it did not."""

    next_at: float = 0.0
    asked_status: int = 0
    failures: int = 0
    fault: PageFault | None = None
    unwell_until: float = 0.0

    @property
    def matters_until(self) -> float:
        return max(self.next_at, self.unwell_until)


class Manners:
    """What is remembered of hosts. Bounded: what matters no more is let go first, then who was visited longest ago."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._hosts: OrderedDict[str, _Host] = OrderedDict()

    def __len__(self) -> int:
        return len(self._hosts)

    def next_at(self, host: str) -> float:
        """When it may be visited, at any time if that is in the past."""
        return self._hosts[host].next_at if host in self._hosts else 0.0

    def asked_status(self, host: str, now: float) -> int:
        """The status (429 or 503) with which the host asked to be left alone, 0 if it did not, or not for now."""
        known = self._hosts.get(host)
        return known.asked_status if known and now < known.next_at else 0

    def fault(self, host: str, now: float) -> PageFault | None:
        """What is wrong with the host, if it is to be let alone for that."""
        known = self._hosts.get(host)
        return known.fault if known and now < known.unwell_until else None

    def visited(self, host: str, now: float, crawl_delay_s: float = 0.0) -> None:
        """A visit has ended. `crawl_delay_s`: the pause that the host asks for after each."""
        known = self._touch(host, now)
        known.next_at = max(known.next_at, now + max(self._delay_s, crawl_delay_s))

    def answered(self, host: str, now: float) -> None:
        """Something of HTTP came from the host."""
        known = self._touch(host, now)
        known.failures, known.fault = 0, None

    def failed(self, host: str, now: float, fault: PageFault) -> None:
        """Nothing came from the host."""
        known = self._touch(host, now)
        known.failures += 1
        known.fault = fault
        if known.failures >= FAILURES_MAX:
            known.unwell_until = now + UNWELL_S

    def pause(self, host: str, now: float, pause_s: float, status: int) -> None:
        """The host asked to be left alone for so long."""
        known = self._touch(host, now)
        known.next_at = max(known.next_at, now + pause_s)
        known.asked_status = status

    def _touch(self, host: str, now: float) -> _Host:
        known = self._hosts.setdefault(host, _Host())
        self._hosts.move_to_end(host)
        if known.next_at <= now:
            known.asked_status = 0
        if len(self._hosts) > HOSTS_MAX:
            self._forget(host, now)
        return known

    def _forget(self, but: str, now: float) -> None:
        done = [name for name, known in self._hosts.items() if known.matters_until <= now and name != but]
        for name in done or [next(iter(self._hosts))]:
            del self._hosts[name]
