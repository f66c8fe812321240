"""The files of a record: sound as wav, words as text and JSON lines, spans as Chrome's trace.

Each grows by whole pieces and is valid at every moment: appended to first, headers corrected after, a failed write
taken back. Knows no thread: `recording.py` calls from its own.
"""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

CHANNELS = 2
PAUSE_S = 1.5  # between words, begins a new line: of the transcript and in the terminal

Samples = NDArray[np.float32]
Subtype = Literal["float32", "pcm16"]


class Sound(NamedTuple):
    """Both sides' samples."""

    missing: int
    """Lost before these, to be written as silence."""
    samples: Samples
    """[n, 2]."""


class Word(NamedTuple):
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

    def __init__(self, folder: Path, sample_rate: int, subtype: Subtype, max_bytes: int) -> None:
        self._folder, self._sample_rate, self._subtype = folder, sample_rate, subtype
        self._width = CHANNELS * (4 if subtype == "float32" else 2)  # bytes of both sides' sample
        self._max_bytes = max_bytes
        self._files = 0
        self.samples = 0
        self._begin()

    def append(self, sounds: list[Sound]) -> None:
        """Write them, begun anew in another file where one is full; raises OSError."""
        for sound in sounds:
            for start in range(0, sound.missing, self._sample_rate):  # by the second: it may be an hour
                self._write(np.zeros((min(self._sample_rate, sound.missing - start), CHANNELS), np.float32))
        if sounds:
            self._write(np.concatenate([sound.samples for sound in sounds]))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _begin(self) -> None:
        self._files += 1
        name = "audio.wav" if self._files == 1 else f"audio-{self._files}.wav"
        self._file = Appender(self._folder / name)
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


class Transcript:
    """transcript.txt, a line per phrase, and transcript.jsonl, a line per piece; both as they come."""

    def __init__(self, folder: Path) -> None:
        self._lines = Appender(folder / "transcript.txt")
        self._pieces = Appender(folder / "transcript.jsonl")
        self._last_s: float | None = None  # when the last piece came
        self._sentence_ended = False

    def append(self, words: list[Word]) -> None:
        """Write them to both files; raises OSError."""
        if not words:
            return
        pieces = [json.dumps({"time": round(w.time_s, 3), "text": w.text}, ensure_ascii=False) for w in words]
        self._pieces.append("".join(f"{piece}\n" for piece in pieces).encode())
        self._lines.append("".join(self._continue(word) for word in words).encode())

    def end(self) -> None:
        """Finish the last line; raises OSError."""
        if self._lines.size:
            self._lines.append(b"\n")

    def close(self) -> None:
        """Close both files."""
        self._lines.close()
        self._pieces.close()

    def _continue(self, word: Word) -> str:
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
