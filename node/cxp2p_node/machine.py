"""How much memory this machine can give: what is free, or can be freed, also within a container's limit. Linux."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

RESERVE_BYTES_MIN = 512 << 20  # for this program and the rest of the machine
RESERVE_SHARE = 10  # one part of so many
RESERVE_BYTES_NOW = 256 << 20  # what must be free beside a model that is loaded later, when others may need memory too
UNKNOWN_SHARE = 2  # where the system does not tell what is free

# A control group's limit, its use, and what of that are pages of files, which can be taken back: version 2, version 1.
GROUP_FILES = (
    ("memory.max", "memory.current", ("active_file", "inactive_file")),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_active_file", "total_inactive_file")),
)


def memory_for_models(available: int) -> int:
    """What models may take of `available` bytes when nobody says otherwise."""
    return max(0, available - max(RESERVE_BYTES_MIN, available // RESERVE_SHARE))


def room_for_models(held: int, available: int) -> int:
    """What models may take in all when they hold `held` bytes, and `available` are left."""
    return max(held, held + available - RESERVE_BYTES_NOW)


def memory_available(root: Path = Path("/")) -> int:
    """Bytes that programs could take now: of the machine, and of every control group that this process is in.

    `root` is where the system's `proc` and `sys` are.
    """
    return max(0, min((_of_machine(root), *_of_groups(root))))


def _of_machine(root: Path) -> int:
    numbers = _numbers(root / "proc/meminfo")
    if "MemAvailable:" in numbers:
        return numbers["MemAvailable:"] * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // UNKNOWN_SHARE


def _of_groups(root: Path) -> Iterator[int]:
    """What is left of the limit of each control group."""
    for folder in _groups(root):
        for limit_file, used_file, reclaimable in GROUP_FILES:
            limit, used = _number(folder / limit_file), _number(folder / used_file)
            if limit is not None and used is not None:
                stat = _numbers(folder / "memory.stat")
                yield limit - used + sum(stat.get(name, 0) for name in reclaimable)


def _groups(root: Path) -> Iterator[Path]:
    """This process's control group and those around it. In a container the outermost is often all that is seen."""
    for line in _lines(root / "proc/self/cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        group = top / path.strip().lstrip("/")
        yield from (group, *(parent for parent in group.parents if parent.is_relative_to(top)))


def _numbers(path: Path) -> dict[str, int]:
    """The first number on each line, by the word before it."""
    found = {}
    for line in _lines(path):
        words = line.split()
        if len(words) >= 2 and words[1].isdecimal():
            found[words[0]] = int(words[1])
    return found


def _number(path: Path) -> int | None:
    """The number that a file holds; None for none, or for `max`."""
    words = "".join(_lines(path)).split()
    return int(words[0]) if words and words[0].isdecimal() else None


def _lines(path: Path) -> list[str]:
    """A file of the system, line by line; nothing if this system has no such file."""
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []
