"""What is done to samples in many places: measuring how loud they are, and filling up the last frame."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from .rates import FRAME_SIZE


def level(samples: np.ndarray) -> float:
    """RMS of samples in -1…1."""
    return float(np.sqrt(np.mean(np.square(samples))))


def decibels(level: float) -> float | None:
    """A level in 0…1 relative to full scale, in tenths of a decibel; None for digital silence."""
    return round(20 * math.log10(level), 1) if level > 0 else None


def whole_frame(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """At most 1,920 samples as a frame [1920], silence after them."""
    return np.pad(samples, (0, FRAME_SIZE - len(samples)))
