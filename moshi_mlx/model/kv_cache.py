"""The ring of keys and values that Helium attends to: exactly the last `context` positions, for ever.

The ring grows in a few steps, so that a young conversation reads little memory, and is updated in place:
the arrays go into the compiled step and come out of it, and nobody else holds them in between.
"""

from __future__ import annotations

import mlx.core as mx

from ..config import TransformerConfig

LayerCache = tuple[mx.array, mx.array]
"""Keys and values of one layer, each [B, Hkv, capacity, D]."""


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
        return sum(keys.nbytes + values.nbytes for keys, values in self.layers)

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
        shape = (self._batch, config.num_kv_heads, capacity, config.head_dim)
        return [(mx.zeros(shape, self._dtype), mx.zeros(shape, self._dtype)) for _ in range(config.num_layers)]

    def make_room(self, position: int) -> None:
        """Grow, layer by layer so that the peak stays low, if `position` does not fit yet."""
        if position < self.capacity or self.capacity == self._sizes[-1]:
            return
        capacity = next((size for size in self._sizes if size > position), self._sizes[-1])
        for i in range(len(self.layers)):
            keys, values = self.layers[i]
            room = [(0, 0), (0, 0), (0, capacity - keys.shape[2]), (0, 0)]
            self.layers[i] = mx.pad(keys, room), mx.pad(values, room)
            del keys, values
            mx.eval(self.layers[i])

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
    return mx.slice_update(cache[0], keys, slot, axes=(2,)), mx.slice_update(cache[1], values, slot, axes=(2,))
