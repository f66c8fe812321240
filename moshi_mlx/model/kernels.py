"""Operations that a GPU has one kernel for and MLX's CPU backend composes out of many, and attention over 8 bits.

On the CPU, where a frame's time is mostly graph nodes, rotary positions and attention are written with as few
nodes as they need: 3 and 5, where the composed forms take 16 and 9. The numbers agree.
"""

from __future__ import annotations

import mlx.core as mx

from ..config import TransformerConfig


def on_gpu() -> bool:
    """Whether MLX runs on Metal or CUDA."""
    return mx.default_device().type == mx.DeviceType.gpu


class Rotation:
    """Rotary positions (RoFormer, arXiv 2104.09864) of `time` steps from `offset` on, for all layers of a frame.

    Pairs turn by position · base^(-2i / D), which is a product of complex numbers where they are interleaved.
    """

    def __init__(self, config: TransformerConfig, offset: mx.array | int, time: int = 1):
        self._base, self._offset, self._dim = config.rope_base, offset, config.head_dim
        self._interleaved = config.rope_interleaved
        self._turns: mx.array | None = None
        if self._base is not None and self._interleaved and not on_gpu():
            rates = mx.exp(mx.arange(0, self._dim, 2) * (-mx.log(mx.array(self._base)) / self._dim))
            angles = (mx.arange(time) + offset)[:, None] * rates
            self._turns = mx.cos(angles) + 1j * mx.sin(angles)  # [T, D / 2]

    def __call__(self, heads: mx.array) -> mx.array:
        """[B, H, T, D] -> the same, turned."""
        if self._base is None:
            return heads
        if self._turns is None:
            pairs = self._interleaved
            return mx.fast.rope(heads, self._dim, traditional=pairs, base=self._base, scale=1.0, offset=self._offset)
        pairs = heads.astype(mx.float32).view(mx.complex64)
        return (pairs * self._turns).view(mx.float32).astype(heads.dtype)


def attention(q: mx.array, k: mx.array, v: mx.array, mask: mx.array | None = None) -> mx.array:
    """Scaled dot-product attention.

    Args:
        q: [B, H, T, D].
        k: [B, Hkv, S, D]; Hkv divides H.
        v: [B, Hkv, S, D].
        mask: True where a query sees a key, [T, S] or [S].
    """
    scale = q.shape[-1] ** -0.5
    if on_gpu() or q.shape[1] != k.shape[1]:
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)
    scores = (q @ k.swapaxes(-1, -2)) * scale
    if mask is not None:
        scores = mx.where(mask, scores, -mx.inf)
    return mx.softmax(scores, axis=-1, precise=True) @ v


def quantized_attention(
    q: mx.array,
    keys: tuple[mx.array, ...],
    values: tuple[mx.array, ...],
    mask: mx.array | None,
    group_size: int,
    bits: int,
) -> mx.array:
    """Scaled dot-product attention of one step to keys and values that are read as they are stored, in few bits.

    Args:
        q: [B, H, 1, D].
        keys: packed, scales and biases of [B, Hkv, S, D], as `mx.quantize` gives them; Hkv divides H.
        values: the same.
        mask: True where a key is seen, [S].
        group_size: numbers along D that share a scale.
        bits: of each number.
    """
    batch, _, _, dim = q.shape
    # Queries that share a head of keys are the rows of one product.
    rows = q.reshape(batch, keys[0].shape[1], -1, dim) * dim**-0.5
    scores = mx.quantized_matmul(rows, *keys, transpose=True, group_size=group_size, bits=bits)
    if mask is not None:
        scores = mx.where(mask, scores, -mx.inf)
    weights = mx.softmax(scores, axis=-1, precise=True)
    seen = mx.quantized_matmul(weights, *values, transpose=False, group_size=group_size, bits=bits)
    return seen.reshape(q.shape)
