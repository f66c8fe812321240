"""How much of the delay before the speaker is needed, judged by what frames have to spare when they arrive.

Delay comes with every frame that is too late. What a stall has added is taken back as soon as frames are on time
again. Up to half a frame may be what unsteady frames need: it is taken back when none has needed it for two seconds,
and where a frame soon regrets that, the next time only after four times as long, up to five minutes. Knows no ring
and no clock.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from statistics import median

WINDOW = 25
"""Frames over which the least that one had to spare counts at first: two seconds."""
FORGIVEN = 3750
"""Frames after which a late one says nothing against the last cut, and the longest wait before one: five minutes."""
LONGER = 4
"""Times as long to wait after a cut that was regretted."""
SOON = 3
"""Frames in a row that say that a stall is over: those that waited behind it come sooner than others will."""


class Pace:
    """Decides on each frame how many samples to take out or to put in.

    Args:
        slack: samples that are not worth a correction.
        reserve: samples that unsteady frames may need; delay beyond it came from a stall.
        drifting: writes and callbacks run on two clocks and slide past each other.
    """

    def __init__(self, slack: int, reserve: int, drifting: bool) -> None:
        self._slack, self._reserve, self._drifting = slack, reserve, drifting
        self._surpluses: deque[int] = deque(maxlen=FORGIVEN)  # since the last correction or underrun
        self._patience = WINDOW  # frames that must not have needed a small delay before it is taken back
        self._underruns = 0
        self._delayed = False  # by an underrun, and not yet settled again
        self._late = False  # the frame of that underrun, and it is not known yet by how much
        self._usual: int | None = None  # what a frame has to spare when nothing is the matter
        self._before_cut = 0  # what frames had to spare before the last cut after a stall
        self._since_stall = WINDOW  # frames since then
        self._since_cut = FORGIVEN  # frames since a cut of what no frame had needed

    def excess(self, surplus: int, underruns: int, block: int) -> int:
        """Samples to take out, or if negative to put in.

        Args:
            surplus: samples that the frame at hand has to spare.
            underruns: how often the speaker has starved so far.
            block: samples that a callback takes.
        """
        self._since_stall += 1
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
        if self._usual is None and len(self._surpluses) >= SOON:  # a stall in the first two seconds
            self._usual = round(median(self._surpluses))
        self._surpluses.clear()
        self._delayed = self._late = True
        if self._usual is not None and self._since_stall <= WINDOW:
            self._usual = max(self._usual, self._before_cut)

    def _quick(self, block: int) -> int:
        """What the last few frames had to spare beyond the usual, when a stall has added delay."""
        if not self._delayed or self._usual is None or len(self._surpluses) < SOON:
            return 0
        least = self._least(SOON)
        excess = self._whole(least - self._usual, block)
        unsteady = excess <= block and self._since_cut < FORGIVEN  # of a large block any late frame costs a whole one
        if excess > self._reserve and not unsteady:
            self._before_cut, self._since_stall, self._late = least, 0, False
            if excess <= block:
                self._since_cut = 0
            return excess
        if self._late and len(self._surpluses) > SOON:  # the first of them was the late one itself
            self._regret()
        return 0

    def _regret(self) -> None:
        """A frame was a little late: if after a cut, wait longer before the next."""
        self._late = False
        regretted = self._since_cut < FORGIVEN
        self._patience = min(LONGER * self._patience, FORGIVEN) if regretted else WINDOW

    def _slow(self, block: int) -> int:
        """What no frame has needed for long enough; what exceeds the reserve after one window.

        Put in is a block before drifting clocks let every write just miss its callback: the median counts, as one
        late frame is no drift.
        """
        if len(self._surpluses) < WINDOW:
            return 0
        middle = round(median(self._last(WINDOW)))
        self._delayed = False
        if self._drifting and middle < 2 * self._slack:
            excess = -block
        else:
            kept = max(self._reserve, block) if self._patience > WINDOW else 0
            excess = self._spared(self._patience, block) or self._spared(WINDOW, block, kept)
        if excess > 0:
            self._since_cut = 0
        self._usual = middle - excess
        return excess

    def _spared(self, frames: int, block: int, kept: int = 0) -> int:
        """Samples worth taking out that none of the last frames needed, but for some that are kept."""
        if len(self._surpluses) < frames:
            return 0
        least = self._least(frames) - kept
        excess = self._whole(least - 3 * self._slack if self._drifting else least, block)
        return excess if excess > self._slack else 0

    def _last(self, frames: int) -> list[int]:
        return list(islice(reversed(self._surpluses), frames))

    def _least(self, frames: int) -> int:
        return min(self._last(frames))

    def _whole(self, samples: int, block: int) -> int:
        """Whole blocks of it where clocks drift: what is left then stays between two callbacks."""
        if self._drifting:
            samples = samples // max(block, 1) * block
        return max(0, samples)
