from __future__ import annotations

import ctypes
import json
import mmap
import os
import sys
import threading
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from moshi_mlx.live import metrics
from moshi_mlx.live.metrics import RESOLUTION, Histogram, Metrics
from moshi_mlx.mimi import Mimi


@pytest.mark.parametrize("spread", [0.05, 1.0, 2.0])
def test_percentiles_agree_with_numpy_within_half_the_resolution(spread: float) -> None:
    durations = 0.02 * np.exp(spread * np.random.default_rng(1).standard_normal(20_000))
    histogram = Histogram()
    for seconds in durations:
        histogram.record(float(seconds))
    for percent in (1, 50, 95, 99, 99.9, 100):
        exact = np.percentile(durations, percent, method="inverted_cdf")
        assert histogram.percentile(percent) == pytest.approx(exact, rel=RESOLUTION / 2 + 1e-6)
    assert histogram.greatest == durations.max()
    assert histogram.summary()["mean_ms"] == pytest.approx(1000 * durations.mean(), abs=1e-4)


@pytest.mark.parametrize("seconds", [-1.0, 0.0, 1e-9, 5e-7, 5e4])
def test_a_duration_beyond_the_bins_is_told_as_it_was(seconds: float) -> None:
    histogram = Histogram()
    histogram.record(seconds)
    assert histogram.percentile(50) == max(seconds, 0.0)


def test_the_size_stays_the_same_however_much_is_recorded() -> None:
    histogram = Histogram()
    bins = histogram._bins.nbytes
    for index in range(50_000):
        histogram.record(1e-6 * 1.001**index if index < 20_000 else 1.0)
    assert histogram._bins.nbytes == bins < 20_000
    assert histogram.count == histogram._bins.sum() == 50_000


def test_an_empty_summary_is_empty() -> None:
    assert Metrics().summary() == {}


def test_times_from_many_threads_are_all_there() -> None:
    collected = Metrics()

    def work() -> None:
        for _ in range(5_000):
            collected.time("lm", 0.03)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    summary = json.loads(json.dumps(collected.summary()))
    assert summary["lm"]["count"] == 20_000
    assert summary["lm"]["p50_ms"] == pytest.approx(30)


def test_memory_follows_what_is_allocated() -> None:
    before = metrics.memory()
    block = mmap.mmap(-1, 80_000_000)  # an array could lie where another one was freed
    block.write(bytes(80_000_000))
    array = mx.ones((10_000_000,), mx.float32)
    mx.eval(array)
    after = metrics.memory()
    assert after["rss"] - before["rss"] > 70_000_000
    assert after["peak_rss"] >= after["rss"] * 0.9
    assert after["mlx_active"] - before["mlx_active"] >= 40_000_000
    assert after["mlx_peak"] >= after["mlx_active"]
    block.close()


def test_the_size_of_the_codec_is_that_of_its_processes(tiny_mimi: Path) -> None:
    before = metrics.memory()
    with Mimi(tiny_mimi).decoder():
        there = metrics.codec_size()["decode"], metrics.memory()
    after = metrics.memory()
    assert there[0] > 300_000_000
    assert there[1]["codec_rss"] - before["codec_rss"] > 300_000_000
    assert there[1]["rss"] - before["rss"] < 50_000_000
    assert after["codec_rss"] == pytest.approx(before["codec_rss"], abs=1_000_000)
    assert metrics.resident_size(2**22 + 1) == 0  # nobody's number


def test_the_macos_structure_has_the_size_the_kernel_fills() -> None:
    assert ctypes.sizeof(metrics._ResourceUsage) == 96
    assert metrics._ResourceUsage.resident_size.offset == 64


@pytest.mark.skipif(sys.platform != "darwin", reason="asks macOS' kernel")
def test_macos_tells_a_resident_size_below_the_peak() -> None:
    assert 1_000_000 < metrics._resident_size_macos(os.getpid()) <= metrics.peak_resident_size() * 1.1
