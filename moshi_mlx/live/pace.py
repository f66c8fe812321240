"""How much of the delay before the speaker is needed, judged by what frames have to spare when they arrive.

Delay comes with every frame that is too late, and unsteady frames need some of it. What no frame of two seconds
needed is taken back. After a stall it takes no two seconds: as soon as frames are on time again, they are given
the room that they had before it and no more. Knows no ring and no clock.
"""

from __future__ import annotations

from collections import deque
from statistics import median

WINDOW = 25
"""Frames over which the least that one had to spare counts: two seconds."""
SOON = 3
"""Frames in a row that say that a stall is over: those that waited behind it come sooner than others will."""

HASTY = 5
"""Times the slack that a quick cut is worth: ten milliseconds. Less can wait for two seconds."""


class Pace:
    """Decides on each frame how many samples to take out or to put in.

    Args:
        slack: samples that are not worth a correction.
        drifting: writes and callbacks run on two clocks and slide past each other.
    """

    def __init__(self, slack: int, drifting: bool) -> None:
        self._slack, self._drifting = slack, drifting
        self._surpluses: deque[int] = deque(maxlen=WINDOW)
        self._underruns = 0
        self._delayed = False  # by an underrun, and not yet settled again
        self._usual: int | None = None  # what a frame has to spare when nothing is the matter
        self._before_cut = 0  # what frames had to spare before the last quick cut
        self._since_cut = WINDOW

    def excess(self, surplus: int, underruns: int, block: int) -> int:
        """Samples to take out, or if negative to put in.

        Args:
            surplus: samples that the frame at hand has to spare.
            underruns: how often the speaker has starved so far.
            block: samples that a callback takes.
        """
        self._since_cut += 1
        if underruns > self._underruns:
            self._starved()
        self._underruns = underruns
        self._surpluses.append(surplus)
        excess = self._quick(block) or self._slow(block)
        if excess:
            self._surpluses.clear()
        return excess

    def _starved(self) -> None:
        """Begin to count anew; where a quick cut has brought this about, frames need what it took."""
        self._surpluses.clear()
        self._delayed = True
        if self._usual is not None and self._since_cut <= WINDOW:
            self._usual = max(self._usual, self._before_cut)

    def _quick(self, block: int) -> int:
        """What the last few frames had to spare beyond the usual, when a stall has added delay."""
        if not self._delayed or self._usual is None or len(self._surpluses) < SOON:
            return 0
        least = min(list(self._surpluses)[-SOON:])
        excess = self._whole(least - self._usual, block)
        if excess <= HASTY * self._slack:
            return 0
        self._before_cut, self._since_cut = least, 0
        return excess

    def _slow(self, block: int) -> int:
        """What a window of frames says: what is taken out, none of them needed.

        Put in is a block before drifting clocks let every write just miss its callback: the median counts, as one
        late frame is no drift.
        """
        if len(self._surpluses) < WINDOW:
            return 0
        middle, least = round(median(self._surpluses)), min(self._surpluses)
        self._delayed = False
        if self._drifting and middle < 2 * self._slack:
            excess = -block
        else:
            excess = self._whole(least - 3 * self._slack if self._drifting else least, block)
            excess = excess if excess > self._slack else 0
        self._usual = middle - excess
        return excess

    def _whole(self, samples: int, block: int) -> int:
        """Whole blocks of it where clocks drift: what is left then stays between two callbacks."""
        if self._drifting:
            samples = samples // max(block, 1) * block
        return max(0, samples)
