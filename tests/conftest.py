"""What several test files share: the built-in codec, written once, and something that varies as speech does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def tiny_mimi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from moshi_mlx.checkpoint.tiny_mimi import write_tiny_mimi

    return write_tiny_mimi(tmp_path_factory.mktemp("mimi") / "mimi.safetensors")


@pytest.fixture(scope="session")
def speechlike():
    """`speechlike(frames, seed)`: float32 [frames * 1920] of gliding harmonics in syllables, RMS about 0.07."""
    return _speechlike


def _speechlike(frames: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    time = np.arange(frames * 1920) / 24_000
    knots = np.arange(0, time[-1] + 0.5, 0.15)  # seconds; pitch, loudness and timbre change at each
    pitch = np.interp(time, knots, rng.uniform(90, 220, len(knots)))
    loudness = np.interp(time, knots, rng.uniform(0, 1, len(knots)) ** 2)
    phase = 2 * np.pi * np.cumsum(pitch) / 24_000
    sound = sum(np.interp(time, knots, rng.uniform(0, 1 / n, len(knots))) * np.sin(n * phase) for n in range(1, 12))
    noise = 0.002 * rng.standard_normal(len(time))
    return (0.25 * loudness * sound + noise).astype(np.float32)
