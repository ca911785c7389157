"""The worker's memory limit, from the machine and from cgroups."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

from lensd.worker import memory


def test_auto_is_half_of_the_memory() -> None:
    """Of the machine or of the container, at least 1 GiB; a number and null stay what they are."""
    available = memory.available_bytes()
    assert 0 < available <= psutil.virtual_memory().total
    assert memory.limit("auto") == max(2**30, available // 2)
    assert memory.limit(300 << 20) == 300 << 20
    assert memory.limit(None) is None


def test_processes_fit_into_half_of_the_memory() -> None:
    """0 means one for each core at most; a number stays what it is. `auto` is shared by them."""
    half = memory.available_bytes() // 2
    cores = len(os.sched_getaffinity(0))
    assert memory.count_processes(3, "auto") == 3
    assert memory.count_processes(0, half) == 1
    assert memory.count_processes(0, 2 * half) == 1
    assert memory.count_processes(0, 256 << 20) == max(1, min(cores, half // (256 << 20)))
    assert memory.count_processes(0, None) == memory.count_processes(0, 2**30)
    assert memory.limit("auto", 2) == max(2**30, half // 2)
    assert memory.limit(300 << 20, 2) == 300 << 20


def test_each_cgroup_above_the_process_counts(tmp_path: Path) -> None:
    """The smallest decides, at any depth; `max` is no limit."""
    slice_ = tmp_path / "system.slice"
    unit = slice_ / "lensd.service"
    unit.mkdir(parents=True)
    (unit / "memory.max").write_text("max\n")
    (slice_ / "memory.max").write_text("4294967296\n")
    table = "0::/system.slice/lensd.service\n"
    assert [4 << 30] == list(memory.cgroup_limits(table, str(tmp_path)))
    (unit / "memory.max").write_text("2147483648\n")
    assert min(memory.cgroup_limits(table, str(tmp_path))) == 2 << 30


def test_version_1_of_cgroups_in_a_container(tmp_path: Path) -> None:
    """The table has the host's path, which is not there: the top is the container's own."""
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("536870912\n")
    table = "5:cpu,cpuacct:/docker/ab\n4:memory:/docker/ab\n1:name=systemd:/docker/ab\n"
    assert [512 << 20] == list(memory.cgroup_limits(table, str(tmp_path)))


def test_a_machine_without_cgroups(tmp_path: Path) -> None:
    """No limit, and no error."""
    assert [] == list(memory.cgroup_limits("", str(tmp_path)))
    assert [] == list(memory.cgroup_limits("0::/a\n", str(tmp_path)))
