"""How many cores a program may use, from what its system tells. The system's files are made here."""

from __future__ import annotations

from pathlib import Path

import pytest

from cxp2p_node.processors import cores_usable


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine of four cores with two logical processors each: 0 and 4, 1 and 5, …"""
    for processor in range(8):
        core = processor % 4
        write(tmp_path / f"sys/devices/system/cpu/cpu{processor}/topology/core_cpus_list", f"{core},{core + 4}\n")
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_two_logical_processors_of_a_core_are_one(root: Path) -> None:
    assert cores_usable(root, range(8)) == 4
    assert cores_usable(root, [0, 4]) == 1
    assert cores_usable(root, [0, 1, 2]) == 3


def test_older_kernels_say_it_by_another_name(tmp_path: Path) -> None:
    for processor in range(2):
        write(tmp_path / f"sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list", "0-1\n")
    assert cores_usable(tmp_path, range(2)) == 1


def test_without_a_word_each_processor_is_a_core(tmp_path: Path) -> None:
    assert cores_usable(tmp_path, range(6)) == 6


@pytest.mark.parametrize(
    ("inner", "outer", "cores"), [("max", "150000", 1.5), ("50000", "300000", 0.5), ("max", "max", 4)]
)
def test_a_container_has_its_quota(root: Path, inner: str, outer: str, cores: float) -> None:
    """The tightest of the groups around it counts."""
    write(root / "proc/self/cgroup", "0::/user/session\n")
    write(root / "sys/fs/cgroup/user/session/cpu.max", f"{inner} 100000\n")
    write(root / "sys/fs/cgroup/user/cpu.max", f"{outer} 100000\n")
    assert cores_usable(root, range(8)) == cores


@pytest.mark.parametrize(("quota", "cores"), [("250000", 2.5), ("-1", 4)])
def test_groups_of_the_first_version_count_too(root: Path, quota: str, cores: float) -> None:
    write(root / "proc/self/cgroup", "4:memory:/docker/123\n1:cpu,cpuacct:/docker/123\n")
    write(root / "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", f"{quota}\n")
    write(root / "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n")
    assert cores_usable(root, range(8)) == cores


def test_this_machine_has_at_least_a_part_of_a_core() -> None:
    assert cores_usable() > 0
