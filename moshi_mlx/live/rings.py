"""Preallocated rings of float32 samples between an audio callback and the rest of the program.

One thread writes and one thread reads. Nobody waits: each side moves only its own position, and a position is
one Python integer, replaced whole. Knows nothing of devices, rates or frames.
"""

from __future__ import annotations

import threading
from contextlib import suppress

import numpy as np


class SampleRing:
    """A ring of mono float32 samples for one writer and one reader.

    `written` and `consumed` count samples since the ring was made and never wrap; their difference is what
    waits.

    Args:
        capacity: samples that may wait.
        history: consumed samples that stay readable through `mirror`.
    """

    def __init__(self, capacity: int, history: int = 0) -> None:
        self._samples = np.zeros(capacity + history, np.float32)
        self._capacity = capacity
        self.written = 0
        self.consumed = 0

    def __len__(self) -> int:
        return self.written - self.consumed

    def write(self, samples: np.ndarray) -> int:
        """Append `samples` [n] as far as there is room; returns how many were taken."""
        count = min(len(samples), self._capacity - len(self))
        start = self.written % len(self._samples)
        first = min(count, len(self._samples) - start)
        self._samples[start : start + first] = samples[:first]
        self._samples[: count - first] = samples[first:count]
        self.written += count
        return count

    def read_into(self, out: np.ndarray) -> int:
        """Move waiting samples to the front of `out` [n]; returns how many there were, n at most."""
        count = min(len(out), len(self))
        start = self.consumed % len(self._samples)
        first = min(count, len(self._samples) - start)
        out[:first] = self._samples[start : start + first]
        out[first:count] = self._samples[: count - first]
        self.consumed += count
        return count

    def read(self, count: int) -> np.ndarray:
        """Take `count` samples, or as many as wait, as a new array. Allocates: not for a callback."""
        out = np.empty(min(count, len(self)), np.float32)
        self.read_into(out)
        return out

    def skip(self, count: int) -> int:
        """Consume up to `count` samples unread; returns how many were skipped. The reader's call."""
        count = min(count, len(self))
        self.consumed += count
        return count

    def mirror(self, out: np.ndarray) -> None:
        """Fill `out` [n] with the last n consumed samples, latest first; n must not exceed `history`."""
        stop = self.consumed % len(self._samples)
        first = min(len(out), stop)
        out[:first] = self._samples[stop - first : stop][::-1]
        rest = len(out) - first
        out[first:] = self._samples[len(self._samples) - rest :][::-1]


class Wake:
    """A flag one thread waits for and any thread may raise without ever waiting itself.

    It is a bare lock used as a binary signal: raising only releases it, which cannot block. An Event or a
    Condition would make an audio callback take a lock that the waiting thread may hold.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def set(self) -> None:
        """Raise the flag."""
        if self._lock.locked():
            with suppress(RuntimeError):  # another thread raised it in between
                self._lock.release()

    def wait(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for the flag and lower it; False when it was not raised."""
        return self._lock.acquire(timeout=timeout)
