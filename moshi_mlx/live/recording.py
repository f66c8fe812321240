"""The record of a conversation: both sides as sound, the words with their times, a trace of every stage.

Whatever happens, what is on the disk is valid (record_files.py sees to that), and the caller never waits for the
disk: a thread of its own writes, from a bounded queue. Draws nothing; what went wrong is kept for the screen.
"""

from __future__ import annotations

import errno
import queue
import threading
import time
from pathlib import Path

import numpy as np

from moshi_mlx.errors import AudioError, MoshiError
from moshi_mlx.live.record_files import Piece, Samples, Sound, Span, Trace, Transcript, Wav
from moshi_mlx.rates import SAMPLE_RATE

MAX_QUEUED = 4096  # items; a minute of sound, words and spans in some 10 MB
MAX_WAV_BYTES = 2**32 - 2**20  # a wav counts its bytes in 32 bits: 6.2 hours of float32
CLOSE_TIMEOUT_S = 5.0


class Recording:
    """A folder of its own inside `directory`, named after the time, with

    - `audio.wav`: 24 kHz, left the user, right Moshi; `audio-2.wav` follows where a wav can grow no more;
    - `transcript.txt` to read and `transcript.jsonl` with {"time": seconds, "text": piece} for every piece;
    - `trace.json` for Perfetto or chrome://tracing, one row per stage.

    A process that is killed loses what was still queued: a frame or two. A disk that stalls for longer than the
    queue lasts costs samples, which become silence, so that the rest stays in its place; `lost` counts. A full disk
    ends the recording, not the conversation: see `problem`.

    Raises:
        MoshiError: the folder or its files cannot be made.
    """

    def __init__(
        self,
        directory: Path | str,
        max_wav_bytes: int = MAX_WAV_BYTES,
        max_queued: int = MAX_QUEUED,
    ) -> None:
        self.problem: str | None = None
        """One sentence, once the recording had to stop; None as long as all is well."""
        self._lost_samples = 0
        self._lost_events = 0
        self._owed = 0  # samples to be written as silence before the next ones
        self._max_queued = max_queued
        self._queue: queue.SimpleQueue[Sound | Piece | Span | None] = queue.SimpleQueue()
        self._closed = False
        try:
            self.path = _new_folder(Path(directory))
            self._wav = Wav(self.path, max_wav_bytes)
            self._text = Transcript(self.path)
            self._trace = Trace(self.path / "trace.json")
        except OSError as error:
            raise MoshiError(
                f"cannot record into {directory}: {_reason(error)}; name a folder that can be written"
            ) from error
        self._thread = threading.Thread(target=self._run, name="recording", daemon=True)
        self._thread.start()

    @property
    def duration(self) -> float:
        """Seconds of sound on the disk."""
        return self._wav.samples / SAMPLE_RATE

    def lost(self) -> dict[str, float]:
        """What a slow disk has cost so far: seconds of sound, and words and stages (`events`)."""
        return {"seconds": self._lost_samples / SAMPLE_RATE, "events": self._lost_events}

    def write(self, user: Samples, moshi: Samples) -> None:
        """Add the same stretch of both sides: float32 [n] each, copied at once.

        Raises:
            AudioError: the two are not of one length.
        """
        if user.shape != moshi.shape or user.ndim != 1:
            raise AudioError(f"a recording got {user.shape} samples of the user and {moshi.shape} of Moshi")
        if self._queue.qsize() >= self._max_queued:
            self._owed += len(user)
            self._lost_samples += len(user)
            return
        missing, self._owed = self._owed, 0
        self._put(Sound(missing, np.stack([user, moshi], axis=1)))

    def piece(self, time_s: float, text: str) -> None:
        """Add a piece of Moshi's text as the tokenizer gives it, with its time since the start in seconds."""
        self._put_event(Piece(time_s, text))

    def span(self, name: str, start_s: float, duration_s: float, frame: int) -> None:
        """Add what one stage ("encode", "lm", …) did for one frame, by any clock that all stages share."""
        self._put_event(Span(name, start_s, duration_s, frame))

    def close(self) -> None:
        """Write what is queued and end the files; waits at most five seconds for the disk."""
        if self._closed:
            return
        if self._owed:
            self.write(np.zeros(0, np.float32), np.zeros(0, np.float32))
        self._closed = True
        self._queue.put(None)
        self._thread.join(CLOSE_TIMEOUT_S)
        if self._thread.is_alive() and self.problem is None:
            self.problem = f"the disk did not take the end of the recording in time: {self.path}"

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _put_event(self, event: Piece | Span) -> None:
        if self._queue.qsize() >= self._max_queued:
            self._lost_events += 1
        else:
            self._put(event)

    def _put(self, item: Sound | Piece | Span) -> None:
        if not self._closed and self.problem is None:
            self._queue.put(item)

    def _run(self) -> None:
        try:
            while self._write_batch():
                pass
            self._text.end()
            self._trace.end()
        except OSError as error:
            at = time.strftime("%H:%M:%S", time.gmtime(self.duration))
            self.problem = (
                f"recording stopped at {at}: {_reason(error)}; what was recorded until then is in {self.path}"
            )
        finally:
            for file in (self._wav, self._text, self._trace):
                file.close()

    def _write_batch(self) -> bool:
        """Wait for something to write, and write it with all that queued up meanwhile; False at the end."""
        items = [self._queue.get()]
        while len(items) < 256 and not self._queue.empty():
            items.append(self._queue.get())
        self._wav.append([item for item in items if isinstance(item, Sound)])
        self._text.append([item for item in items if isinstance(item, Piece)])
        self._trace.append([item for item in items if isinstance(item, Span)])
        return items[-1] is not None


def _new_folder(directory: Path) -> Path:
    """Make and return directory/2026-01-31_09-05-00, or …-2 where that exists."""
    directory.mkdir(parents=True, exist_ok=True)
    stamp, number = time.strftime("%Y-%m-%d_%H-%M-%S"), 1
    while True:
        path = directory / (stamp if number == 1 else f"{stamp}-{number}")
        try:
            path.mkdir()
        except FileExistsError:
            number += 1
        else:
            return path


def _reason(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full"
    if error.errno == errno.EFBIG:
        return "the file may grow no more"
    return error.strerror or str(error)
