from __future__ import annotations

import numpy as np
import pytest

from moshi_mlx.live.drift import Beside
from moshi_mlx.live.rings import SampleRing
from moshi_mlx.live.splice import splice
from moshi_mlx.rates import FRAME_SIZE, SAMPLE_RATE

BLOCK = 480


@pytest.mark.parametrize("cut", [-400, -3, 0, 3, 240, 960])
def test_splice_changes_the_length_and_leaves_no_jump(cut: int) -> None:
    sound = (0.5 * np.sin(2 * np.pi * 300 / SAMPLE_RATE * np.arange(FRAME_SIZE))).astype(np.float32)
    joined = splice(sound, cut, 120)
    assert len(joined) == FRAME_SIZE - cut
    assert joined[0] == sound[0]
    assert joined[-1] == sound[-1]
    assert np.abs(np.diff(joined)).max() < 1.1 * np.abs(np.diff(sound)).max()


def test_splice_cuts_where_it_is_quiet() -> None:
    sound = np.random.default_rng(0).normal(size=FRAME_SIZE).astype(np.float32)
    sound[900:1400] = 0
    joined = splice(sound, 300, 120)
    np.testing.assert_array_equal(joined[:900], sound[:900])
    np.testing.assert_array_equal(joined[-500:], sound[-500:])


@pytest.mark.parametrize("ppm", [-200, 0, 200])
def test_the_played_signal_stays_beside_the_heard_one_for_a_quarter_of_an_hour(ppm: int) -> None:
    """The speaker plays its own wall clock (in seconds, as samples), so each frame tells how old it is."""
    rng = np.random.default_rng(0)
    ring = SampleRing(5 * SAMPLE_RATE)
    beside = Beside(ring, lead=BLOCK)
    rate = SAMPLE_RATE * (1 + ppm * 1e-6)
    blocks, stamp, ages = 0, 0.0, []
    for number in range(1, 900 * 25 // 2):
        heard_at = number * FRAME_SIZE / SAMPLE_RATE
        while blocks * BLOCK / rate <= heard_at:
            at = blocks * BLOCK / rate
            ring.write(at + np.arange(BLOCK, dtype=np.float64) / rate)
            stamp = at + float(rng.exponential(0.001))
            blocks += 1
        frame = beside.read(heard_at - stamp)
        assert len(frame) == FRAME_SIZE
        ages.append(heard_at - float(frame[-1]))
    settled = np.array(ages[100:])
    assert settled.max() - settled.min() < 0.010
    assert beside.ppm == pytest.approx(ppm, abs=10)
    assert (beside.corrected > 0) == (ppm != 0)


def test_a_hiccup_of_the_microphone_is_made_up_at_once() -> None:
    """It loses 0.3 s: what is played would come beside what is heard that much later, and an echo before its sound."""
    ring = SampleRing(5 * SAMPLE_RATE)
    beside = Beside(ring, lead=BLOCK)
    played, ages = 0, []
    for number in range(1, 400):
        heard_at = number * FRAME_SIZE + (0 if number < 100 else 3 * SAMPLE_RATE // 10)
        while played + BLOCK <= heard_at:
            ring.write(np.arange(played, played + BLOCK, dtype=np.float64))
            played += BLOCK
        frame = beside.read((heard_at - played) / SAMPLE_RATE)
        ages.append((heard_at - float(frame[-1])) / SAMPLE_RATE)
    usual = ages[90]
    assert max(ages) > usual + 0.25
    assert max(abs(age - usual) for age in ages[152:]) < 0.005  # after the window in which it falls, and the next
    assert abs(beside.ppm) < 1
