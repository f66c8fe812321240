"""The floor under a frame's time: the bytes that it must read, and this machine's memory bandwidth.

One frame at batch 1 reads every weight once and does next to no arithmetic on it, so no program is faster
than bytes / bandwidth. Counts follow from the configuration alone; nothing here loads a model.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from ..config import LMConfig, TransformerConfig

if TYPE_CHECKING:
    import mlx.core as mx

    from ..model.lm import LM

STORED_BITS = {16: 16.0, 8: 8.5, 4: 5.0}
"""Bits that a weight takes in the file: a scale and a bias of 16 bits each per group, 64 weights at q8, 32 at q4."""
FRAME_S = 0.08
KEEPS_UP_S = 0.8 * FRAME_S
"""A frame's time with a fifth to spare."""
REACHED = 0.7
"""Assumed, not measured: the share of the bandwidth that a whole frame's kernels reach."""
FIXED_S = 0.008
"""Assumed, not measured: what a frame costs beside its reading (kernel starts, sampling, one wait)."""

_BUFFER_BYTES = 2**28
"""Larger than any cache, so that every pass goes through memory."""
_RUN_S = 0.03


@dataclass(frozen=True)
class Prediction:
    """A frame's time in seconds."""

    floor_s: float
    """Bytes / bandwidth: nothing can be faster."""
    likely_s: float
    """The floor at `REACHED` of the bandwidth, and `FIXED_S`: an assumption."""

    @property
    def keeps_up(self) -> bool:
        """Whether the likely time leaves a fifth of the 80 ms to spare."""
        return self.likely_s <= KEEPS_UP_S


def model_bytes(config: LMConfig, bits: int) -> int:
    """Bytes of all weights when every matrix is stored in `bits` (16, 8 in groups of 64, 4 in groups of 32)."""
    embeddings = _embedding_weights(config)
    return _stored(_matrix_weights(config, _depth_sets(config)) + embeddings, bits) + _norm_bytes(config)


def frame_bytes(config: LMConfig, bits: int, position: int | None = None) -> int:
    """Bytes that one frame must read at batch 1.

    Every matrix, those of a depth step once for each step that uses them; one row of each embedding; the keys
    and values of the positions up to `position`, or of a full window when it is None.
    """
    depth = config.depth
    steps = depth.steps if depth else 0
    rows = config.num_streams * config.transformer.dim
    if depth:
        rows += steps * (depth.low_rank or depth.transformer.dim)
    weights = _stored(_matrix_weights(config, steps) + rows, bits) + _norm_bytes(config)
    return weights + window_bytes(config, position)


def window_bytes(config: LMConfig, position: int | None = None) -> int:
    """Bytes of the 16-bit keys and values up to `position`, or of a full window when it is None."""
    transformer = config.transformer
    filled = transformer.context if position is None else min(position + 1, transformer.context)
    return 2 * 2 * transformer.num_layers * transformer.num_kv_heads * transformer.head_dim * filled


def read_bytes(lm: LM, position: int | None = None) -> int:
    """What `frame_bytes` counts from a configuration, counted on a network: of any precision, also a mixed one."""
    import mlx.nn as nn

    config, total = lm.config, 0
    for name, module in lm.named_modules():
        if module.children():
            continue
        parameters = cast("dict[str, mx.array]", module.parameters())
        size = sum(parameter.nbytes for parameter in parameters.values())
        if isinstance(module, (nn.Embedding, nn.QuantizedEmbedding)):
            # Of all streams' tables, put together, one row each; of a depth step's table one.
            rows = config.num_streams if name.startswith("embed.") else 1
            size = size // parameters["weight"].shape[0] * rows
        elif config.depth and name.startswith("depformer.weights."):
            size *= config.depth.schedule.count(int(name.split(".")[2]))
        total += size
    return total + window_bytes(config, position) * lm.dtype.size // 2


def predict(config: LMConfig, bits: int, bandwidth: float, position: int | None = None) -> Prediction:
    """A frame's time on a machine that reads `bandwidth` bytes per second; a full window unless told otherwise."""
    floor_s = frame_bytes(config, bits, position) / bandwidth
    return Prediction(floor_s, floor_s / REACHED + FIXED_S)


def measure_bandwidth() -> float:
    """Bytes per second that this machine's memory reads and writes, measured in MLX by rewriting a large array.

    Takes about a third of a second and 256 MB for that time; the median of five runs.
    """
    import mlx.core as mx

    array = mx.zeros((_BUFFER_BYTES // 4,), mx.float32)
    mx.eval(array)
    passes, seconds = 1, []
    for _ in range(6):
        start = time.perf_counter()
        for _ in range(passes):
            array = array + 1  # nobody else holds it, so it is rewritten in its own memory
        mx.eval(array)
        seconds.append((time.perf_counter() - start) / passes)
        # A fast machine's pass is over in less than it takes to start one: do several behind one wait.
        passes = max(1, min(16, round(_RUN_S / seconds[-1])))
    del array
    mx.clear_cache()
    return 2 * _BUFFER_BYTES / statistics.median(seconds[1:])


def _stored(weights: int, bits: int) -> int:
    return int(weights * STORED_BITS[bits] / 8)


def _block_weights(config: TransformerConfig) -> int:
    """Weights of one block's four matrices: in, out, gate and up, down."""
    heads = config.num_heads + 2 * config.num_kv_heads
    return config.dim * (heads * config.head_dim + config.dim + 3 * config.hidden_dim)


def _matrix_weights(config: LMConfig, depth_sets: int) -> int:
    """Weights of everything that a vector is multiplied with, `depth_sets` sets of the depth blocks among it."""
    temporal = config.transformer
    weights = temporal.num_layers * _block_weights(temporal) + temporal.dim * config.text_card_out
    weights += config.extra_heads * temporal.dim * config.extra_heads_dim
    if config.depth is None:
        return weights
    depth = config.depth.transformer
    inputs = 1 if config.depth.shared_input else config.depth.num_weights
    weights += inputs * temporal.dim * depth.dim
    weights += depth_sets * depth.num_layers * _block_weights(depth)
    weights += config.depth.steps * depth.dim * config.card
    if config.depth.low_rank:
        weights += config.depth.steps * config.depth.low_rank * depth.dim
    return weights


def _embedding_weights(config: LMConfig) -> int:
    weights = config.transformer.dim * (config.text_card + 1 + config.n_q * (config.card + 1))
    if config.depth is None:
        return weights
    rows = config.text_card + 1 + (config.depth.steps - 1) * (config.card + 1)
    return weights + rows * (config.depth.low_rank or config.depth.transformer.dim)


def _depth_sets(config: LMConfig) -> int:
    return config.depth.num_weights if config.depth else 0


def _norm_bytes(config: LMConfig) -> int:
    """Norms stay in 16 bits whatever the matrices are stored in."""
    count = (2 * config.transformer.num_layers + 1) * config.transformer.dim
    if config.depth:
        depth = config.depth.transformer
        count += _depth_sets(config) * 2 * depth.num_layers * depth.dim
    return 2 * count
