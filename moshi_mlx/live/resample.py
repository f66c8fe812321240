"""Streaming resampling for devices that do not run at 24 kHz, by soxr. Knows no device."""

from __future__ import annotations

import numpy as np


class Resampler:
    """Mono float32 from one rate to another, chunk by chunk, 5 to 10 ms late.

    soxr's variable-rate engine is used at a fixed ratio: its delay is constant and every chunk comes out
    whole, where the fixed-rate one works in blocks of its own and is late by 1 to 39 ms, in turn (measured,
    20 ms chunks).
    """

    def __init__(self, from_rate: float, to_rate: float) -> None:
        import soxr

        self._stream = soxr.ResampleStream(from_rate, to_rate, 1, dtype="float32", quality="HQ", vr=True)
        self._stream.set_io_ratio(from_rate, to_rate, 0)
        self(np.zeros(round(from_rate / 10), np.float32))  # so that the first chunk comes out whole too

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """Resample the next `samples` [n]; returns what is ready [about n · to / from]."""
        return self._stream.resample_chunk(samples)


def resampler(from_rate: int, to_rate: int) -> Resampler | None:
    """A resampler, or None where there is nothing to do."""
    return None if from_rate == to_rate else Resampler(from_rate, to_rate)
