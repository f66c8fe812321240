from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from moshi_mlx.errors import AudioError, MoshiError
from moshi_mlx.live import echo
from moshi_mlx.live.echo import LATENCY, EchoCanceller
from moshi_mlx.rates import FRAME_SIZE, SAMPLE_RATE

needs_livekit = pytest.mark.skipif(not echo.available(), reason="the extra aec (livekit) is not installed")
needs_speech = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")


@pytest.fixture(scope="module")
def figures() -> ModuleType:
    path = Path(__file__).parents[2] / "scripts" / "echo_figures.py"
    spec = importlib.util.spec_from_file_location("echo_figures", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["echo_figures"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def noise(seconds: float, level: float = 0.1, seed: int = 0) -> np.ndarray:
    samples = np.random.default_rng(seed).standard_normal(int(seconds * 12.5) * FRAME_SIZE) * level
    return samples.astype(np.float32)


def cancel_all(canceller: EchoCanceller, mic: np.ndarray, played: np.ndarray) -> np.ndarray:
    parts = [
        canceller.cancel(mic[i : i + FRAME_SIZE], played[i : i + FRAME_SIZE]) for i in range(0, len(mic), FRAME_SIZE)
    ]
    return np.concatenate(parts)


@needs_livekit
@needs_speech
@pytest.mark.parametrize(("level_db", "delay_ms"), [(-6, 20), (-6, 250), (-18, 80), (-30, 180)])
def test_echo_is_reduced_by_25_db_and_a_voice_over_it_keeps_all_but_3_db(
    figures: ModuleType, level_db: float, delay_ms: float
) -> None:
    canceller = EchoCanceller()
    result = figures.measure(figures.Scene(level_db=level_db, delay_ms=delay_ms), canceller)
    assert result.erle_db >= 25
    assert result.kept_db >= -3
    assert result.onset_kept_db >= -3
    assert canceller.delay == pytest.approx(delay_ms / 1000, abs=0.002)
    assert canceller.reduction_db is not None
    assert canceller.reduction_db > 15  # a running figure, which the second voice disturbs


@needs_livekit
@needs_speech
def test_webrtc_alone_would_lose_the_voice_that_interrupts(figures: ModuleType) -> None:
    scene = figures.Scene(level_db=-6, delay_ms=80)
    assert figures.measure(scene, echo.WebRtcStage()).kept_db < -5


@needs_speech
def test_the_learned_path_does_not_walk_away_in_minutes(figures: ModuleType) -> None:
    played, answer, near = figures.perform(figures.Scene(level_db=-6, delay_ms=250, interrupts=True))
    mic, stage, sizes = answer + near, echo.LinearStage(SAMPLE_RATE // 2), []
    for _ in range(4):  # 24 s each, both speaking throughout
        for start in range(0, len(mic), echo.BLOCK):
            stage.step(mic[start : start + echo.BLOCK], played[start : start + echo.BLOCK])
        sizes.append(float(np.sum(np.abs(stage._path) ** 2)))
    assert stage.delay == pytest.approx(0.25, abs=0.002)
    assert sizes[3] < 1.05 * sizes[1]


@needs_livekit
def test_microphone_passes_bit_for_bit_while_nothing_is_played() -> None:
    mic = noise(2)
    out = cancel_all(EchoCanceller(), mic, np.zeros_like(mic))
    assert not out[:LATENCY].any()
    np.testing.assert_array_equal(out[LATENCY:], mic[:-LATENCY])


@needs_livekit
def test_microphone_passes_again_a_second_after_the_speaker_falls_silent() -> None:
    mic, played = noise(4), noise(4, seed=1)
    played[2 * SAMPLE_RATE :] = 0
    out = cancel_all(EchoCanceller(), mic, played)
    resumed = 3 * SAMPLE_RATE + FRAME_SIZE
    assert np.any(out[LATENCY:resumed] != mic[: resumed - LATENCY])
    np.testing.assert_array_equal(out[resumed:], mic[resumed - LATENCY : -LATENCY])


@needs_livekit
def test_latency_is_the_same_through_webrtc_as_past_it() -> None:
    mic = noise(2)
    out = echo.WebRtcStage().step(mic, np.zeros_like(mic))
    spectrum = np.fft.rfft(out) * np.conj(np.fft.rfft(mic))
    assert int(np.argmax(np.fft.irfft(spectrum))) == LATENCY


@needs_livekit
def test_a_headset_without_echo_learns_no_echo() -> None:
    canceller = EchoCanceller()
    cancel_all(canceller, noise(4, level=0.001), noise(4, seed=1))
    assert canceller.delay is None
    assert canceller.reduction_db is None


@needs_livekit
def test_not_a_number_spoils_nothing_that_follows() -> None:
    mic, played = noise(6, seed=1) * 0.2, noise(6, seed=1)
    clean = cancel_all(EchoCanceller(), mic, played)
    mic[3 * SAMPLE_RATE : 3 * SAMPLE_RATE + 9] = np.nan
    played[3 * SAMPLE_RATE : 3 * SAMPLE_RATE + 9] = np.inf
    out = cancel_all(EchoCanceller(), mic, played)
    assert np.isfinite(out).all()
    last = slice(5 * SAMPLE_RATE, None)
    assert np.std(out[last]) < 0.1 * np.std(mic[last])
    assert np.std(out[last]) == pytest.approx(np.std(clean[last]), abs=1e-3)


@needs_livekit
def test_reset_makes_a_canceller_new() -> None:
    mic, played = noise(2, seed=1) * 0.2, noise(2, seed=1)
    used, fresh = EchoCanceller(), EchoCanceller()
    cancel_all(used, mic[::-1].copy(), played)
    used.reset()
    np.testing.assert_array_equal(cancel_all(used, mic, played), cancel_all(fresh, mic, played))


@needs_livekit
@pytest.mark.parametrize("samples", [1919, 0.5])
def test_frames_of_another_length_are_refused(samples: float) -> None:
    mic = np.zeros(int(FRAME_SIZE * samples) if samples < 1 else int(samples), np.float32)
    with pytest.raises(AudioError, match="1920"):
        EchoCanceller().cancel(mic, np.zeros(FRAME_SIZE, np.float32))


def test_missing_livekit_is_told_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "livekit.rtc", None)
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setitem(sys.modules, "livekit", None)
    assert not echo.available()
    with pytest.raises(MoshiError, match=r"uv tool install '\.\[aec\]'"):
        EchoCanceller()
