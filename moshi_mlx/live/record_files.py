"""The files of a record: sound as wav, words as text and JSON lines, spans as Chrome's trace.

Each grows by whole pieces and is valid at every moment: appended to first, headers corrected after, a failed write
taken back. Knows no thread: `recording.py` calls from its own.
"""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moshi_mlx.rates import SAMPLE_RATE

CHANNELS = 2
SAMPLE_BYTES = CHANNELS * 4  # of both sides, float32
IEEE_FLOAT = 3  # WAVE_FORMAT_IEEE_FLOAT
PAUSE_S = 1.5  # between words, begins a new line: of the transcript and in the terminal

Samples = NDArray[np.float32]


class Sound(NamedTuple):
    """Both sides' samples."""

    missing: int
    """Lost before these, to be written as silence."""
    samples: Samples
    """[n, 2]."""


class Piece(NamedTuple):
    """A piece of Moshi's text."""

    time_s: float
    text: str


class Span(NamedTuple):
    """What one stage did for one frame."""

    name: str
    start_s: float
    duration_s: float
    frame: int


class Appender:
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
        """Put `piece` in the place of what is there; raises OSError."""
        os.pwrite(self._descriptor, piece, position)

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Wav:
    """audio.wav, audio-2.wav, …: the samples first, then the header that counts them."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        self._files = 0
        self.samples = 0
        self._begin()

    def append(self, sounds: list[Sound]) -> None:
        """Write them, begun anew in another file where one is full; raises OSError."""
        whole: list[Samples] = []  # without a gap among them: one write
        for sound in sounds:
            if sound.missing:
                self._join(whole)
                whole = []
                self._leave_out(sound.missing)
            whole.append(sound.samples)
        self._join(whole)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _begin(self) -> None:
        self._files += 1
        name = "audio.wav" if self._files == 1 else f"audio-{self._files}.wav"
        self._file = Appender(self._folder / name)
        self._file.append(_header(0))

    def _join(self, parts: list[Samples]) -> None:
        if parts:
            self._write(np.concatenate(parts))

    def _leave_out(self, missing: int) -> None:
        for start in range(0, missing, SAMPLE_RATE):  # by the second: it may be an hour
            self._write(np.zeros((min(SAMPLE_RATE, missing - start), CHANNELS), np.float32))

    def _write(self, samples: Samples) -> None:
        """Samples float32 [n, 2]; begins another file where this one is full."""
        while len(samples):
            room = (self._max_bytes - self._file.size) // SAMPLE_BYTES
            if room <= 0:
                self._file.close()
                self._begin()
                continue
            part, samples = samples[:room], samples[room:]
            self._file.append(part.astype("<f4").tobytes())
            self._file.overwrite(_header(self._file.size - len(_header(0))), 0)
            self.samples += len(part)


def _header(data_bytes: int) -> bytes:
    """RIFF header for so many bytes of samples. Source: Microsoft's Multimedia Data Standards Update (1994)."""
    form = struct.pack("<HHIIHHH", IEEE_FLOAT, CHANNELS, SAMPLE_RATE, SAMPLE_RATE * SAMPLE_BYTES, SAMPLE_BYTES, 32, 0)
    chunks = b"WAVE" + b"fmt " + struct.pack("<I", len(form)) + form
    chunks += b"fact" + struct.pack("<II", 4, data_bytes // SAMPLE_BYTES)  # any format but PCM counts its samples
    chunks += b"data" + struct.pack("<I", data_bytes)
    return b"RIFF" + struct.pack("<I", len(chunks) + data_bytes) + chunks


class Transcript:
    """transcript.txt, a line per phrase, and transcript.jsonl, a line per piece; both as they come."""

    def __init__(self, folder: Path) -> None:
        self._lines = Appender(folder / "transcript.txt")
        self._pieces = Appender(folder / "transcript.jsonl")
        self._last_s: float | None = None  # when the last piece came
        self._sentence_ended = False

    def append(self, pieces: list[Piece]) -> None:
        """Write them to both files; raises OSError."""
        if not pieces:
            return
        objects = [{"time": round(piece.time_s, 3), "text": piece.text} for piece in pieces]
        self._pieces.append("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in objects).encode())
        self._lines.append("".join(map(self._continue, pieces)).encode())

    def end(self) -> None:
        """Finish the last line; raises OSError."""
        if self._lines.size:
            self._lines.append(b"\n")

    def close(self) -> None:
        """Close both files."""
        self._lines.close()
        self._pieces.close()

    def _continue(self, piece: Piece) -> str:
        """The piece itself, or the beginning of a new line after a sentence or a pause."""
        first = self._last_s is None
        paused = self._last_s is None or piece.time_s - self._last_s >= PAUSE_S
        begins = paused or (self._sentence_ended and piece.text.startswith(" "))
        self._last_s = piece.time_s
        self._sentence_ended = piece.text.rstrip().endswith((".", "?", "!"))
        if not begins:
            return piece.text
        tenths = max(round(10 * piece.time_s), 0)
        clock = f"{tenths // 36000}:{tenths // 600 % 60:02d}:{tenths // 10 % 60:02d}.{tenths % 10}"
        return ("" if first else "\n") + f"{clock}  {piece.text.lstrip()}"


class Trace:
    """Chrome's trace event format as an array, which may be cut anywhere between two events.

    Source: "Trace Event Format", JSON Array Format: the closing bracket is optional. Times are in microseconds.
    """

    def __init__(self, path: Path) -> None:
        self._file = Appender(path)
        self._rows: dict[str, int] = {}
        process = {"name": "process_name", "ph": "M", "pid": 1, "tid": 0, "args": {"name": "moshi-mlx"}}
        self._file.append(f"[\n{json.dumps(process)}".encode())

    def append(self, spans: list[Span]) -> None:
        """Write them; raises OSError."""
        self._file.append("".join(f",\n{json.dumps(event)}" for s in spans for event in self._events(s)).encode())

    def end(self) -> None:
        """Close the array, which readers can do without; raises OSError."""
        self._file.append(b"\n]\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _events(self, span: Span) -> list[dict[str, object]]:
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
