"""How much memory and disk this machine can give: what a model is checked against before it is fetched or loaded.

Linux counts what the kernel calls available, within the limits of the control group. macOS gives caches
back when asked, so there it is the whole memory less a tenth for the system.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

MAC_SHARE = 0.9
_UNLIMITED = 2**60
"""Control groups of version 1 write a number near 2^63 for "no limit"."""


def total_memory() -> int:
    """Bytes of memory that this process could have if it were alone: the machine's, or its control group's."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return physical if sys.platform == "darwin" else min([physical, *_group_limits(Path("/"))])


def available_memory(held: int = 0) -> int:
    """Bytes that a model could take without pushing anything out.

    Args:
        held: bytes that this process holds already. Linux counts them itself; on a Mac they are taken off.
    """
    if sys.platform == "darwin":
        return max(0, int(total_memory() * MAC_SHARE) - held)
    return linux_available(Path("/"))


def linux_available(root: Path) -> int:
    """Available bytes as the files under `root`/proc and `root`/sys say: the least of kernel and control groups."""
    text = (root / "proc/meminfo").read_text(encoding="ascii")
    found = re.search(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE)
    kernel = int(found[1]) * 1024 if found else os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(0, min([kernel, *(limit - used for limit, used in _groups(root))]))


def free_disk(path: str | Path) -> int:
    """Bytes free where `path` is, or where it would be made."""
    path = Path(path).expanduser().absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def human_bytes(count: int) -> str:
    """4812345678 -> '4.8 GB'; decimal units, as disks and the Hub count."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}" if unit == "GB" else f"{count / size:.0f} {unit}"
    return f"{count} bytes"


def _group_limits(root: Path) -> list[int]:
    return [limit for limit, _ in _groups(root)]


def _groups(root: Path) -> Iterator[tuple[int, int]]:
    """Limit and use, in bytes, of each control group this process is in, its parents included."""
    for folder, version in _group_folders(root):
        limit_file, use_file, cache_key = (
            ("memory.max", "memory.current", "inactive_file")
            if version == 2
            else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        )
        limit, used = _number(folder / limit_file), _number(folder / use_file)
        if limit is None or used is None or limit >= _UNLIMITED:
            continue
        # File pages that nobody has touched for long are given back before the limit is felt.
        yield limit, max(0, used - _stat(folder / "memory.stat", cache_key))


def _group_folders(root: Path) -> Iterator[tuple[Path, int]]:
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top, version = (root / "sys/fs/cgroup/memory", 1) if controllers else (root / "sys/fs/cgroup", 2)
        # In a container the path may be the host's: whatever part of it is not there is passed over.
        folder = top / path.strip("/")
        while True:
            yield folder, version
            if folder == top:
                break
            folder = folder.parent


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):  # no such group, or "max"
        return None


def _stat(path: Path, key: str) -> int:
    try:
        text = path.read_text(encoding="ascii")
    except OSError:
        return 0
    found = re.search(rf"^{key} (\d+)$", text, re.MULTILINE)
    return int(found[1]) if found else 0
