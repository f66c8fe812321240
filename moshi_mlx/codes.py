"""The codes file: what Mimi made of a recording, to keep, send or decode later.

A safetensors file with one tensor, `codes`, uint16 [codebooks, frames], and metadata (all strings):
`format` "moshi-mlx codes", `version` "1", `codebooks`, `frames`, `frame_rate` "12.5", `sample_rate`
"24000", `samples` (the recording's true length at that rate; the last frame may reach past it). The first K
rows are a whole recording, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from moshi_mlx.errors import AudioError
from moshi_mlx.files import replacing
from moshi_mlx.mimi import CARDINALITY, MAX_CODEBOOKS
from moshi_mlx.rates import FRAME_RATE, FRAME_SIZE, SAMPLE_RATE

FORMAT = "moshi-mlx codes"
VERSION = "1"


@dataclass(frozen=True)
class Codes:
    """A recording as codes: `tokens` int [codebooks, frames] in 0 to 2047, `samples` its length at 24 kHz."""

    tokens: npt.NDArray[np.integer]
    samples: int

    @property
    def codebooks(self) -> int:
        """Rows of `tokens`."""
        return self.tokens.shape[0]

    @property
    def frames(self) -> int:
        """Columns of `tokens`, 12.5 a second."""
        return self.tokens.shape[1]

    @property
    def duration(self) -> float:
        """Seconds of sound."""
        return self.samples / SAMPLE_RATE

    def first(self, codebooks: int) -> Codes:
        """Return the same recording with fewer codebooks. Raises AudioError where there are not that many."""
        if not 1 <= codebooks <= self.codebooks:
            raise AudioError(
                f"these codes have {self.codebooks} codebooks: choose 1 to {self.codebooks}, not {codebooks}"
            )
        return Codes(self.tokens[:codebooks], self.samples)

    def save(self, path: str | Path) -> None:
        """Write the codes file beside its place and rename it. Raises AudioError where that fails."""
        path = Path(path)
        metadata = {
            "format": FORMAT,
            "version": VERSION,
            "codebooks": str(self.codebooks),
            "frames": str(self.frames),
            "frame_rate": str(FRAME_RATE),
            "sample_rate": str(SAMPLE_RATE),
            "samples": str(self.samples),
        }
        try:
            with replacing(path) as partial:
                save_file({"codes": np.ascontiguousarray(self.tokens, dtype=np.uint16)}, partial, metadata)
        except (OSError, SafetensorError) as error:
            raise AudioError(f"{path} cannot be written: {error}") from None

    @classmethod
    def load(cls, path: str | Path) -> Codes:
        """Read a codes file and check all that it says of itself. Raises AudioError."""
        path = Path(path)
        if not path.is_file():
            raise AudioError(f"{path}: no such file")
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != FORMAT or "codes" not in file.keys():  # noqa: SIM118
                    raise AudioError(f"{path} is not a codes file; `moshi-mlx codec encode` makes one")
                tokens = file.get_tensor("codes")
        except (SafetensorError, OSError) as error:
            raise AudioError(f"{path} is not a whole codes file ({error})") from None
        codes = cls(tokens, _number(metadata, "samples"))
        codes._check(path, metadata)
        return codes

    def _check(self, path: Path, metadata: dict[str, str]) -> None:
        if metadata.get("version") != VERSION:
            raise AudioError(
                f"{path} has version {metadata.get('version')} of the format; this program reads {VERSION}"
            )
        expected = {"frame_rate": str(FRAME_RATE), "sample_rate": str(SAMPLE_RATE)}
        for key, value in expected.items():
            if metadata.get(key) != value:
                raise AudioError(f"{path} says {key} {metadata.get(key)}; Mimi's is {value}")
        shape = (_number(metadata, "codebooks"), _number(metadata, "frames"))
        if self.tokens.dtype != np.uint16 or self.tokens.shape != shape:
            raise AudioError(
                f"{path} holds {self.tokens.dtype} {list(self.tokens.shape)}; its label says {list(shape)}"
            )
        if not 1 <= self.codebooks <= MAX_CODEBOOKS or self.tokens.max(initial=0) >= CARDINALITY:
            raise AudioError(f"{path} holds codes beyond Mimi's {MAX_CODEBOOKS} codebooks of {CARDINALITY}")
        if not (self.frames - 1) * FRAME_SIZE < self.samples <= self.frames * FRAME_SIZE:
            raise AudioError(f"{path} says {self.samples} samples, which {self.frames} frames cannot be")


def _number(metadata: dict[str, str], key: str) -> int:
    value = metadata.get(key, "")
    return int(value) if value.isdecimal() else -1
