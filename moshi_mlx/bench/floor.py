"""The floor under a frame's time, counted on a network as it is: of any precision, also a mixed one."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import mlx.nn as nn

from ..checkpoint.sizes import window_bytes

if TYPE_CHECKING:
    import mlx.core as mx

    from ..model.lm import LM


def read_bytes(lm: LM, position: int | None = None, told: int = 0) -> int:
    """What `sizes.frame_bytes` counts from a configuration, counted on a network, and `told` bytes of conditions."""
    config, total = lm.config, 0
    for name, module in lm.named_modules():
        if module.children() or name.startswith("conditioners.") or name.endswith(".kv_proj"):
            continue
        parameters = cast("dict[str, mx.array]", module.parameters())
        size = sum(parameter.nbytes for parameter in parameters.values())
        if isinstance(module, (nn.Embedding, nn.QuantizedEmbedding)):
            # Of all streams' tables, put together, one row each; of a depth step's table one.
            rows = config.num_streams if name.startswith("embed.parts.") else 1
            size = size // parameters["weight"].shape[0] * rows
        elif config.depth and name.startswith("depformer.weights."):
            size *= config.depth.schedule.count(int(name.split(".")[2]))
        total += size
    return total + told + window_bytes(config, position, lm.dtype.size)
