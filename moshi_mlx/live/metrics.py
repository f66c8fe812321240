"""What a conversation measures: time per stage, memory. Fixed in size, however long it lasts.

Percentiles come from histograms with 1% bins. Draws nothing; the audio callback does not call it (there is a lock).
"""

from __future__ import annotations

import ctypes
import math
import os
import resource
import sys
import threading

import mlx.core as mx
import numpy as np

from ..codec.process import living

RESOLUTION = 0.01
"""Width of a histogram's bin relative to its value; a percentile is at most half of that off."""
SHORTEST_S, LONGEST_S = 1e-6, 1e3


class Histogram:
    """Durations from a microsecond to a quarter of an hour in 2,083 bins that grow by 1% each (17 KB).

    Shorter and longer ones count in the first and the last bin; count, mean and extremes are exact.
    """

    def __init__(self) -> None:
        self._bins = np.zeros(_bin(LONGEST_S) + 1, np.int64)
        self.count = 0
        self.total = 0.0
        self.least = math.inf
        self.greatest = 0.0

    def record(self, seconds: float) -> None:
        """Add one duration; a negative one (a clock set back) counts as zero."""
        seconds = max(seconds, 0.0)
        self._bins[_bin(min(max(seconds, SHORTEST_S), LONGEST_S))] += 1
        self.count += 1
        self.total += seconds
        self.least = min(self.least, seconds)
        self.greatest = max(self.greatest, seconds)

    def percentile(self, percent: float) -> float:
        """The smallest duration, within 0.5%, that `percent` of all do not exceed; 0.0 when there is none."""
        if self.count == 0:
            return 0.0
        rank = max(1, math.ceil(percent / 100 * self.count))
        index = int(np.searchsorted(np.cumsum(self._bins), rank))
        middle = SHORTEST_S * (1 + RESOLUTION) ** (index + 0.5)
        return min(max(middle, self.least), self.greatest)

    def summary(self) -> dict[str, float]:
        """Count, and mean, p50, p95, p99 and max in milliseconds."""
        mean = self.total / self.count if self.count else 0.0
        figures = {"mean_ms": mean} | {f"p{p}_ms": self.percentile(p) for p in (50, 95, 99)}
        figures["max_ms"] = self.greatest
        return {"count": self.count} | {name: round(1000 * value, 4) for name, value in figures.items()}


class Metrics:
    """What every stage of one conversation takes, from any thread but the audio callback's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stages: dict[str, Histogram] = {}

    def time(self, stage: str, seconds: float) -> None:
        """Add the time one stage took for one frame."""
        with self._lock:
            self._stages.setdefault(stage, Histogram()).record(seconds)

    def summary(self) -> dict[str, dict[str, float]]:
        """For each stage what `Histogram.summary` tells."""
        with self._lock:
            return {stage: times.summary() for stage, times in self._stages.items()}


def memory() -> dict[str, int]:
    """Bytes: this process's resident size and its peak, the codec's processes', and MLX's active, cached and peak."""
    return {
        "rss": resident_size(),
        "codec_rss": sum(codec_size().values()),
        "peak_rss": peak_resident_size(),
        "mlx_active": mx.get_active_memory(),
        "mlx_cache": mx.get_cache_memory(),
        "mlx_peak": mx.get_peak_memory(),
    }


def codec_size() -> dict[str, int]:
    """Bytes of physical memory that the codec's processes hold now: all that encode, all that decode."""
    sizes = {"encode": 0, "decode": 0}
    for process in living():
        sizes[process.task.direction] += resident_size(process.pid)
    return sizes


def resident_size(pid: int | None = None) -> int:
    """Bytes of physical memory this process holds now; its peak where the system does not say.

    With `pid` another process's of the same user, 0 where there is none.
    """
    try:
        if sys.platform == "darwin":
            return _resident_size_macos(pid or os.getpid())
        with open(f"/proc/{pid or 'self'}/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0 if pid else peak_resident_size()


def peak_resident_size() -> int:
    """Bytes of physical memory this process held at most. macOS counts in bytes, Linux in KiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class _ResourceUsage(ctypes.Structure):
    """rusage_info_v0 of macOS' <sys/resource.h>."""

    _fields_ = (
        ("uuid", ctypes.c_uint8 * 16),
        *((name, ctypes.c_uint64) for name in ("user_time", "system_time", "idle_wakeups", "wakeups", "pageins")),
        *((name, ctypes.c_uint64) for name in ("wired_size", "resident_size", "footprint", "started", "ended")),
    )


def _resident_size_macos(pid: int) -> int:
    usage = _ResourceUsage()
    if ctypes.CDLL("/usr/lib/libSystem.dylib").proc_pid_rusage(pid, 0, ctypes.byref(usage)) != 0:
        raise OSError("proc_pid_rusage failed")
    return int(usage.resident_size)


def _bin(seconds: float) -> int:
    return int(math.log(seconds / SHORTEST_S) / math.log1p(RESOLUTION))
