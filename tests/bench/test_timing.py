"""What is said of a row of times."""

from __future__ import annotations

import random

import pytest

from moshi_mlx.bench.timing import FrameTimes, thinned


def test_percentiles_are_times_that_were_measured() -> None:
    timing = FrameTimes([[i / 1000 for i in range(1, 51)], [i / 1000 for i in range(51, 101)]])
    summary = timing.summary()
    assert summary["frames"] == 100
    assert (summary["p50_ms"], summary["p95_ms"], summary["p99_ms"], summary["max_ms"]) == (50.5, 95, 99, 100)
    assert summary["over_80_ms"] == 0.2
    assert summary["mean_ms"] == pytest.approx(50.5)


def test_a_frame_of_just_80_ms_is_in_time() -> None:
    assert FrameTimes([[0.08, 0.0801]]).summary()["over_80_ms"] == 0.5


def test_the_spread_is_the_range_of_the_rounds_medians() -> None:
    assert FrameTimes([[1, 2, 30], [1, 3, 90], [1, 5, 70]]).spread == 3
    assert FrameTimes([[1, 2], [4]]).spread == 3  # too few rounds: the frames themselves
    assert FrameTimes([[1.0]]).spread is None


def test_two_runs_of_one_machine_lie_within_their_spread_and_a_faster_one_does_not() -> None:
    def run(seed: int, frame: float) -> FrameTimes:
        noise = random.Random(seed)
        return FrameTimes([[frame * (1 + abs(noise.gauss(0, 0.1))) for _ in range(20)] for _ in range(5)])

    for seed in range(0, 100, 2):
        same, again, faster = run(seed, 0.05), run(seed + 1, 0.05), run(seed + 1, 0.03)
        assert same.spread is not None
        assert again.spread is not None
        assert abs(same.median - again.median) <= same.spread + again.spread
        assert abs(same.median - faster.median) > same.spread + (faster.spread or 0)


def test_a_long_series_is_thinned_evenly() -> None:
    assert thinned(range(10), 20) == list(range(10))
    assert thinned(range(20_000), 2000) == list(range(0, 20_000, 10))
    assert len(thinned(range(2001), 2000)) <= 2000
