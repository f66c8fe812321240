"""Two clocks: reading what the speaker played beside what the microphone heard, when each runs at its own pace.

Devices a few parts per million apart drift by a sample every second or so. Knows no device and no PortAudio.
"""

from __future__ import annotations

from statistics import median

import numpy as np

from moshi_mlx.live.rings import SampleRing
from moshi_mlx.live.splice import splice
from moshi_mlx.rates import FRAME_SIZE, SAMPLE_RATE

WINDOW = 25  # frames whose median is taken: two seconds, to look through the jitter of callbacks
SLACK = SAMPLE_RATE // 500  # 2 ms: smaller deviations are left alone
LARGEST_CORRECTION = FRAME_SIZE // 4
FADE = SAMPLE_RATE // 200


class Beside:
    """Cuts frames from a stream on the speaker's clock so that they stay beside frames on the microphone's.

    Args:
        ring: the speaker's samples at 24 kHz, of which this is the reader.
        lead: samples kept in hand, so that a callback that comes a little late leaves no hole.
    """

    def __init__(self, ring: SampleRing, lead: int) -> None:
        self.corrected = 0
        """Samples taken out or put in so far."""
        self.ppm = 0.0
        """The speaker's clock against the microphone's in parts per million; positive when it is faster."""
        self._ring = ring
        self._lead = lead
        self._frames = 0
        self._shift = 0
        self._offsets: list[float] = []
        self._reference: float | None = None

    def read(self, elapsed: float) -> np.ndarray:
        """Take the next frame, float32 [1920].

        Args:
            elapsed: seconds from the speaker's last callback to the end of the microphone's frame, negative when
                the callback came after it: it tells between callbacks how far the speaker has got.
        """
        if not self._frames:
            self._align()
        self._frames += 1
        extra = self._correction(len(self._ring) + elapsed * SAMPLE_RATE)
        if extra > LARGEST_CORRECTION:  # the microphone has missed it: an echo before its sound cannot be cancelled
            self._ring.skip(extra)
            self.corrected += extra
            extra = 0
        extra = max(-LARGEST_CORRECTION, extra)
        self.corrected += abs(extra)
        self._shift += extra
        samples = self._ring.read(FRAME_SIZE + extra)
        missing = FRAME_SIZE + extra - len(samples)
        if missing:  # a late callback: what it brings too much later is taken back
            samples = np.pad(samples, (missing, 0))
        return splice(samples, extra, FADE)

    def _align(self) -> None:
        wanted = FRAME_SIZE + self._lead
        self._ring.skip(max(0, len(self._ring) - wanted))
        self._ring.write(np.zeros(max(0, wanted - len(self._ring)), np.float32))

    def _correction(self, offset: float) -> int:
        """By how many samples the speaker has run ahead, where that is more than jitter."""
        self._offsets.append(offset)
        if len(self._offsets) < WINDOW:
            return 0
        level = median(self._offsets)
        self._offsets.clear()
        if self._reference is None:
            self._reference = level
            return 0
        deviation = round(level - self._reference)
        self.ppm = (self._shift + deviation) / ((self._frames - WINDOW) * FRAME_SIZE) * 1e6
        return deviation if abs(deviation) > SLACK else 0
