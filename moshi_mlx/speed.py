"""What time a frame has, and what a machine's memory makes of the bytes that one must read.

One frame at batch 1 reads every weight once and does next to no arithmetic on it, so no program is faster
than bytes / bandwidth. How many bytes that are is counted in checkpoint/sizes.py.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

from .rates import FRAME_S

KEEPS_UP_S = 0.8 * FRAME_S
"""A frame's time with a fifth to spare."""
REACHED = 0.7
"""Assumed, not measured: the share of the bandwidth that a whole frame's kernels reach."""
FIXED_S = 0.008
"""Assumed, not measured: what a frame costs beside its reading (kernel starts, sampling, one wait)."""

_BUFFER_BYTES = 2**28
"""Larger than any cache, so that every pass goes through memory."""
_RUN_S = 0.03


@dataclass(frozen=True)
class Prediction:
    """A frame's time in seconds."""

    floor_s: float
    """Bytes / bandwidth: nothing can be faster."""
    likely_s: float
    """The floor at `REACHED` of the bandwidth, and `FIXED_S`: an assumption."""

    @property
    def keeps_up(self) -> bool:
        """Whether the likely time leaves a fifth of the 80 ms to spare."""
        return self.likely_s <= KEEPS_UP_S


def predict(nbytes: int, bandwidth: float) -> Prediction:
    """The time of a frame that reads `nbytes`, on a machine that reads `bandwidth` bytes per second."""
    floor_s = nbytes / bandwidth
    return Prediction(floor_s, floor_s / REACHED + FIXED_S)


def measure_bandwidth() -> float:
    """Bytes per second that this machine's memory reads and writes, measured in MLX by rewriting a large array.

    Takes about a third of a second and 256 MB for that time; the median of five runs.
    """
    import mlx.core as mx

    array = mx.zeros((_BUFFER_BYTES // 4,), mx.float32)
    mx.eval(array)
    passes, seconds = 1, []
    for _ in range(6):
        start = time.perf_counter()
        for _ in range(passes):
            array = array + 1  # nobody else holds it, so it is rewritten in its own memory
        mx.eval(array)
        seconds.append((time.perf_counter() - start) / passes)
        # A fast machine's pass is over in less than it takes to start one: do several behind one wait.
        passes = max(1, min(16, round(_RUN_S / seconds[-1])))
    del array
    mx.clear_cache()
    return 2 * _BUFFER_BYTES / statistics.median(seconds[1:])
