"""How far a translation runs behind the speaker, told from when each of the two is heard.

Knows levels and words by frame, and nothing that made them.
"""

from __future__ import annotations

from array import array
from collections.abc import MutableSequence, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..rates import FRAME_RATE

_SHARE = 0.1  # of a side's loud frames: what is quieter is a pause
_LOUD = 95  # percentile
_FLOOR = 1e-3  # RMS, -60 dBFS: what is quieter is silence


@dataclass(frozen=True)
class Lag:
    """Seconds that the translation is behind; None where one side, or its words, cannot be heard."""

    start: float | None
    """From the first sound of the source to the first of the translation."""
    mean: float | None
    """On average over the words of the translation: from the moment at which as large a part of the source's speech
    had been heard as stands before the word in the translation, to the word."""
    end: float | None
    """From the last sound of the source to the last of the translation."""


@dataclass
class LagMeter:
    """Takes both sides frame by frame, in step; each list may be written by a thread of its own."""

    source: MutableSequence[float] = field(default_factory=lambda: array("d"))
    """RMS of each frame that was heard."""
    translation: MutableSequence[float] = field(default_factory=lambda: array("d"))
    """RMS of each frame that was said."""
    words: list[int] = field(default_factory=list)
    """The frames in which words of the translation begin to sound."""

    def lag(self) -> Lag:
        """What can be told up to now."""
        heard, said = _speech(self.source), _speech(self.translation)
        start = end = mean = None
        if len(heard) and len(said):
            start, end = (said[0] - heard[0]) / FRAME_RATE, (said[-1] - heard[-1]) / FRAME_RATE
        if len(heard) and self.words:
            parts = np.arange(len(self.words)) / len(self.words)
            source = heard[(parts * len(heard)).astype(int)]
            mean = float(np.mean(np.array(self.words) - source)) / FRAME_RATE
        return Lag(*(None if seconds is None else round(float(seconds), 3) for seconds in (start, mean, end)))


def _speech(levels: Sequence[float]) -> np.ndarray:
    """The frames in which somebody speaks."""
    if not levels:
        return np.zeros(0, int)
    loud = np.array(levels)
    return np.flatnonzero(loud > max(_FLOOR, _SHARE * np.percentile(loud, _LOUD)))
