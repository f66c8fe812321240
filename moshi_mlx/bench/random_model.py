"""Language models with random weights, made in memory: how long a frame takes does not depend on the values.

Nothing is read and nothing written. Values are drawn as they are stored, so the peak is the model itself.
"""

from __future__ import annotations

import math
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn

from ..checkpoint.published import architectures
from ..config import MOSHI_7B, LMConfig
from ..errors import MoshiError
from ..model.conditions import Attribute, Conditions, TensorCondition
from ..model.lm import LM

GROUP_SIZES = {8: 64, 4: 32}
"""As in the published checkpoints."""

VOICE_VECTORS = 5 * 125
"""What is attended to in Kyutai's speaking models: five voices, filled or not, of ten seconds each."""

SIZES: dict[str, dict[str, Any]] = {
    "moshi": MOSHI_7B,
    # A thirtieth of Moshi: large enough to read memory, small enough for any machine.
    "middle": {
        **MOSHI_7B, "dim": 1024, "num_layers": 12, "num_heads": 8, "text_card": 8000, "depformer_dim": 512,
        "depformer_num_layers": 4, "depformer_num_heads": 8, "depformer_dim_feedforward": 2112,
    },
    "tiny": {
        **MOSHI_7B, "dim": 256, "num_layers": 4, "num_heads": 4, "text_card": 512, "depformer_dim": 128,
        "depformer_num_layers": 2, "depformer_num_heads": 4, "depformer_dim_feedforward": 576,
    },
    # Moshi's own depth, made narrow: here overhead is all there is.
    "narrow": {
        **MOSHI_7B, "dim": 128, "num_heads": 4, "text_card": 512, "depformer_dim": 64, "depformer_num_heads": 4,
        "depformer_dim_feedforward": 288,
    },
    **{name: architecture.raw for name, architecture in architectures().items() if name != "moshi-7b"},
}  # fmt: skip
"""Kyutai's config.json by size: the published models, and smaller ones whose widths Kyutai's port can also run."""


def random_lm(config: LMConfig, bits: int, seed: int = 0, dtype: str | None = None) -> LM:
    """A network of random weights.

    Args:
        config: its architecture.
        bits: 32 (float32), 16 (bfloat16), 8 or 4 (quantized in Moshi's groups, with bfloat16 activations).
        seed: the same seed gives the same weights.
        dtype: of the activations, where not as told above.

    Raises:
        MoshiError: its widths do not divide into groups.
    """
    lm = LM(config)  # its own random values are lazy and never computed
    lm.set_dtype(getattr(mx, dtype or ("float32" if bits == 32 else "bfloat16")))
    if bits in GROUP_SIZES:
        _check_groups(lm, GROUP_SIZES[bits])
        nn.quantize(lm, group_size=GROUP_SIZES[bits], bits=bits)
    mx.random.seed(seed)
    modules = [module for _, module in lm.named_modules() if not module.children()]
    # The largest first: what drawing it takes beside it is gone when all the others are there.
    for module in sorted(modules, key=_size, reverse=True):
        module.update(_drawn(module, bits))
        mx.eval(module.parameters())
    mx.clear_cache()
    lm.eval()
    return lm


def random_conditions(lm: LM) -> Conditions | None:
    """What a model must be told beside its tokens, of the usual length; None where it is told nothing."""
    if not lm.conditioners:
        return None
    given: dict[str, Attribute] = {}
    for name, conditioner in lm.config.conditioners.items():
        if conditioner.bins is None:
            given[name] = TensorCondition(mx.random.normal((VOICE_VECTORS, conditioner.dim)))
        else:
            given[name] = conditioner.values[0] if conditioner.values else "anything"
    return lm.conditions([given])


def _check_groups(lm: LM, group_size: int) -> None:
    for name, module in lm.named_modules():
        if isinstance(module, (nn.Linear, nn.Embedding)) and (width := module.weight.shape[1]) % group_size:
            raise MoshiError(
                f"{name} is {width} wide, which does not divide into groups of {group_size}: choose other bits with -q"
            )


def _drawn(module: nn.Module, bits: int) -> dict[str, mx.array]:
    """Values uniform with the variance that keeps activations near 1; norms are 1."""
    parameters = _parameters(module)
    weight = parameters["weight"]
    if weight.ndim == 1:
        return {"weight": mx.ones_like(weight)}
    table = isinstance(module, (nn.Embedding, nn.QuantizedEmbedding))
    if "scales" not in parameters:
        reach = _reach(table, weight.shape[1])
        return {"weight": mx.random.uniform(-reach, reach, weight.shape, weight.dtype)}
    scales, reach = parameters["scales"], _reach(table, weight.shape[1] * 32 // bits)
    return {
        "weight": _random_bits(weight.shape),
        "scales": mx.full(scales.shape, 2 * reach / (2**bits - 1), scales.dtype),
        "biases": mx.full(scales.shape, -reach, scales.dtype),
    }


def _random_bits(shape: tuple[int, ...]) -> mx.array:
    """uint32, all 32 bits of them random: what `mx.random.randint` gives has the 24 of a float32."""
    count = math.prod(shape)
    keys = mx.random.split(mx.random.randint(0, 2**16, (2,), mx.uint32), -(-count // 2))
    return keys.reshape(-1)[:count].reshape(shape)


def _reach(table: bool, width: int) -> float:
    return math.sqrt(3) if table else math.sqrt(3 / width)


def _size(module: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in _parameters(module).values())


def _parameters(module: nn.Module) -> dict[str, mx.array]:
    """Those of a module without children."""
    return cast("dict[str, mx.array]", module.parameters())
