"""How many processor cores this program may use: physical ones, within a container's quota. Linux."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

# Where a core's logical processors are listed; older kernels have the second name only.
SIBLINGS = ("core_cpus_list", "thread_siblings_list")


def cores_usable(root: Path = Path("/"), processors: Collection[int] | None = None) -> float:
    """Physical cores, or parts of them, that this process may keep busy.

    `processors` are the logical ones it may run on; None: as the system says. `root` is where `proc` and `sys` are.
    """
    if processors is None:
        processors = _allowed()
    cores = {_core(root, processor) for processor in processors}
    return min([float(len(cores)), *_quotas(root)])


def _allowed() -> Collection[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return range(os.cpu_count() or 1)


def _core(root: Path, processor: int) -> str:
    """What the logical processors of one core have in common."""
    folder = root / f"sys/devices/system/cpu/cpu{processor}/topology"
    return next((text for name in SIBLINGS if (text := _text(folder / name))), str(processor))


def _quotas(root: Path) -> Iterator[float]:
    """What each control group around this process may use: version 2, version 1."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        tops = [root / "sys/fs/cgroup" / each for each in ((controllers, "cpu") if controllers else ("",))]
        for top in tops:
            group = top / path.strip().lstrip("/")
            for folder in (group, *(parent for parent in group.parents if parent.is_relative_to(top))):
                quota, period = _quota(folder)
                if quota > 0 and period > 0:
                    yield quota / period


def _quota(folder: Path) -> tuple[int, int]:
    """Microseconds of processor time in a period; 0 for no limit."""
    words = _text(folder / "cpu.max").split() or [
        _text(folder / "cpu.cfs_quota_us").strip(),
        _text(folder / "cpu.cfs_period_us").strip(),
    ]
    quota, period = (int(word) if word.isdecimal() else 0 for word in (*words, "", "")[:2])
    return quota, period


def _text(path: Path) -> str:
    """A file of the system; nothing if this system has no such file."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
