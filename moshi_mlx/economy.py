"""What a model can give up for a small Mac: the length of its window, bits of its keys and values, bfloat16.

The weights stay what they are; a checkpoint says nothing of this. Everything that counts bytes reads the configuration
that comes out of here. Loads nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from .config import LMConfig
from .errors import ConfigError

KV_BITS = (8,)
DTYPES = ("bfloat16", "float16")
LEAST_GROUP, LARGEST_GROUP = 32, 64
"""Numbers along a head that share a scale: MLX packs no fewer; more would lose more."""


@dataclass(frozen=True)
class Economy:
    """How a model is run, where not as its checkpoint has it.

    Args:
        context: a shorter window, in frames.
        kv_bits: 8, kept of each number of the keys and values.
        dtype: type of the activations, and of what of the weights is not quantized; one of DTYPES.
    """

    context: int | None = None
    kv_bits: int | None = None
    dtype: str | None = None

    def of(self, config: LMConfig) -> LMConfig:
        """The configuration of the same network run this way.

        Raises:
            ConfigError: a window of no frames or longer than the model's own, bits or a type that are none of those
                above, or heads that do not divide into groups.
        """
        own = config.transformer
        if self.context is not None and not 1 <= self.context <= own.context:
            raise ConfigError(f"the window must lie between 1 and {own.context:,} frames, not {self.context:,}")
        if self.kv_bits is not None and self.kv_bits not in KV_BITS:
            raise ConfigError(f"keys and values are kept in 8 bits or as they are computed, not in {self.kv_bits}")
        if self.dtype is not None and self.dtype not in DTYPES:
            raise ConfigError(f"a model is run in {' or '.join(DTYPES)}, not in {self.dtype!r}")
        group_size = math.gcd(own.head_dim, LARGEST_GROUP)
        if self.kv_bits and group_size < LEAST_GROUP:
            raise ConfigError(
                f"heads of {own.head_dim} do not divide into groups of {LEAST_GROUP}: keep keys and values as they are"
            )
        context = self.context or own.context
        transformer = replace(own, context=context, kv_bits=self.kv_bits, kv_group_size=group_size)
        return replace(config, transformer=transformer)


AS_IT_IS = Economy()
"""As the checkpoint has it."""
