"""The way to the speaker: what the decoder made goes in, what the callback plays comes out.

`write` belongs to the decoder's thread, `render` to the audio callback; between them stands one ring. Here
live the rules of lag: nothing plays more than a frame late, delay that no frame needs is taken back (pace.py says
how much), and a speaker that starves fades to silence and back. Knows no device.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from moshi_mlx.live.pace import Pace
from moshi_mlx.live.resample import resampler
from moshi_mlx.live.rings import SampleRing, Wake
from moshi_mlx.live.splice import splice
from moshi_mlx.rates import FRAME_SIZE, SAMPLE_RATE

FADE_SECONDS = 0.005
RING_FRAMES = 16  # more than two wait only until the next callback discards them
QUEUED_FRAMES = 12  # what waits where nothing can be late: a second, through which a slow writer is not heard
SLACK_SECONDS = 0.002  # not worth a correction


@dataclass
class SpeakerStats:
    """What happened on the way to the speaker; samples at 24 kHz, whatever the device's rate."""

    underruns: int = 0
    discarded_samples: int = 0
    cut_samples: int = 0
    inserted_samples: int = 0


class Speaker:
    """Frames in, any block size out.

    Args:
        rate: the device's samples per second.
        drifting: the speaker runs on another clock than the microphone, so writes and callbacks slide past each other.
        stats: where to count.
    """

    def __init__(self, rate: int, drifting: bool, stats: SpeakerStats) -> None:
        self.stats = stats
        self._rate = rate
        self._frame = FRAME_SIZE * rate // SAMPLE_RATE
        self._fade = round(FADE_SECONDS * rate)
        self._ring = SampleRing(RING_FRAMES * self._frame, history=self._fade)
        self._resampler = resampler(SAMPLE_RATE, rate)
        self._taken = Wake()
        self._resting = False
        self._drifting = drifting
        # The writer's: the correction still to be made, and what decides on the next.
        self._pace = Pace(round(SLACK_SECONDS * rate), self._frame // 2, drifting)
        self._correction = 0
        # The callback's: how far the fades have come, and the sound that is fading out.
        self._ramp = np.linspace(0.0, 1.0, self._fade, dtype=np.float32)
        self._tail = np.zeros(self._fade, np.float32)
        self._risen = self._fade
        self._fallen = self._fade
        self._playing = False
        self._rendered_at = 0.0
        self._block = 0
        self._start_at = 0  # the ring position before which nothing shall play; the writer's

    def write(self, frame: np.ndarray) -> None:
        """Queue one frame [1920] at 24 kHz. Never waits: what is too late is discarded, oldest first."""
        samples = frame if self._resampler is None else self._resampler(frame)
        if len(self._ring) > self._frame:
            self._start_at = self._ring.written - self._frame
        samples = self._keep_pace(samples)
        taken = self._ring.write(samples)
        self.stats.discarded_samples += self._told(len(samples) - taken)
        self._resting = False

    def rest(self) -> None:
        """Nothing follows for a while: that the speaker runs out of sound is no underrun."""
        self._resting = True

    def queue(self, frame: np.ndarray) -> bool:
        """Queue one frame [1920] at 24 kHz that cannot be late; False, and nothing done, while there is no room."""
        if len(self._ring) > QUEUED_FRAMES * self._frame:
            return False
        self._ring.write(frame if self._resampler is None else self._resampler(frame))
        return True

    def wait(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for the next callback."""
        self._taken.wait(timeout)

    @property
    def waiting(self) -> int:
        """Samples that wait, at the device's rate."""
        return len(self._ring)

    @property
    def waiting_seconds(self) -> float:
        """The same, as time."""
        return self.waiting / self._rate

    def _keep_pace(self, samples: np.ndarray) -> np.ndarray:
        """Take back delay that no frame needs, at most three quarters of a frame with each."""
        surplus = self._surplus()
        if not self._correction:
            self._correction = self._pace.excess(surplus, self.stats.underruns, self._block)
        elif self._correction > 0:  # less, if a frame has been late meanwhile
            self._correction = max(0, min(self._correction, surplus))
        step = max(-self._frame // 4, min(self._correction, 3 * self._frame // 4))
        self._correction -= step
        self.stats.cut_samples += self._told(max(0, step))
        self.stats.inserted_samples += self._told(max(0, -step))
        return splice(samples, step, self._fade)

    def _surplus(self) -> int:
        """Samples to spare when a frame arrives.

        On one clock: what still waits, which is delay if it always does. On two, writes and callbacks slide past
        each other, so it is the time until a callback finds less than a block, in samples.
        """
        waiting = len(self._ring) - max(0, self._start_at - self._ring.consumed)
        if not self._drifting or not self._block:
            return waiting
        since = round((time.perf_counter() - self._rendered_at) * self._rate)
        return (waiting // self._block + 1) * self._block - since

    def render(self, out: np.ndarray) -> None:
        """Fill `out` [block] with what comes next. The callback's: copies and fades, nothing more."""
        self._rendered_at, self._block = time.perf_counter(), len(out)
        late = self._start_at - self._ring.consumed
        if late > 0:
            if self._playing:
                self._begin_fall()
            self.stats.discarded_samples += self._told(self._ring.skip(late))
        got = self._ring.read_into(out)
        out[got:] = 0.0
        if got:
            self._playing = True
            self._rise(out[:got])
        self._fall(out)
        if got < len(out):
            self._starve(out[got:])
        self._taken.set()

    def _starve(self, rest: np.ndarray) -> None:
        if self._playing:
            self._playing = False
            self.stats.underruns += not self._resting
            self._begin_fall()
            self._fall(rest)

    def _told(self, samples: int) -> int:
        return samples * SAMPLE_RATE // self._rate

    def _begin_fall(self) -> None:
        """Let the sound run out mirrored at its last sample: no jump, and no need to know the future."""
        self._ring.mirror(self._tail)
        self._tail *= self._ramp[::-1] * self._ramp[min(self._risen, self._fade - 1)]
        self._fallen = self._risen = 0

    def _fall(self, out: np.ndarray) -> None:
        count = min(len(out), self._fade - self._fallen)
        if count > 0:
            out[:count] += self._tail[self._fallen : self._fallen + count]
            self._fallen += count

    def _rise(self, out: np.ndarray) -> None:
        count = min(len(out), self._fade - self._risen)
        if count > 0:
            out[:count] *= self._ramp[self._risen : self._risen + count]
            self._risen += count
