"""Mimi, the streaming codec: 1,920 samples at 24 kHz to a column of codes and back, without end.

The network is rustymimi's; this room checks what goes in, and relieves each rustymimi object before it runs
out of positions. It knows no files but the weights, and no model but the codec. Paper: Moshi (Défossez et
al., 2024), section 3.3.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import rustymimi
from safetensors import SafetensorError, safe_open

from moshi_mlx.errors import AudioError, CheckpointError

SAMPLE_RATE = 24_000
FRAME_SIZE = 1920
FRAME_RATE = 12.5
CARDINALITY = 2048
MAX_CODEBOOKS = 32
BIT_RATE_PER_CODEBOOK = 137.5  # bit/s: 11 bits, 12.5 times a second

# A rustymimi object keeps the keys and values of all it has heard, 64 KB a frame, and gives them back only with
# its end; making its successor holds Python up for a fifth of a second. So: 1 GB at most, every 22 minutes.
MAX_FRAMES = 16_384
# The eight layers look back 250 positions each: 1,000 frames; the convolutions and their padding need under
# ten more. An object that has heard this much knows all that one without end would know.
OVERLAP = 1_024


class Mimi:
    """The codec's weights and how many codebooks to use; hands out encoders and decoders, one per stream
    and thread.

    `path` is a safetensors file with the published names (norms folded), `codebooks` 1 to 32. `max_frames`
    is how many frames one rustymimi object serves, `overlap` for how many its successor listens in before
    it takes over.
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

    @property
    def bit_rate(self) -> float:
        """Bits per second of the codes."""
        return BIT_RATE_PER_CODEBOOK * self.codebooks

    def encoder(self, codebooks: int | None = None) -> MimiEncoder:
        """Return a new encoder at the start of its stream. Loads the weights: about 450 MB.

        `codebooks` is how many it gives where that is not the codec's own number.
        """
        return MimiEncoder(self, self._codebooks_of(codebooks))

    def decoder(self, codebooks: int | None = None) -> MimiDecoder:
        """Return a new decoder at the start of its stream. Loads the weights, as `encoder` does.

        `codebooks` is how many it takes where that is not the codec's own number.
        """
        return MimiDecoder(self, self._codebooks_of(codebooks))

    def open_tokenizer(self, codebooks: int | None = None) -> rustymimi.Tokenizer:
        """Load the weights. Raises CheckpointError where the file is not a whole Mimi."""
        _check_weights(self.path)
        try:
            return rustymimi.Tokenizer(
                str(self.path),  # pyright: ignore[reportCallIssue]  (the stub knows no constructor)
                num_codebooks=self._codebooks_of(codebooks),
                max_seq_len=2 * self.max_frames,
            )
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a Rust panic is no Exception
            raise CheckpointError(f"{self.path} does not hold Mimi's weights: {_first_line(error)}") from None

    def _codebooks_of(self, wanted: int | None) -> int:
        return self.codebooks if wanted is None else _checked_codebooks(wanted)


class MimiEncoder:
    """Sound to codes, frame by frame. For one thread at a time."""

    def __init__(self, mimi: Mimi, codebooks: int) -> None:
        self.codebooks = codebooks
        self._relay = _Relay(mimi, codebooks, "encode_step")
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

        B is the same from a stream's first frame to its last. The object keeps 64 KB a frame and row.
        """
        samples = np.stack([self._mend(_as_frame(frame)) for frame in frames])
        return self._relay.step(samples[:, None])[:, :, 0].astype(np.int32)

    def reset(self) -> None:
        """Start a new stream: forget what was heard, and the counts."""
        self._relay.reset()
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


class MimiDecoder:
    """Codes to sound, frame by frame. For one thread at a time."""

    def __init__(self, mimi: Mimi, codebooks: int) -> None:
        self.codebooks = codebooks
        self._relay = _Relay(mimi, codebooks, "decode_step")

    def decode(self, codes: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Decode one column of codes, int [codebooks] in 0 to 2047, to samples, float32 [1920].

        Raises AudioError for another shape or type, or a code out of range.
        """
        column = _as_column(codes, self.codebooks)
        return self._relay.step(column[None, :, None])[0, 0]

    def reset(self) -> None:
        """Start a new stream: forget what was decoded."""
        self._relay.reset()


class _Relay:
    """One direction of the codec for as long as wanted, although a rustymimi object ends after `max_frames`.

    For the last `overlap` frames of an object's life a successor, in a thread of its own, is fed the same
    frames after it. It starts late, but attention looks back a bounded way and rotary positions are
    relative: when it takes over it holds what an object without end would hold, up to rounding.
    """

    def __init__(self, mimi: Mimi, codebooks: int, step: Literal["encode_step", "decode_step"]) -> None:
        self._mimi = mimi
        self._codebooks = codebooks
        self._step = step
        self._live = mimi.open_tokenizer(codebooks)
        self._age = 0  # frames that `_live` has seen
        self._successor: _Successor | None = None

    def step(self, frame: np.ndarray) -> np.ndarray:
        if self._age == self._mimi.max_frames:
            self._hand_over()
        try:
            result = getattr(self._live, self._step)(frame)
        except Exception as error:
            raise AudioError(f"the codec failed at frame {self._age}: {_first_line(error)}") from None
        self._age += 1
        if self._age > self._mimi.max_frames - self._mimi.overlap:
            self._successor = self._successor or _Successor(self._mimi, self._codebooks, self._step)
            self._successor.listen(frame)
        return result

    def reset(self) -> None:
        if self._successor:
            self._successor.dismiss()
            self._successor = None
        if self._age:  # rustymimi's own reset keeps the position and part of the past
            self._live = self._mimi.open_tokenizer(self._codebooks)
            self._age = 0

    def _hand_over(self) -> None:
        self._live = self._successor.take_over() if self._successor else self._mimi.open_tokenizer(self._codebooks)
        self._successor = None
        self._age = self._mimi.overlap


class _Successor:
    """A rustymimi object that is warmed in a thread, so that the frame at hand never waits for it."""

    def __init__(self, mimi: Mimi, codebooks: int, step: str) -> None:
        self._step = step
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mimi-successor")
        self._tokenizer = self._thread.submit(mimi.open_tokenizer, codebooks)
        self._last: Future[None] | None = None

    def listen(self, frame: np.ndarray) -> None:
        self._last = self._thread.submit(self._feed, frame.copy())

    def take_over(self) -> rustymimi.Tokenizer:
        if self._last:
            self._last.result()
        self._thread.shutdown()
        return self._tokenizer.result()

    def dismiss(self) -> None:
        self._thread.shutdown(cancel_futures=True)

    def _feed(self, frame: np.ndarray) -> None:
        getattr(self._tokenizer.result(), self._step)(frame)


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
        reason = _first_line(error)
        raise CheckpointError(f"{path} is not a whole safetensors file ({reason}): download it again") from None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
