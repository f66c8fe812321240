"""Mimi, the streaming codec: 1,920 samples at 24 kHz to a column of codes and back, without end.

The network is rustymimi's, in processes of its own (see codec/); this room checks what goes in. It knows no files
but the weights, and no model but the codec. Paper: Moshi (Défossez et al., 2024), section 3.3.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from .codec.process import CodecProcess, Direction, Task
from .codec.relay import Relay
from .errors import AudioError, CheckpointError, first_line
from .rates import FRAME_SIZE

CARDINALITY = 2048
MAX_CODEBOOKS = 32
BIT_RATE_PER_CODEBOOK = 137.5  # bit/s: 11 bits, 12.5 times a second

PROCESS_BYTES, FRAME_BYTES = 420_000_000, 65_536  # what a process holds, and what each frame of a stream adds

# 270 MB of frames when a process has served these 5.5 minutes. Its successor listens for a quarter of them: a third
# more work, for a peak of 1.2 GB a direction.
MAX_FRAMES = 4_096
# The eight layers look back 250 positions each: 1,000 frames; the convolutions and their padding need under
# ten more. An object that has heard this much knows all that one without end would know.
OVERLAP = 1_024


Stream = TypeVar("Stream", bound="_Stream")


class Mimi:
    """The codec's weights and how many codebooks to use; hands out encoders and decoders, one per stream
    and thread.

    `path` is a safetensors file with the published names (norms folded), `codebooks` 1 to 32. `max_frames`
    is how many frames one process serves, `overlap` for how many its successor listens in before it takes over.
    """

    def __init__(
        self, path: str | Path, codebooks: int = 8, *, max_frames: int = MAX_FRAMES, overlap: int = OVERLAP
    ) -> None:
        if not 0 <= overlap < max_frames:
            raise ValueError(f"overlap {overlap} must lie below max_frames {max_frames}")
        self.path = Path(path)
        self.codebooks = _checked_codebooks(codebooks)
        self.max_frames = max_frames
        self.overlap = overlap
        self._prepared: dict[Task, CodecProcess] = {}

    def prepare(self, *, encoder: int | None = None, decoder: int | None = None) -> None:
        """Begin to load, beside whatever the caller does next, what `encoder` and `decoder` will be asked for.

        Args:
            encoder: its codebooks, None for no encoder.
            decoder: the same.

        Raises:
            CheckpointError: the file is no whole safetensors file.
        """
        _check_weights(self.path)
        wanted: list[tuple[Direction, int | None]] = [("encode", encoder), ("decode", decoder)]
        for direction, codebooks in wanted:
            if codebooks is not None:
                task = self._task(direction, codebooks)
                self._prepared[task] = self._prepared.get(task) or CodecProcess(task)

    def encoder(self, codebooks: int | None = None) -> MimiEncoder:
        """Return a new encoder at the start of its stream, in a process of 420 MB, when its weights are loaded.

        Args:
            codebooks: how many it gives where that is not the codec's own number.

        Raises:
            CheckpointError: the file is not a whole Mimi.
        """
        return MimiEncoder(*self._stream("encode", codebooks))

    def decoder(self, codebooks: int | None = None) -> MimiDecoder:
        """Return a new decoder at the start of its stream, as `encoder` does; `codebooks` is how many it takes."""
        return MimiDecoder(*self._stream("decode", codebooks))

    def _stream(self, direction: Direction, codebooks: int | None) -> tuple[int, Relay]:
        task = self._task(direction, self.codebooks if codebooks is None else codebooks)
        _check_weights(self.path)
        # Half a period apart, the two directions of a conversation never have successors at the same time.
        stagger = (self.max_frames - self.overlap) // 2 if direction == "decode" else 0
        return task.codebooks, Relay(task, self.overlap, stagger, self._prepared.pop(task, None))

    def _task(self, direction: Direction, codebooks: int) -> Task:
        return Task(direction, self.path, _checked_codebooks(codebooks), self.max_frames)


class _Stream:
    """One direction of the codec. For one thread at a time; a `with` statement, `close` or its end as an object
    ends its processes."""

    def __init__(self, codebooks: int, relay: Relay) -> None:
        self.codebooks = codebooks
        self._relay = relay

    @property
    def restarts(self) -> int:
        """How often a process of the codec was lost and another one went on: each time a short break is heard."""
        return self._relay.restarts

    def never_wait(self) -> None:
        """Live: rather than wait for a process that is late to relieve another, go on with the one that is there."""
        self._relay.patient = False

    def reset(self) -> None:
        """Start a new stream: forget what went through."""
        self._relay.reset()

    def close(self) -> None:
        """End the stream and give its memory back."""
        self._relay.close()

    def __enter__(self: Stream) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class MimiEncoder(_Stream):
    """Sound to codes, frame by frame. For one thread at a time."""

    def __init__(self, codebooks: int, relay: Relay) -> None:
        super().__init__(codebooks, relay)
        self.mended_samples = 0  # NaN and infinite, replaced by 0
        self.clipped_samples = 0  # beyond ±1, cut to ±1

    def encode(self, frame: npt.ArrayLike) -> npt.NDArray[np.int32]:
        """Encode 1,920 samples, float [1920], to codes, int32 [codebooks].

        One NaN or overflow would spoil every later frame inside rustymimi, so samples that are no number
        become 0 and samples beyond ±1 are cut there; both are counted. Raises AudioError for another shape
        or type.
        """
        return self.encode_rows(_as_frame(frame)[None])[0]

    def encode_rows(self, frames: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
        """Encode a frame of each of B streams, float32 [B, 1920], to codes, int32 [B, codebooks]; see `encode`.

        B is the same from a stream's first frame to its last. The process keeps 64 KB a frame and row.
        """
        samples = np.stack([self._mend(_as_frame(frame)) for frame in frames])
        codes = np.frombuffer(self._relay.step(samples.tobytes()), np.uint32)
        return codes.reshape(len(samples), self.codebooks).astype(np.int32)

    def reset(self) -> None:
        """Start a new stream: forget what was heard, and the counts."""
        super().reset()
        self.mended_samples = self.clipped_samples = 0

    def _mend(self, samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        peak = np.abs(samples).max()
        if peak <= 1.0:  # False for NaN, too
            return samples
        broken = ~np.isfinite(samples)
        samples = np.where(broken, np.float32(0), samples)
        self.mended_samples += int(broken.sum())
        self.clipped_samples += int((np.abs(samples) > 1.0).sum())
        return np.clip(samples, -1.0, 1.0)


class MimiDecoder(_Stream):
    """Codes to sound, frame by frame. For one thread at a time."""

    def decode(self, codes: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Decode one column of codes, int [codebooks] in 0 to 2047, to samples, float32 [1920].

        Raises AudioError for another shape or type, or a code out of range.
        """
        column = _as_column(codes, self.codebooks)
        return np.frombuffer(self._relay.step(column.tobytes()), np.float32).copy()


def codec_bytes(streams: int, frames: int) -> int:
    """Bytes that one direction takes at most for so many streams in one process, over so many frames of each."""
    heard = PROCESS_BYTES + streams * FRAME_BYTES * min(frames, MAX_FRAMES)
    relieved = frames > MAX_FRAMES - OVERLAP
    return heard + (PROCESS_BYTES + streams * FRAME_BYTES * OVERLAP if relieved else 0)


def _checked_codebooks(codebooks: int) -> int:
    if not 1 <= codebooks <= MAX_CODEBOOKS:
        raise CheckpointError(f"Mimi has 1 to {MAX_CODEBOOKS} codebooks, not {codebooks}")
    return codebooks


def _as_frame(frame: npt.ArrayLike) -> npt.NDArray[np.float32]:
    samples = np.asarray(frame)
    if samples.shape != (FRAME_SIZE,) or not np.issubdtype(samples.dtype, np.floating):
        raise AudioError(
            f"a frame of sound is {FRAME_SIZE} floating-point samples between -1 and 1, "
            f"not {samples.dtype} of shape {list(samples.shape)}"
        )
    with np.errstate(over="ignore"):  # what overflows is infinite, and mended as such
        return np.ascontiguousarray(samples, dtype=np.float32)


def _as_column(codes: npt.ArrayLike, codebooks: int) -> npt.NDArray[np.uint32]:
    column = np.asarray(codes)
    if column.shape != (codebooks,) or not np.issubdtype(column.dtype, np.integer):
        raise AudioError(
            f"a column of codes is {codebooks} integers, one per codebook, "
            f"not {column.dtype} of shape {list(column.shape)}"
        )
    if column.min() < 0 or column.max() >= CARDINALITY:
        wrong = column[(column < 0) | (column >= CARDINALITY)][0]
        raise AudioError(f"a code lies between 0 and {CARDINALITY - 1}, not {wrong}")
    return np.ascontiguousarray(column, dtype=np.uint32)


def _check_weights(path: Path) -> None:
    """Refuse here what rustymimi would refuse with a backtrace."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; Mimi's weights are one safetensors file")
    try:
        with safe_open(path, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        reason = first_line(error)
        raise CheckpointError(f"{path} is not a whole safetensors file ({reason}): download it again") from None
