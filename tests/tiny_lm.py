"""Small seeded language models for tests, built in memory."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.utils

from moshi_mlx.config import MOSHI_7B, LMConfig
from moshi_mlx.model.lm import LM

SMALL: dict[str, Any] = {
    **MOSHI_7B,
    "dim": 64, "num_layers": 3, "num_heads": 4, "context": 24, "text_card": 96, "card": 48,
    "depformer_dim": 32, "depformer_num_layers": 2, "depformer_num_heads": 4, "depformer_dim_feedforward": 132,
}  # fmt: skip


def small_lm(seed: int = 0, dtype: mx.Dtype = mx.float32, **changes: Any) -> LM:
    lm = LM(LMConfig.from_dict({**SMALL, **changes}))
    mx.random.seed(seed)
    parameters = mlx.utils.tree_map(
        lambda p: mx.random.normal(p.shape) * (p.shape[-1] ** -0.5 if p.ndim == 2 else 0.1) + (p.ndim == 1),
        lm.parameters(),
    )
    lm.update(parameters)
    lm.set_dtype(dtype)
    mx.eval(lm.parameters())
    return lm
