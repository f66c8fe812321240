"""Helium, the temporal transformer: one step per frame of 80 ms (Moshi paper, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn

from ..config import TransformerConfig
from .kernels import Rotation, attention
from .kv_cache import LayerCache, attend_ring, read_ring, ring_mask, stretch_mask, write_ring
from .layers import Attend, Block, Memory


class TemporalTransformer(nn.Module):
    """Blocks with rotary positions and a sliding window, and perhaps cross-attention to the conditions."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.layers = [Block(config) for _ in range(config.num_layers)]
        self._config = config

    def __call__(self, x: mx.array, time: int, memory: Sequence[Memory] | None = None) -> mx.array:
        """Whole sequences of `time` positions, [B · T, dim] -> [B · T, dim]; each sees the last `context` ones."""
        config, heads = self._config, self._heads
        rotation = Rotation(config, 0, time)
        mask = causal_mask(time, config.context)

        def attend(projected: mx.array) -> mx.array:
            split = projected.reshape(-1, time, sum(heads), config.head_dim).swapaxes(1, 2)
            q, k, v = self._turned(split, rotation)
            return attention(q, k, v, mask).swapaxes(1, 2).reshape(-1, config.dim)

        for layer, seen in zip(self.layers, memory or self._nothing, strict=True):
            x = layer(x, attend, seen)
        return x

    def remember(self, conditions: mx.array | None) -> list[Memory] | None:
        """Each layer's keys and values of the conditions [B, T, dim], once per conversation."""
        if conditions is None:
            return None
        return [layer.cross_attention.remember(conditions) for layer in self.layers]

    def step(
        self,
        x: mx.array,
        position: mx.array,
        cache: list[LayerCache],
        full: bool,
        memory: Sequence[Memory] | None = None,
    ) -> tuple[mx.array, list[LayerCache]]:
        """One frame.

        Args:
            x: [B, dim].
            position: scalar int32, counting frames without end.
            cache: the rings, which are given up: go on with those that come back.
            full: True once the ring has wrapped, when every slot is seen and no mask is needed.
            memory: what `remember` gave, for a model with cross-attention.

        Returns:
            [B, dim] and the rings with this step in them.
        """
        config = self._config
        slot = (position % config.context).reshape(1)
        mask = None if full else ring_mask(position, cache[0][0].shape[2])
        rotation = Rotation(config, position)
        updated: list[LayerCache] = []

        def attend_to(rings: LayerCache) -> Attend:
            def attend(projected: mx.array) -> mx.array:
                split = projected.reshape(-1, sum(self._heads), 1, config.head_dim)
                q, k, v = self._turned(split, rotation)
                updated.append(write_ring(rings, k, v, slot))
                return attend_ring(q, updated[-1], mask).reshape(-1, config.dim)

            return attend

        for layer, rings, seen in zip(self.layers, cache, memory or self._nothing, strict=True):
            x = layer(x, attend_to(rings), seen)
        return x, updated

    def read(self, x: mx.array, position: int, cache: list[LayerCache]) -> list[LayerCache]:
        """A stretch of given positions at once, where `step` would take them one by one.

        Args:
            x: [B, T, dim]; the stretch may reach the ring's end and not pass it.
            position: of the first, the next after those in the rings.
            cache: the rings, which are given up and the list emptied: go on with those that come back.

        Returns:
            the rings with the stretch in them, all that a later step needs of it.
        """
        config, (batch, time, _) = self._config, x.shape
        filled, written = min(position, config.context), (position % config.context, time)
        wraps = position + time > config.context  # else nothing that is still seen is overwritten, nor copied
        mask, rotation = stretch_mask(position, time, config.context), Rotation(config, position, time)
        updated: list[LayerCache] = []

        def attend_to(rings: LayerCache) -> Attend:
            def attend(projected: mx.array) -> mx.array:
                split = projected.reshape(batch, time, sum(self._heads), config.head_dim).swapaxes(1, 2)
                q, k, v = self._turned(split, rotation)
                updated.append(write_ring(rings, k, v, mx.array(written[:1])))
                # What was written is read back, for it is in as few bits as steps see it.
                seen = [read_ring(updated[-1], *(written if wraps else (0, position + time)), config.head_dim)]
                if wraps:
                    seen.insert(0, read_ring(rings, 0, filled, config.head_dim))
                k, v = (mx.concatenate(list(parts), 2) for parts in zip(*seen, strict=True))
                return attention(q, k, v, mask).swapaxes(1, 2).reshape(-1, config.dim)

            return attend

        x = x.reshape(-1, config.dim)
        for layer in self.layers:
            x = layer(x, attend_to(cache.pop(0)), None)
            if wraps:
                mx.eval(x, updated[-1])  # an old ring goes before the next one is copied
        return updated

    @property
    def _nothing(self) -> list[None]:
        return [None] * len(self.layers)

    @property
    def _heads(self) -> tuple[int, int]:
        """How many heads are turned (queries and keys), and how many are not (values)."""
        return self._config.num_heads + self._config.num_kv_heads, self._config.num_kv_heads

    def _turned(self, heads: mx.array, rotation: Rotation) -> tuple[mx.array, mx.array, mx.array]:
        """[B, H + 2 Hkv, T, D] -> queries and keys with their positions, and values."""
        qk, v = mx.split(heads, [self._heads[0]], axis=1)
        q, k = mx.split(rotation(qk), [self._config.num_heads], axis=1)
        return q, k, v


def causal_mask(time: int, context: int) -> mx.array:
    """[T, T]: position t sees the last `context` positions, itself included."""
    query, key = mx.arange(time)[:, None], mx.arange(time)[None, :]
    return (key <= query) & (key > query - context)
