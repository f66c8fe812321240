"""The ring of keys and values that Helium attends to: exactly the last `context` positions, for ever.

The ring grows in a few steps, so that a young conversation reads little memory, and is updated in place:
the arrays go into the compiled step and come out of it, and nobody else holds them in between. Where the
configuration says so, it holds 8 bits of each number, with a scale and a bias per group along a head.
"""

from __future__ import annotations

from typing import TypedDict

import mlx.core as mx

from ..config import TransformerConfig
from .kernels import attention, quantized_attention

LayerCache = tuple[mx.array, ...]
"""Keys and values of one layer, each [B, Hkv, capacity, D]; in fewer bits each is three: packed, scales, biases."""


def capacities(context: int) -> list[int]:
    """The sizes that the ring passes through: doubling up to 512, then even steps, then `context`."""
    sizes = [128, 256, 512, *range(1024, context, 512)]
    return [size for size in sizes if size < context] + [context]


class KVCache:
    """The rings of all layers.

    Position p lives in slot p mod context; until the ring has its full size, slots beyond p are masked.
    """

    def __init__(self, config: TransformerConfig, batch_size: int, dtype: mx.Dtype):
        self._config, self._batch, self._dtype = config, batch_size, dtype
        self._sizes = capacities(config.context)
        self.layers: list[LayerCache] = []
        self.clear()

    @property
    def capacity(self) -> int:
        """Positions that fit without growing."""
        return self.layers[0][0].shape[2]

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values held now."""
        return sum(ring.nbytes for layer in self.layers for ring in layer)

    def clear(self) -> None:
        """Forget everything, and give the memory back."""
        self.layers = self.blank(self._sizes[0])

    def fill(self, position: int) -> None:
        """Stand as after `position` frames of zeros: rings of the size they then have, made layer by layer."""
        capacity = next((size for size in self._sizes if size > position), self._sizes[-1])
        self.layers = self.blank(capacity)
        for layer in self.layers:
            mx.eval(layer)

    def blank(self, capacity: int) -> list[LayerCache]:
        """Zero rings of a size; nothing is allocated before they are evaluated."""
        config = self._config
        bits, dim = config.kv_bits, config.head_dim
        parts = [(dim, self._dtype)]
        if bits:
            groups = (dim // config.kv_group_size, self._dtype)
            parts = [(dim * bits // 32, mx.uint32), groups, groups]
        shape = (self._batch, config.num_kv_heads, capacity)
        return [
            tuple(mx.zeros((*shape, width), dtype) for width, dtype in [*parts, *parts])
            for _ in range(config.num_layers)
        ]

    def make_room(self, position: int) -> None:
        """Grow if `position` does not fit yet: as a part of the frame's own graph, which copies layer by layer.

        An old ring goes when its layer is done, so the peak is that of two layers above the grown rings.
        """
        if position < self.capacity or self.capacity == self._sizes[-1]:
            return
        capacity = next((size for size in self._sizes if size > position), self._sizes[-1])
        room = [(0, 0), (0, 0), (0, capacity - self.capacity), (0, 0)]
        self.layers = [tuple(mx.pad(ring, room) for ring in layer) for layer in self.layers]

    def sizes_ahead(self) -> list[int]:
        """Every capacity that the ring will have, the present one included."""
        return [size for size in self._sizes if size >= self.capacity]


def ring_mask(position: mx.array, capacity: int) -> mx.array:
    """[capacity]: True for the slots that hold a position, `position` included, before the ring has wrapped."""
    return mx.arange(capacity) <= position


def stretch_mask(position: int, time: int, context: int) -> mx.array:
    """[T, filled + T]: which of the ring's filled slots, and then of the stretch itself, each of its positions sees.

    Args:
        position: of the stretch's first; the ring holds those before it.
        time: T, positions in the stretch.
        context: how many the last one sees, itself included.
    """
    slots = mx.arange(min(position, context))
    held = position - 1 - (position - 1 - slots) % context  # the latest position that belongs into each slot
    keys = mx.concatenate([held, position + mx.arange(time)])
    queries = position + mx.arange(time)[:, None]
    return (keys <= queries) & (keys > queries - context)


def write_ring(cache: LayerCache, keys: mx.array, values: mx.array, slot: mx.array) -> LayerCache:
    """The rings with the keys and values of T steps, [B, Hkv, T, D], from `slot` [1] on, in the same memory."""
    steps: tuple[mx.array, ...] = (keys, values)
    if len(cache) > 2:
        packing = _packing(cache, keys.shape[-1])
        steps = (*mx.quantize(keys, **packing), *mx.quantize(values, **packing))
    return tuple(mx.slice_update(ring, step, slot, axes=(2,)) for ring, step in zip(cache, steps, strict=True))


def attend_ring(q: mx.array, cache: LayerCache, mask: mx.array | None) -> mx.array:
    """One step's attention: queries [B, H, 1, D] to the rings' slots, where `mask` [capacity] is not False."""
    if len(cache) == 2:
        return attention(q, *cache, mask)
    return quantized_attention(q, cache[:3], cache[3:], mask, **_packing(cache, q.shape[-1]))


def read_ring(cache: LayerCache, first: int, count: int, head_dim: int) -> tuple[mx.array, mx.array]:
    """Keys and values of some slots, [B, Hkv, count, D], unpacked."""
    parts = [ring[:, :, first : first + count] for ring in cache]
    if len(parts) == 2:
        return parts[0], parts[1]
    packing, (k, k_scales, k_biases, v, v_scales, v_biases) = _packing(cache, head_dim), parts
    return mx.dequantize(k, k_scales, k_biases, **packing), mx.dequantize(v, v_scales, v_biases, **packing)


class _Packing(TypedDict):
    bits: int
    group_size: int


def _packing(cache: LayerCache, head_dim: int) -> _Packing:
    """The bits and the group size of rings in fewer bits."""
    packed, scales = cache[:2]
    return {"bits": packed.shape[-1] * 32 // head_dim, "group_size": head_dim // scales.shape[-1]}
