"""One direction of the codec for as long as wanted, from processes that follow one another.

rustymimi keeps the keys and values of all it has heard, 64 KB a frame, and gives them back only with its end. So
before a process is full a successor hears the same frames beside it, takes over, and the first one ends. It starts
late, but attention looks back a bounded way and rotary positions are relative: it then holds what an object without
end would hold, up to rounding.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections import deque
from queue import SimpleQueue

from ..errors import AudioError, CheckpointError, MoshiError
from .process import CodecProcess, EndedError, StartError, Task

HURRY = 128
"""Frames before it takes over, a successor stops giving way to others: it works off what it lags behind. At the
usual speed this is enough for a hundred frames and more."""
RECALLED = 25
"""Frames (two seconds) that are heard again where a process was killed: as many as can be without a long pause."""
ON_TIME = 2
"""Frames by which a successor may lag and take over all the same."""


class Relay:
    """Frames in, answers out, as bytes. For one thread at a time.

    When one process takes over from the other depends on frames and not on time, so that equal sound gives equal
    codes: the frame waits for a successor that is late. Not so live (`patient` is False): then the process that is
    there goes on until the successor has caught up, and if it never does, a new one begins with what it is told again.

    Args:
        task: what each process computes, and for how many frames.
        overlap: how many frames a successor hears before it takes over.
        stagger: by how many frames the first process is relieved early.
        first: a process for the task that was made in advance.

    Raises:
        CheckpointError: the weights are none.
    """

    def __init__(self, task: Task, overlap: int, stagger: int = 0, first: CodecProcess | None = None) -> None:
        self.patient = True
        """Whether a frame waits for a successor that is late."""
        self.restarts = 0
        """How often another process went on with little memory of the past: one had ended, or none was ready."""
        self._task, self._overlap, self._stagger = task, overlap, stagger
        self._slack = max(0, min(overlap, task.max_frames - 2 * overlap))  # a late successor is no older than another
        self._recent: deque[bytes] = deque(maxlen=min(RECALLED, overlap))
        self._successor: _Successor | None = None
        self._closed = False
        self._live = _opened(first or self._new())
        self._age = 0  # frames that `_live` has heard
        self._last = task.max_frames - stagger  # its age when it is relieved

    def step(self, frame: bytes) -> bytes:
        """The answer to a frame.

        Raises:
            AudioError: the codec refuses it, or every process ends at it.
        """
        if self._closed:
            raise ValueError("the codec's stream is closed")
        try:
            if self._age >= self._last and self._is_relieved():
                self._hand_over()
            answer = self._live.step(frame)
        except EndedError as reason:
            answer = self._recover(frame, reason)
        self._age += 1
        self._recent.append(frame)
        if self._age > self._last - self._overlap:
            self._prepare(frame)
        return answer

    def reset(self) -> None:
        """Forget all frames."""
        if self._age:  # rustymimi's own reset keeps the position and part of the past
            self._recent.clear()
            self._begin_again()
            self._last = self._task.max_frames - self._stagger

    def close(self) -> None:
        """End the processes."""
        self._closed = True
        self._dismiss_successor()
        self._live.end()

    def _prepare(self, frame: bytes) -> None:
        """Let a successor hear the frame; where none can be started the next frame tries again."""
        if self._successor is None:
            with contextlib.suppress(StartError):
                self._successor = _Successor(self._new())
        if self._successor is not None:
            self._successor.listen(frame, quietly=self._age <= self._last - HURRY)

    def _is_relieved(self) -> bool:
        """Whether this is the frame to hand over at; counts where there is nobody to hand over to."""
        if self.patient or self._successor is None or self._successor.lag <= ON_TIME:
            return True
        if self._age < self._last + self._slack:
            return False
        self.restarts += 1
        self._dismiss_successor()
        return True

    def _hand_over(self) -> None:
        if self._successor is None:
            return self._begin_again()
        self._live.retire()
        self._live, self._age = self._successor.take_over(), self._successor.heard
        self._successor, self._last = None, self._task.max_frames
        return None

    def _begin_again(self) -> None:
        """Go on with a new process that has heard but the last two seconds."""
        self._dismiss_successor()
        process = self._new()
        self._live.end()
        self._live, self._age, self._last = _opened(process), len(self._recent), self._task.max_frames
        for frame in self._recent:
            self._live.listen(frame)

    def _recover(self, frame: bytes, reason: EndedError) -> bytes:
        self.restarts += 1
        heir = self._successor
        if heir is not None and heir.heard >= len(self._recent) and (self.patient or heir.lag <= RECALLED):
            with contextlib.suppress(EndedError):
                self._hand_over()
                return self._live.step(frame)
        with contextlib.suppress(EndedError):
            self._begin_again()
            return self._live.step(frame)
        raise AudioError(f"the codec's processes end at once ({reason}): is there enough memory?") from None

    def _dismiss_successor(self) -> None:
        if self._successor is not None:
            self._successor.dismiss()
            self._successor = None

    def _new(self) -> CodecProcess:
        return CodecProcess(self._task)


class _Successor:
    """A process that listens, fed by a thread so that the frame at hand never waits for it."""

    def __init__(self, process: CodecProcess) -> None:
        self.heard = 0
        """Frames it was given."""
        self._done = [0]
        self._process = process
        self._frames: SimpleQueue[tuple[bytes, bool] | None] = SimpleQueue()
        feeding = (process, self._frames, self._done)  # and not this object, whose end is waited for below
        self._feeding = threading.Thread(target=_feed, args=feeding, name="codec-feed", daemon=True)
        self._feeding.start()
        weakref.finalize(self, self._frames.put, None)  # else thread and process would outlive it

    @property
    def lag(self) -> int:
        """Frames it has yet to hear; none if it is no more, which shows when it takes over."""
        return self.heard - self._done[0] if self._feeding.is_alive() else 0

    def listen(self, frame: bytes, quietly: bool) -> None:
        self.heard += 1
        self._frames.put((frame, quietly))

    def take_over(self) -> CodecProcess:
        """The process, when it has heard all."""
        self._frames.put(None)
        self._feeding.join()
        return self._process

    def dismiss(self) -> None:
        self._process.kill()
        self.take_over().end()


def _feed(process: CodecProcess, frames: SimpleQueue[tuple[bytes, bool] | None], done: list[int]) -> None:
    with contextlib.suppress(EndedError, MoshiError):  # shows again when it takes over
        while (item := frames.get()) is not None:
            process.listen(*item)
            done[0] += 1


def _opened(process: CodecProcess) -> CodecProcess:
    try:
        process.wait_until_open()
    except EndedError as reason:
        raise CheckpointError(
            f"the codec's process ended while it loaded {process.task.path} ({reason}): is there enough memory?"
        ) from None
    return process
