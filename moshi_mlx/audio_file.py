"""Sound files in and out: whatever soundfile reads, as 24 kHz mono blocks; wav files that appear whole or
not at all.

Files are read and resampled block by block, so a long recording is never in memory at once. Nothing here
knows the codec or the model.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from moshi_mlx.errors import AudioError
from moshi_mlx.rates import FRAME_SIZE, SAMPLE_RATE

READ_SIZE = 65_536  # samples a read, at the file's own rate
UNKNOWN_SIZE = 0x7FFF_0000  # programs that write to a pipe put a size about here, or above, into the header
OGG_LAST_PAGE = 4  # flag in the header of a page


class AudioReader:
    """A sound file as float32 mono blocks at 24 kHz; iterate over it once.

    Every block has 1,920 samples but the last, which has what is left. `duration` is in seconds, as the
    file's header has it; `mended_samples` counts samples that were NaN or infinite and became 0. Raises
    AudioError, on opening or while reading, where the file is not there, is no sound, is cut off or holds
    no samples.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.mended_samples = 0
        self._file = _open(self.path)
        self.duration = self._file.frames / self._file.samplerate

    def __iter__(self) -> Iterator[npt.NDArray[np.float32]]:
        rest = np.zeros(0, np.float32)
        with self._file:
            for samples in self._resampled():
                rest = np.concatenate([rest, samples])
                whole = len(rest) // FRAME_SIZE * FRAME_SIZE
                yield from rest[:whole].reshape(-1, FRAME_SIZE)
                rest = rest[whole:]
        if len(rest):
            yield rest

    def _resampled(self) -> Iterator[npt.NDArray[np.float32]]:
        rate = self._file.samplerate
        if rate == SAMPLE_RATE:
            yield from self._mono()
            return
        resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32")
        for samples in self._mono():
            yield resampler.resample_chunk(samples)
        yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)

    def _mono(self) -> Iterator[npt.NDArray[np.float32]]:
        done, total = 0, self._file.frames
        while done < total:
            try:
                samples = self._file.read(READ_SIZE, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as error:
                raise AudioError(
                    f"{self.path} is broken after {self._seconds(done)}: {error.error_string.rstrip('.')}"
                ) from None
            if not len(samples):
                raise AudioError(f"{self.path} is cut off after {self._seconds(done)} of {self._seconds(total)}")
            done += len(samples)
            yield self._mend(samples).mean(axis=1)

    def _mend(self, samples: np.ndarray) -> npt.NDArray[np.float32]:
        broken = ~np.isfinite(samples)
        self.mended_samples += int(broken.sum())
        return np.where(broken, np.float32(0), samples)

    def _seconds(self, samples: int) -> str:
        return f"{samples / self._file.samplerate:.2f} s"


def sound_seconds(path: str | Path) -> float:
    """How long a sound file is, as its header has it; raises AudioError as opening it to read does."""
    with _open(Path(path)) as file:
        return file.frames / file.samplerate


class WavWriter:
    """A 24 kHz wav file, written beside its place and renamed when the `with` block ends well, else removed.

    `write` takes float [n] or [n, channels] between -1 and 1, kept in 16 bits; what is beyond is cut.
    """

    def __init__(self, path: str | Path, channels: int = 1) -> None:
        self.path = Path(path)
        self._partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        try:
            if self.path.is_dir():
                raise AudioError(f"{self.path} is a folder; name a wav file")
            self._file = soundfile.SoundFile(self._partial, "w", SAMPLE_RATE, channels, subtype="PCM_16", format="WAV")
        except (soundfile.LibsndfileError, OSError):
            raise AudioError(f"{self.path} cannot be written: check that its folder is there and writable") from None
        except BaseException:  # Ctrl-C between opening the file and the `with` block that would remove it
            self._partial.unlink(missing_ok=True)
            raise

    def write(self, samples: npt.ArrayLike) -> None:
        """Append samples. Raises AudioError where the disk is full."""
        try:
            self._file.write(np.asarray(samples))
        except (soundfile.LibsndfileError, AssertionError):  # soundfile asserts that all was written
            raise AudioError(f"{self.path} cannot be written: is the disk full?") from None

    def close(self) -> None:
        """Finish the file and put it in its place."""
        self._file.close()
        self._partial.replace(self.path)

    def abort(self) -> None:
        """Remove what was written."""
        self._file.close()
        self._partial.unlink(missing_ok=True)

    def __enter__(self) -> WavWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


def _open(path: Path) -> soundfile.SoundFile:
    if os.path.isdir(path):  # os.path's answer, where pathlib's questions fail on names that are too long
        raise AudioError(f"{path} is a folder; name a sound file")
    if not os.path.exists(path):
        raise AudioError(f"{path}: no such file")
    if not os.access(path, os.R_OK):
        raise AudioError(f"{path} cannot be read: check its permissions")
    if path.stat().st_size == 0 and path.is_file():
        raise AudioError(f"{path} is empty")
    try:
        # By descriptor: by name, libsndfile takes any file with a suffix like .vox for headerless sound.
        file = soundfile.SoundFile(os.open(path, os.O_RDONLY))
    except (soundfile.LibsndfileError, OSError):
        way_on = f": convert it first, afconvert -f WAVE -d LEI16 '{path}' voice.wav" if _is_apple_audio(path) else ""
        raise AudioError(f"{path} is not a sound file that can be read (wav, flac, ogg, mp3 …){way_on}") from None
    try:
        _check_whole(path, file)
    except AudioError:
        file.close()
        raise
    return file


def _is_apple_audio(path: Path) -> bool:
    """Voice Memos and their like: AAC, which libsndfile does not read, and which every Mac can convert."""
    return path.suffix.lower() in (".m4a", ".aac", ".mp4")


def _check_whole(path: Path, file: soundfile.SoundFile) -> None:
    """Refuse a file that was cut off. libsndfile would read what is left of it and say nothing.

    It notes sizes that do not fit as "data : 96000 (should be 57582)" in its log. Ogg has no sizes, but a
    last page.
    """
    for stated, found in re.findall(r": (\d+) \(should be (\d+)\)", file.extra_info):
        if int(found) < int(stated) < UNKNOWN_SIZE:
            raise AudioError(f"{path} is cut off: its header says {stated} bytes of sound, but {found} are there")
    if file.format == "OGG" and not _ends_with_last_page(path):
        raise AudioError(f"{path} is cut off: the last Ogg page is missing")
    if file.frames <= 0:
        raise AudioError(f"{path} holds no samples")


def _ends_with_last_page(path: Path) -> bool:
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - 2 * 65_307))  # the largest page, twice
        tail = stream.read()
    start = tail.rfind(b"OggS")
    if start < 0 or len(tail) < start + 27:
        return False
    lengths = tail[start + 27 : start + 27 + tail[start + 26]]
    whole = len(tail) >= start + 27 + len(lengths) + sum(lengths)
    return whole and bool(tail[start + 5] & OGG_LAST_PAGE)
