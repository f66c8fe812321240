"""What the machine took away from a conversation, measured from outside it: a process of its own beside the test.

Every tenth of a second it writes down how late it was woken itself, and how much processor time went to processes
that are neither the test's nor its children's, time that the hypervisor kept included. Linux only (/proc).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np

NAP_S, ROW_S = 0.01, 0.1
TREE_EVERY = 10
"""Rows after which it looks for children that are new."""
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class Watcher:
    """Watches while the context lasts, then tells; times are of `time.perf_counter()`."""

    def __enter__(self) -> Watcher:
        command = [sys.executable, __file__, str(os.getpid())]
        self._rows = tempfile.TemporaryFile("w+")  # a pipe would be full after three minutes
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=self._rows, text=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()  # closes its stdin: it ends
        with self._rows as file:
            file.seek(0)
            self.rows = np.array([line.split() for line in file], float).reshape(-1, 3)
        """[n, 3]: when, seconds late at worst since the row before, processor seconds of others since then."""

    def late(self, begin: float, end: float) -> float:
        """Seconds that it was late itself, at worst, between two moments."""
        return float(self._between(begin, end)[:, 1].max(initial=0.0))

    def taken(self, begin: float, end: float) -> float:
        """Processor seconds that others had, and the hypervisor, between two moments."""
        return float(self._between(begin, end)[:, 2].sum())

    def _between(self, begin: float, end: float) -> np.ndarray:
        return self.rows[(self.rows[:, 0] >= begin) & (self.rows[:, 0] - ROW_S <= end)]


def watch(root: int) -> None:
    """Print rows until stdin is closed."""
    import select

    ours, busy, used, worst, due = Tree(root), machine(), 0.0, 0.0, time.perf_counter() + ROW_S
    spent = ours.spend()
    while not select.select([sys.stdin], [], [], 0)[0]:
        asleep = time.perf_counter()
        time.sleep(NAP_S)
        now = time.perf_counter()
        worst = max(worst, now - asleep - NAP_S)
        if now < due:
            continue
        before, busy, spent = busy, machine(), ours.spend()
        used = busy - before - spent
        sys.stdout.write(f"{now} {worst} {used}\n")
        worst, due = 0.0, now + ROW_S


class Tree:
    """The processor time of a process and all that it has started."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._known: dict[int, int] = {}
        self._rows = 0

    def spend(self) -> float:
        """Seconds since the last call; those of a process that has ended meanwhile are lost."""
        if self._rows % TREE_EVERY == 0:
            for pid in family(self._root):
                self._known.setdefault(pid, ticks(pid) or 0)
        self._rows += 1
        total = 0
        for pid, before in list(self._known.items()):
            now = ticks(pid)
            if now is None:
                del self._known[pid]
            else:
                total += now - before
                self._known[pid] = now
        return total * TICK_S


def machine() -> float:
    """Seconds that all processors have been busy or stolen, of /proc/stat's first line: all but idle and iowait."""
    with open("/proc/stat") as file:
        user, nice, system, _idle, _wait, irq, softirq, steal, *_ = map(int, file.readline().split()[1:])
    return (user + nice + system + irq + softirq + steal) * TICK_S


def ticks(pid: int) -> int | None:
    """Processor time of one process in ticks; None when it is no more."""
    fields = stat(pid)
    return None if fields is None else int(fields[11]) + int(fields[12])


def stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the third on: the second, a name, may hold spaces."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def family(root: int) -> Iterator[int]:
    """The process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := stat(int(entry))) is not None:
            children.setdefault(int(fields[1]), []).append(int(entry))
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        yield pid
        waiting += children.get(pid, [])


if __name__ == "__main__":
    watch(int(sys.argv[1]))
