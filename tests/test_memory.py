"""What memory can be had, as the kernel and the control groups say it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from moshi_mlx import memory

GB = 10**9
KERNEL = "MemTotal: 33554432 kB\nMemFree: 1000 kB\nMemAvailable: 16777216 kB\n"


def machine(root: Path, groups: str, files: dict[str, str]) -> Path:
    for name, text in {"proc/meminfo": KERNEL, "proc/self/cgroup": groups, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def group(folder: str, limit: str, used: int, cache: int = 0, version: int = 2) -> dict[str, str]:
    names = {2: ("memory.max", "memory.current", "inactive_file"),
             1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")}[version]  # fmt: skip
    stat = f"anon 1\n{names[2]} {cache}\nactive_file 99\n"
    return {f"{folder}/{names[0]}": limit, f"{folder}/{names[1]}": str(used), f"{folder}/memory.stat": stat}


def test_without_limits_it_is_what_the_kernel_calls_available(tmp_path: Path) -> None:
    assert memory.linux_available(machine(tmp_path, "0::/\n", {})) == 16777216 * 1024


def test_a_group_limits_and_its_idle_cache_does_not_count(tmp_path: Path) -> None:
    files = group("sys/fs/cgroup/app", str(8 * GB), used=3 * GB, cache=1 * GB)
    assert memory.linux_available(machine(tmp_path, "0::/app\n", files)) == 6 * GB


def test_the_tightest_of_the_groups_above_counts(tmp_path: Path) -> None:
    files = group("sys/fs/cgroup/a/b", "max", used=2 * GB) | group("sys/fs/cgroup/a", str(5 * GB), used=4 * GB)
    assert memory.linux_available(machine(tmp_path, "0::/a/b\n", files)) == 1 * GB


def test_the_old_control_groups_count_too(tmp_path: Path) -> None:
    files = group("sys/fs/cgroup/memory/box", str(4 * GB), used=1 * GB, version=1)
    files |= group("sys/fs/cgroup/memory", "9223372036854771712", used=9 * GB, version=1)
    assert memory.linux_available(machine(tmp_path, "4:memory:/box\n1:cpu:/\n0::/\n", files)) == 3 * GB


def test_a_path_of_the_host_is_read_from_where_it_can_be_seen(tmp_path: Path) -> None:
    files = group("sys/fs/cgroup", str(4 * GB), used=1 * GB)
    assert memory.linux_available(machine(tmp_path, "0::/docker/abc\n", files)) == 3 * GB


def test_a_group_beyond_its_limit_has_nothing_left(tmp_path: Path) -> None:
    files = group("sys/fs/cgroup/app", str(1 * GB), used=2 * GB)
    assert memory.linux_available(machine(tmp_path, "0::/app\n", files)) == 0


def test_this_machine_has_less_available_than_it_has() -> None:
    assert 100_000_000 < memory.available_memory() <= memory.total_memory()


@pytest.mark.skipif(sys.platform == "darwin", reason="asks Linux to answer as a Mac")
def test_a_mac_can_give_nine_tenths_of_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert memory.total_memory() == physical
    assert memory.available_memory() == pytest.approx(0.9 * physical, abs=1)
    assert memory.available_memory(held=GB) == memory.available_memory() - GB
    assert memory.available_memory(held=physical) == 0


def test_free_disk_is_told_of_folders_yet_to_be_made(tmp_path: Path) -> None:
    here = os.statvfs(tmp_path)
    there = memory.free_disk(tmp_path / "not" / "yet" / "there")
    assert there == pytest.approx(here.f_bavail * here.f_frsize, abs=500_000_000)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (5_000, "5 kB"), (384_644_900, "385 MB"), (4.81e9, "4.8 GB")],
)
def test_bytes_are_spelled_for_people(count: float, text: str) -> None:
    assert memory.human_bytes(int(count)) == text
