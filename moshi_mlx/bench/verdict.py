"""Whether frames of 80 ms are kept up with, in one sentence: what `bench` and `doctor` both say."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..rates import FRAME_S
from ..speed import KEEPS_UP_S


@dataclass(frozen=True)
class Standing:
    """How one model fares on a machine."""

    name: str
    """'q4', or 'moshiko q4'."""
    seconds: float | None
    """What a frame takes; None where the model does not fit in memory."""
    predicted: bool = False
    """Worked out from memory bandwidth, not measured."""

    @property
    def spare_ms(self) -> int:
        """Whole milliseconds left of the 80; negative where it falls behind."""
        return round(1000 * (FRAME_S - (self.seconds or 0.0)))


def verdict(standings: Iterable[Standing]) -> str:
    """'q4 keeps up with 28 ms to spare; q8 will not (97 ms a frame); bf16 does not fit in memory.'"""
    clauses: list[str] = []
    kept_up = False
    for standing in standings:
        clauses.append(_clause(standing, kept_up))
        kept_up = standing.seconds is not None and standing.seconds <= FRAME_S
    return f"{'; '.join(clauses)}." if clauses else ""


def _clause(standing: Standing, after_one_that_does: bool) -> str:
    name, seconds = standing.name, standing.seconds
    if seconds is None:
        return f"{name} does not fit in memory"
    if seconds > FRAME_S:
        would = "would not" if standing.predicted else "will not"
        return f"{name} {would}{'' if after_one_that_does else ' keep up'} ({_told(seconds)})"
    keeps = "should keep up" if standing.predicted else "keeps up"
    return f"{name} {keeps}{', just,' if seconds > KEEPS_UP_S else ''} with {standing.spare_ms} ms to spare"


def _told(seconds: float) -> str:
    return f"{seconds:.1f} s a frame" if seconds >= 1 else f"{1000 * seconds:.0f} ms a frame"
