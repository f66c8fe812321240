"""The record of a conversation: both sides as sound, the words with their times, a trace of every stage.

Whatever happens, what is on the disk is valid: sound files are appended to first and their headers corrected after,
a failed write is taken back, the trace is the array form that may end anywhere. The caller never waits for the
disk: a thread of its own writes, from a bounded queue. Draws nothing; what went wrong is kept for the screen.
"""

from __future__ import annotations

import errno
import json
import os
import queue
import struct
import threading
import time
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moshi_mlx.errors import AudioError, MoshiError

CHANNELS = 2
MAX_QUEUED = 4096  # items; a minute of sound, words and spans in some 10 MB
MAX_WAV_BYTES = 2**32 - 2**20  # a wav counts its bytes in 32 bits: 6.2 hours of float32
CLOSE_TIMEOUT_S = 5.0
PAUSE_S = 1.5  # between words, begins a new line of the transcript

Samples = NDArray[np.float32]
Subtype = Literal["float32", "pcm16"]


class _Sound(NamedTuple):
    missing: int  # samples lost before these, to be written as silence
    samples: Samples  # [n, 2]


class _Word(NamedTuple):
    time_s: float
    text: str


class _Span(NamedTuple):
    name: str
    start_s: float
    duration_s: float
    frame: int


class Recording:
    """A folder of its own inside `directory`, named after the time, with

    - `audio.wav`: 24 kHz, left the user, right Moshi; `audio-2.wav` follows where a wav can grow no more;
    - `transcript.txt` to read and `transcript.jsonl` with {"time": seconds, "text": piece} for every piece;
    - `trace.json` for Perfetto or chrome://tracing, one row per stage.

    A process that is killed loses what was still queued: a frame or two. A disk that stalls for longer than the
    queue lasts costs samples, which become silence, so that the rest stays in its place; `lost_samples` and
    `lost_events` count. A full disk ends the recording, not the conversation: see `problem`.

    Raises:
        MoshiError: the folder or its files cannot be made.
    """

    def __init__(
        self,
        directory: Path | str,
        sample_rate: int = 24_000,
        subtype: Subtype = "float32",
        max_wav_bytes: int = MAX_WAV_BYTES,
        max_queued: int = MAX_QUEUED,
    ) -> None:
        self.sample_rate = sample_rate
        self.problem: str | None = None
        """One sentence, once the recording had to stop; None as long as all is well."""
        self.lost_samples = 0
        self.lost_events = 0
        self._owed = 0  # samples to be written as silence before the next ones
        self._max_queued = max_queued
        self._queue: queue.SimpleQueue[_Sound | _Word | _Span | None] = queue.SimpleQueue()
        self._closed = False
        try:
            self.path = _new_folder(Path(directory))
            self._wav = _Wav(self.path, sample_rate, subtype, max_wav_bytes)
            self._text = _Transcript(self.path)
            self._trace = _Trace(self.path / "trace.json")
        except OSError as error:
            raise MoshiError(
                f"cannot record into {directory}: {_reason(error)}; name a folder that can be written"
            ) from error
        self._thread = threading.Thread(target=self._run, name="recording", daemon=True)
        self._thread.start()

    @property
    def duration(self) -> float:
        """Seconds of sound on the disk."""
        return self._wav.samples / self.sample_rate

    def write(self, user: Samples, moshi: Samples) -> None:
        """Add the same stretch of both sides: float32 [n] each, copied at once.

        Raises:
            AudioError: the two are not of one length.
        """
        if user.shape != moshi.shape or user.ndim != 1:
            raise AudioError(f"a recording got {user.shape} samples of the user and {moshi.shape} of Moshi")
        if self._queue.qsize() >= self._max_queued:
            self._owed += len(user)
            self.lost_samples += len(user)
            return
        missing, self._owed = self._owed, 0
        self._put(_Sound(missing, np.stack([user, moshi], axis=1)))

    def word(self, time_s: float, text: str) -> None:
        """Add a piece of Moshi's text as the tokenizer gives it, with its time since the start in seconds."""
        self._put_event(_Word(time_s, text))

    def span(self, name: str, start_s: float, duration_s: float, frame: int) -> None:
        """Add what one stage ("encode", "lm", …) did for one frame, by any clock that all stages share."""
        self._put_event(_Span(name, start_s, duration_s, frame))

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

    def _put_event(self, event: _Word | _Span) -> None:
        if self._queue.qsize() >= self._max_queued:
            self.lost_events += 1
        else:
            self._put(event)

    def _put(self, item: _Sound | _Word | _Span) -> None:
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
        self._wav.append([item for item in items if isinstance(item, _Sound)])
        self._text.append([item for item in items if isinstance(item, _Word)])
        self._trace.append([item for item in items if isinstance(item, _Span)])
        return items[-1] is not None


class _Appender:
    """A new file that grows by whole pieces: a piece that could not be written entirely leaves no trace."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        self.size = 0

    def append(self, piece: bytes) -> None:
        """Raises OSError, having taken back the part that was written."""
        view = memoryview(piece)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError:
            os.ftruncate(self._descriptor, self.size)
            os.lseek(self._descriptor, self.size, os.SEEK_SET)
            raise
        self.size += len(piece)

    def overwrite(self, piece: bytes, position: int) -> None:
        os.pwrite(self._descriptor, piece, position)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class _Wav:
    """audio.wav, audio-2.wav, …: the samples first, then the header that counts them."""

    def __init__(self, folder: Path, sample_rate: int, subtype: Subtype, max_bytes: int) -> None:
        self._folder, self._sample_rate, self._subtype = folder, sample_rate, subtype
        self._width = CHANNELS * (4 if subtype == "float32" else 2)  # bytes of both sides' sample
        self._max_bytes = max_bytes
        self._files = 0
        self.samples = 0
        self._begin()

    def append(self, sounds: list[_Sound]) -> None:
        for sound in sounds:
            for start in range(0, sound.missing, self._sample_rate):  # by the second: it may be an hour
                self._write(np.zeros((min(self._sample_rate, sound.missing - start), CHANNELS), np.float32))
        if sounds:
            self._write(np.concatenate([sound.samples for sound in sounds]))

    def close(self) -> None:
        self._file.close()

    def _begin(self) -> None:
        self._files += 1
        name = "audio.wav" if self._files == 1 else f"audio-{self._files}.wav"
        self._file = _Appender(self._folder / name)
        self._file.append(self._header(0))

    def _write(self, samples: Samples) -> None:
        """Samples float32 [n, 2]; begins another file where this one is full."""
        while len(samples):
            room = (self._max_bytes - self._file.size) // self._width
            if room <= 0:
                self._file.close()
                self._begin()
                continue
            part, samples = samples[:room], samples[room:]
            self._file.append(self._encode(part))
            self._file.overwrite(self._header(self._file.size - len(self._header(0))), 0)
            self.samples += len(part)

    def _encode(self, samples: Samples) -> bytes:
        if self._subtype == "float32":
            return samples.astype("<f4").tobytes()
        samples = np.nan_to_num(samples, nan=0.0, posinf=1.0, neginf=-1.0)
        return np.clip(np.rint(samples * 32768.0), -32768, 32767).astype("<i2").tobytes()

    def _header(self, data_bytes: int) -> bytes:
        """RIFF header for so many bytes of samples. Source: Microsoft's Multimedia Data Standards Update (1994)."""
        code = 3 if self._subtype == "float32" else 1  # WAVE_FORMAT_IEEE_FLOAT, WAVE_FORMAT_PCM
        bits = self._width // CHANNELS * 8
        byte_rate = self._sample_rate * self._width
        form = struct.pack("<HHIIHHH", code, CHANNELS, self._sample_rate, byte_rate, self._width, bits, 0)
        chunks = b"WAVE" + b"fmt " + struct.pack("<I", len(form)) + form
        if self._subtype == "float32":  # any format but PCM carries its count of samples
            chunks += b"fact" + struct.pack("<II", 4, data_bytes // self._width)
        chunks += b"data" + struct.pack("<I", data_bytes)
        return b"RIFF" + struct.pack("<I", len(chunks) + data_bytes) + chunks


class _Transcript:
    """transcript.txt, a line per phrase, and transcript.jsonl, a line per piece; both as they come."""

    def __init__(self, folder: Path) -> None:
        self._lines = _Appender(folder / "transcript.txt")
        self._pieces = _Appender(folder / "transcript.jsonl")
        self._last_s: float | None = None  # when the last piece came
        self._sentence_ended = False

    def append(self, words: list[_Word]) -> None:
        if not words:
            return
        pieces = [json.dumps({"time": round(w.time_s, 3), "text": w.text}, ensure_ascii=False) for w in words]
        self._pieces.append("".join(f"{piece}\n" for piece in pieces).encode())
        self._lines.append("".join(self._continue(word) for word in words).encode())

    def end(self) -> None:
        if self._lines.size:
            self._lines.append(b"\n")

    def close(self) -> None:
        self._lines.close()
        self._pieces.close()

    def _continue(self, word: _Word) -> str:
        """The piece itself, or the beginning of a new line after a sentence or a pause."""
        first = self._last_s is None
        paused = self._last_s is None or word.time_s - self._last_s >= PAUSE_S
        begins = paused or (self._sentence_ended and word.text.startswith(" "))
        self._last_s = word.time_s
        self._sentence_ended = word.text.rstrip().endswith((".", "?", "!"))
        if not begins:
            return word.text
        tenths = max(round(10 * word.time_s), 0)
        clock = f"{tenths // 36000}:{tenths // 600 % 60:02d}:{tenths // 10 % 60:02d}.{tenths % 10}"
        return ("" if first else "\n") + f"{clock}  {word.text.lstrip()}"


class _Trace:
    """Chrome's trace event format as an array, which may be cut anywhere between two events.

    Source: "Trace Event Format", JSON Array Format: the closing bracket is optional. Times are in microseconds.
    """

    def __init__(self, path: Path) -> None:
        self._file = _Appender(path)
        self._rows: dict[str, int] = {}
        process = {"name": "process_name", "ph": "M", "pid": 1, "tid": 0, "args": {"name": "moshi-mlx"}}
        self._file.append(f"[\n{json.dumps(process)}".encode())

    def append(self, spans: list[_Span]) -> None:
        self._file.append("".join(f",\n{json.dumps(event)}" for s in spans for event in self._events(s)).encode())

    def end(self) -> None:
        self._file.append(b"\n]\n")

    def close(self) -> None:
        self._file.close()

    def _events(self, span: _Span) -> list[dict[str, object]]:
        """The span, after the name of its row where it is the row's first."""
        events: list[dict[str, object]] = []
        row = self._rows.get(span.name)
        if row is None:
            row = self._rows[span.name] = len(self._rows) + 1
            name = {"name": span.name}
            events.append({"name": "thread_name", "ph": "M", "pid": 1, "tid": row, "args": name})
        start, duration = round(span.start_s * 1e6, 1), round(span.duration_s * 1e6, 1)
        event: dict[str, object] = {"name": span.name, "ph": "X", "ts": start, "dur": duration}
        events.append(event | {"pid": 1, "tid": row, "args": {"frame": span.frame}})
        return events


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
