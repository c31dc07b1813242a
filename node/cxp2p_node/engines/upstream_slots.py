"""Which slot of a llama-server a job takes, so that it finds there what the same account left, and nobody else. Pure.

That server knows no salts, but a request may name its slot, and say whether what is in it may be used again.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Slot:
    """One of the server's. `salt`: of what is in it; None: nobody knows. `used`: when, as a number that grows."""

    number: int
    salt: bytes | None = None
    used: int = 0


class SlotBook:
    """The slots of one server, of which this node is taken to be the only user."""

    def __init__(self, count: int) -> None:
        self._free = [Slot(number) for number in range(count)]
        self._uses = 0

    def take(self, salt: bytes) -> tuple[Slot, bool] | None:
        """A free slot, and whether what is in it may be used again: the newest of this salt, or else the oldest.

        None: all are taken. What is in a slot is not known while a job has it.
        """
        if not self._free:
            return None
        own = [slot for slot in self._free if slot.salt == salt]
        slot = max(own, key=lambda each: each.used) if own else min(self._free, key=lambda each: each.used)
        self._free.remove(slot)
        slot.salt = None
        return slot, bool(own)

    def give_back(self, slot: Slot, salt: bytes | None) -> None:
        """`salt`: of the job, if the server has begun to answer it; None: what was there before may be there still."""
        self._uses += 1
        slot.salt, slot.used = salt, self._uses
        self._free.append(slot)
