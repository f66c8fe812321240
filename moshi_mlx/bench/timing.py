"""What a row of measured times says: percentiles, the share over 80 ms, and how far two runs may differ.

Frames are measured in rounds that take turns with other work, so that what disturbs a machine for a while
disturbs one round of many; the range of the rounds' medians is the spread.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..rates import FRAME_S

LEAST_ROUNDS = 3
"""Fewer medians have no range worth telling; single frames stand in for them."""


@dataclass
class FrameTimes:
    """Seconds of every frame, by round."""

    rounds: list[list[float]] = field(default_factory=list)

    @property
    def seconds(self) -> list[float]:
        """All frames in order."""
        return [value for one in self.rounds for value in one]

    @property
    def median(self) -> float:
        """The middle frame's seconds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float | None:
        """Seconds by which the median of another run may well differ: the range of the rounds' medians.

        None where a single frame was measured.
        """
        medians = [statistics.median(one) for one in self.rounds if one]
        values = medians if len(medians) >= LEAST_ROUNDS else self.seconds
        return max(values) - min(values) if len(values) > 1 else None

    def percentile(self, percent: float) -> float:
        """The smallest of the times that `percent` of all do not exceed."""
        ordered = sorted(self.seconds)
        return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]

    def summary(self) -> dict[str, Any]:
        """Count, milliseconds, spread of the median, and the share of frames over 80 ms."""
        seconds, spread = self.seconds, self.spread
        return {
            "frames": len(seconds),
            "mean_ms": ms(statistics.fmean(seconds)),
            "p50_ms": ms(self.median),
            "p95_ms": ms(self.percentile(95)),
            "p99_ms": ms(self.percentile(99)),
            "max_ms": ms(max(seconds)),
            "spread_ms": None if spread is None else ms(spread),
            "over_80_ms": round(sum(value > FRAME_S for value in seconds) / len(seconds), 4),
        }


def ms(seconds: float) -> float:
    """Milliseconds to the microsecond."""
    return round(1000 * seconds, 3)


def thinned(values: Sequence[Any], most: int = 2000) -> list[Any]:
    """At most `most` of the values, evenly chosen."""
    step = max(1, math.ceil(len(values) / most))
    return list(values[::step])
