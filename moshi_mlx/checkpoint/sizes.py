"""How large a model is in memory and how much of it a frame reads, counted from its configuration alone.

The tensors are those that names.py lists; nothing here opens a file or loads a model.
"""

from __future__ import annotations

import math

from ..config import LMConfig
from .names import Merge, is_condition, merges, published_shapes, tensor_of

STORED_BITS = {16: 16.0, 8: 8.5, 4: 5.0}
"""Bits that a weight takes in the file: a scale and a bias of 16 bits each per group, 64 weights at q8, 32 at q4."""
RESERVE = 300 * 2**20
"""What a step needs beside weights, keys and values."""
BESIDE = 2_000_000_000
"""What a conversation takes beside its model at most: the codec's processes (1.8 GB during a relief) and Python."""


def lm_bytes(config: LMConfig, bits: int) -> int:
    """Bytes of memory that the network takes in a conversation of any length."""
    return model_bytes(config, bits) + window_bytes(config) + RESERVE


def conversation_bytes(config: LMConfig, bits: int) -> int:
    """Bytes of memory that a conversation of any length takes, codec included."""
    return model_bytes(config, bits) + window_bytes(config) + BESIDE


def parameters(config: LMConfig) -> int:
    """How many numbers the network holds; what several depth steps share counts once."""
    return sum(math.prod(shape) for shape in _shapes(config).values())


def model_bytes(config: LMConfig, bits: int) -> int:
    """Bytes of all weights when every matrix is stored in `bits` (16, 8 in groups of 64, 4 in groups of 32)."""
    return int(sum(_stored(merge, shape, bits) for merge, shape in _shapes(config).items()))


def frame_bytes(config: LMConfig, bits: int, position: int | None = None) -> int:
    """Bytes that one frame must read at batch 1.

    Every matrix, those of a depth step once for each step that uses them; one row of each embedding; the keys
    and values of the positions up to `position`, or of a full window when it is None. What is worked out once for a
    whole conversation (conditions, and the keys and values that they are attended to by) is not read again.
    """
    weights = sum(
        _stored(merge, shape, bits) * _times_read(config, merge, shape[0]) for merge, shape in _shapes(config).items()
    )
    return int(weights) + window_bytes(config, position)


def _times_read(config: LMConfig, merge: Merge, rows: int) -> float:
    """How often a frame reads a tensor of the network of so many rows: less than once where it is looked up in."""
    if merge.zero_row:
        return len(merge.published) / rows
    if is_condition(merge.published[0]) or merge.name.endswith(".kv_proj"):
        return 0
    if config.depth is not None and merge.name.startswith("depformer.weights."):
        return config.depth.schedule.count(int(merge.name.split(".")[2]))
    return 1


def window_bytes(config: LMConfig, position: int | None = None, width: int = 2) -> int:
    """Bytes of the keys and values up to `position`, or of a full window when it is None.

    Args:
        config: says how many bits are kept of each number; where it does not, all that are computed.
        position: the frame.
        width: bytes of a number as it is computed.
    """
    transformer = config.transformer
    filled = transformer.context if position is None else min(position + 1, transformer.context)
    numbers = 2 * transformer.num_layers * transformer.num_kv_heads * transformer.head_dim * filled
    if not transformer.kv_bits:
        return width * numbers
    return numbers * transformer.kv_bits // 8 + 2 * width * numbers // transformer.kv_group_size


def _shapes(config: LMConfig) -> dict[Merge, tuple[int, ...]]:
    """The network's tensors, without the zero rows that no file holds."""
    published = published_shapes(config)
    found = {}
    for merge in merges(config, lambda module: None):
        parts = [published[tensor_of(module)] for module in merge.published]
        rows = sum(part[0] for part in parts)
        if merge.rows:
            rows = merge.rows[1] - merge.rows[0]
        found[merge] = (rows, *parts[0][1:])
    return found


def _stored(merge: Merge, shape: tuple[int, ...], bits: int) -> float:
    """Bytes of a tensor: conditioners stay in 32 bits, and norms in 16, whatever the matrices are stored in."""
    if is_condition(merge.published[0]):
        return 4 * math.prod(shape)
    return math.prod(shape) * (STORED_BITS[bits] if len(shape) == 2 else 16) / 8
