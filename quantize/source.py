"""Reads a checkpoint a few rows at a time, under published names, whatever it is called or stored as.

Only the rows asked for are read. `fetch` touches no MLX and may run in another thread; `dense` makes arrays.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import mlx.core as mx
import numpy as np

from moshi_mlx.checkpoint.formats import Format
from moshi_mlx.checkpoint.inspect import Checkpoint
from moshi_mlx.checkpoint.names import Source, module_of, published_shapes, tensor_of
from moshi_mlx.errors import CheckpointError

BLOCK_BYTES = 32 * 2**20

_RAW = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "U32": np.uint32, "U8": np.uint8}


@dataclass(frozen=True)
class Block:
    """Some rows of a published module: the unit of work."""

    module: str
    start: int
    stop: int
    nbytes: int
    """What they take as bfloat16."""


@dataclass(frozen=True)
class _Place:
    file: Path
    offset: int
    dtype: str
    row_shape: tuple[int, ...]


class SourceReader:
    """The tensors of an inspected checkpoint, by rows."""

    def __init__(self, checkpoint: Checkpoint):
        self.checkpoint = checkpoint
        self._files: dict[Path, FileIO] = {}
        self._offsets = {name: at for file in checkpoint.files for name, at in _offsets(file).items()}

    def blocks(self) -> list[Block]:
        """The whole checkpoint, cut into pieces of about 32 MB."""
        found = []
        for name, shape in published_shapes(self.checkpoint.config).items():
            row = 2 * math.prod(shape[1:])
            step = max(1, BLOCK_BYTES // row)
            for start in range(0, shape[0], step):
                stop = min(start + step, shape[0])
                found.append(Block(module_of(name), start, stop, (stop - start) * row))
        return found

    def format(self, module: str) -> Format | None:
        """How a module is stored."""
        return self.checkpoint.formats.get(module)

    def fetch(self, block: Block) -> dict[str, np.ndarray]:
        """The stored rows: weight and, where quantized, scales and biases; bfloat16 as uint16.

        Raises:
            CheckpointError: the file cannot be read, or has become shorter.
        """
        form = self.format(block.module)
        parts = ["weight"] if form is None else ["weight", "scales"]
        if form is not None and form.mode == "affine":
            parts.append("biases")
        return {part: self._rows(block, part) for part in parts}

    def dense(self, block: Block, rows: dict[str, np.ndarray], dtype: mx.Dtype = mx.bfloat16) -> mx.array:
        """Fetched rows as a matrix of `dtype`; quantized ones are worked out in it."""
        form = self.format(block.module)
        arrays = {part: self.array(block.module, part, raw) for part, raw in rows.items()}
        if form is None:
            return arrays["weight"].astype(dtype)
        if form.mode == "affine":
            for part in ("scales", "biases"):
                arrays[part] = arrays[part].astype(dtype)
        return mx.dequantize(
            arrays["weight"],
            arrays["scales"],
            arrays.get("biases"),
            group_size=form.group_size,
            bits=form.bits,
            mode=form.mode,
            dtype=dtype,
        )

    def array(self, module: str, part: str, raw: np.ndarray) -> mx.array:
        """Fetched rows as MLX stores them."""
        array = mx.array(raw)
        first = self.checkpoint.sources[tensor_of(module)][0]
        return array.view(mx.bfloat16) if self._place(first, part).dtype == "BF16" else array

    def close(self) -> None:
        """Let go of the files."""
        while self._files:
            self._files.popitem()[1].close()

    def _place(self, source: Source, part: str) -> _Place:
        name = source.part_name(part)
        tensor = self.checkpoint.tensors[name]
        shape = tensor.shape[2:] if source.squeeze else tensor.shape
        return _Place(tensor.file, self._offsets[name], tensor.dtype, shape[1:])

    def _rows(self, block: Block, part: str) -> np.ndarray:
        """The block's rows, out of each tensor that holds some of them."""
        found, above = [], 0
        for source in self.checkpoint.sources[tensor_of(block.module)]:
            height = source.rows or block.stop
            start, stop = max(block.start - above, 0), min(block.stop - above, height)
            if start < stop:
                found.append(self._read(source, part, start, stop))
            above += height
        return found[0] if len(found) == 1 else np.concatenate(found)

    def _read(self, source: Source, part: str, start: int, stop: int) -> np.ndarray:
        place, name = self._place(source, part), source.part_name(part)
        if source.parts > 1:
            first = source.part * (self.checkpoint.tensors[name].shape[0] // source.parts)
            start, stop = first + start, first + stop
        rows = np.empty((stop - start, *place.row_shape), _RAW[place.dtype])
        left = rows.data.cast("B")
        position = place.offset + start * (len(left) // (stop - start))
        try:
            if place.file not in self._files:
                self._files[place.file] = FileIO(place.file)
            file = self._files[place.file]
            file.seek(position)
            while left:
                count = file.readinto(left)
                if not count:
                    raise CheckpointError(f"{place.file} has become shorter while it was read")
                left = left[count:]
        except OSError as error:
            raise CheckpointError(f"{place.file}: {name} cannot be read: {error.strerror or error}") from None
        return rows


def _offsets(file: Path) -> dict[str, int]:
    """Where each tensor of a safetensors file begins, counted from the file's first byte."""
    with file.open("rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(size))
    header.pop("__metadata__", None)
    return {name: 8 + size + entry["data_offsets"][0] for name, entry in header.items()}
