"""How much memory a machine can give, from what its system tells. The system's files are made here."""

from __future__ import annotations

from pathlib import Path

import pytest

from cxp2p_node.machine import (
    RESERVE_BYTES_MIN,
    RESERVE_BYTES_NOW,
    memory_available,
    memory_for_models,
    room_for_models,
)

GIB = 1 << 30


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine of which 8 GiB are available."""
    write(tmp_path / "proc/meminfo", f"MemTotal: {16 << 20} kB\nMemAvailable:   {8 << 20} kB\nHugePages_Total: 0\n")
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def group(folder: Path, limit: int | str, used: int, cached: int) -> None:
    write(folder / "memory.max", f"{limit}\n")
    write(folder / "memory.current", f"{used}\n")
    write(folder / "memory.stat", f"anon 12\nactive_file {cached // 2}\ninactive_file {cached - cached // 2}\n")


def test_without_a_limit_it_is_what_the_machine_has(root: Path) -> None:
    assert memory_available(root) == 8 * GIB


def test_a_container_has_what_is_left_of_its_limit(root: Path) -> None:
    """Pages of files count as free: they can be taken back."""
    write(root / "proc/self/cgroup", "0::/\n")
    group(root / "sys/fs/cgroup", 4 * GIB, 3 * GIB, GIB)
    assert memory_available(root) == 2 * GIB


@pytest.mark.parametrize(("inner", "outer", "left"), [("max", 3 * GIB, 2), (2 * GIB, 6 * GIB, 1), ("max", "max", 8)])
def test_every_group_around_it_counts(root: Path, inner: int | str, outer: int | str, left: int) -> None:
    write(root / "proc/self/cgroup", "0::/user.slice/session\n")
    group(root / "sys/fs/cgroup/user.slice/session", inner, GIB, 0)
    group(root / "sys/fs/cgroup/user.slice", outer, GIB, 0)
    assert memory_available(root) == left * GIB


def test_groups_of_the_first_version_count_too(root: Path) -> None:
    """Also if the group's path is the host's, which a container does not see."""
    write(root / "proc/self/cgroup", "9:name=systemd:/\n4:memory:/docker/123\n1:cpu,cpuacct:/\n0::/\n")
    folder = root / "sys/fs/cgroup/memory"
    write(folder / "memory.limit_in_bytes", f"{5 * GIB}\n")
    write(folder / "memory.usage_in_bytes", f"{2 * GIB}\n")
    write(folder / "memory.stat", f"cache 7\ntotal_inactive_file {GIB}\ntotal_active_file 0\n")
    assert memory_available(root) == 4 * GIB


def test_a_group_that_is_over_its_limit_leaves_nothing(root: Path) -> None:
    write(root / "proc/self/cgroup", "0::/\n")
    group(root / "sys/fs/cgroup", GIB, 2 * GIB, 0)
    assert memory_available(root) == 0


def test_a_system_that_tells_nothing_gives_a_part_of_its_memory(tmp_path: Path) -> None:
    assert memory_available(tmp_path) > 0
    assert memory_available() > 0  # of this machine


def test_models_leave_a_reserve() -> None:
    assert memory_for_models(40 * GIB) == 36 * GIB
    assert memory_for_models(2 * GIB) == 2 * GIB - RESERVE_BYTES_MIN
    assert memory_for_models(RESERVE_BYTES_MIN // 2) == 0


def test_models_get_more_only_of_what_is_free_now() -> None:
    assert room_for_models(3 * GIB, 2 * GIB) == 5 * GIB - RESERVE_BYTES_NOW
    assert room_for_models(3 * GIB, 0) == 3 * GIB
