"""What a frame's bytes make of its time, and the bandwidth that reads them."""

from __future__ import annotations

import time

import mlx.core as mx
import numpy as np
import pytest

from moshi_mlx.checkpoint.sizes import frame_bytes
from moshi_mlx.config import MOSHI_7B, LMConfig
from moshi_mlx.speed import measure_bandwidth, predict

MOSHI = LMConfig.from_dict(MOSHI_7B)


def test_what_design_says_of_an_m1_pro() -> None:
    start, full = predict(frame_bytes(MOSHI, 4, 0), 200e9), predict(frame_bytes(MOSHI, 4), 200e9)
    assert (1000 * start.floor_s, 1000 * full.floor_s) == (pytest.approx(23, abs=0.5), pytest.approx(31, abs=0.5))
    assert full.likely_s > full.floor_s
    assert full.keeps_up
    assert not predict(frame_bytes(MOSHI, 8), 200e9).keeps_up


def test_bandwidth_is_what_numpy_sees_too_and_takes_no_time_and_memory() -> None:
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    start = time.process_time()
    measured = measure_bandwidth()
    assert time.process_time() - start < 5
    assert mx.get_peak_memory() - before < 300_000_000
    array = np.zeros(2**26, np.float32)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        array += 1
        times.append(time.perf_counter() - start)
    by_numpy = 2 * array.nbytes / min(times)
    assert by_numpy / 4 < measured < (50 if mx.default_device().type == mx.DeviceType.gpu else 4) * by_numpy
