"""What both transformers are made of: linear, embedding, attention, gated MLP and the pre-norm block.

Activations are [N, dim], N being all positions of all sequences: nothing here knows time. An attention
hands its projected heads to an `Attend`, so that a ring, a frame and a whole sequence share one block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mlx.core as mx
import mlx.nn as nn

from ..config import TransformerConfig
from .kernels import attention, on_gpu

Attend = Callable[[mx.array], mx.array]
"""Projected heads, queries then keys then values, [N, (H + 2 Hkv) · D] -> attended [N, H · D]."""
LAYER_NORM_EPS = 1e-5
"""Of Kyutai's layer norms, which stand where RMS norms do not."""
Memory = tuple[mx.array, mx.array]
"""Keys and values of the conditions, which one layer's cross-attention reads, each [B, H, T, D]."""


class Linear(nn.Linear):
    """A product without bias, in the layout that the backend reads fastest.

    Rows of the weight as they are, but for float32 on MLX's CPU backend, which is up to twice as fast on its
    columns: these are laid out once, when the weight is first used, in place of the rows and not beside them.
    """

    def __init__(self, dim_in: int, dim_out: int):
        super().__init__(dim_in, dim_out, bias=False)
        self._laid_out: mx.array | None = None

    def __call__(self, x: mx.array) -> mx.array:
        """[N, dim_in] -> [N, dim_out]."""
        if self._laid_out is not self.weight:
            self._lay_out()
        return x @ self._columns

    def _lay_out(self) -> None:
        by_rows = on_gpu() or self.weight.dtype != mx.float32
        self._columns = self.weight.T if by_rows else mx.contiguous(self.weight.T)
        self._laid_out = self.weight = self._columns.T
        mx.eval(self._columns, self._laid_out)


class StackedLinear(nn.Module):
    """Several projections of one vector as one product.

    `groups` says how many of them each part computes: one part, unless a checkpoint holds them in
    different formats.
    """

    def __init__(self, dim_in: int, dim_out: int, groups: Sequence[int]):
        super().__init__()
        self.parts = [Linear(dim_in, dim_out * count) for count in groups]
        self._groups = tuple(groups)

    def __call__(self, x: mx.array) -> list[mx.array]:
        """[N, dim_in] -> one [N, dim_out] per projection."""
        outputs: list[mx.array] = []
        for part, count in zip(self.parts, self._groups, strict=True):
            outputs += mx.split(part(x), count, axis=-1)
        return outputs


class Embedding(nn.Module):
    """A table whose last row is zero, so that the zero token (-1) reads the zero vector.

    The row is stored like all others, so the rule survives quantizing. `low_rank` projects a narrow table.
    """

    def __init__(self, tokens: int, dim: int, low_rank: int | None = None):
        super().__init__()
        self.table = nn.Embedding(tokens + 1, low_rank or dim)
        if low_rank:
            self.low_rank = Linear(low_rank, dim)

    def __call__(self, tokens: mx.array) -> mx.array:
        """Tokens [N] -> vectors [N, dim]; -1 gives zeros."""
        x = self.table(tokens)
        return self.low_rank(x) if "low_rank" in self else x


class TwoStreamEmbedding(nn.Module):
    """Two text streams in one token, (second + 1) · tokens + first: one table, a projection for each.

    Either may be missing: without a second, or for the zero token (-1), the table's last row is read, which is zero.
    """

    def __init__(self, tokens: int, dim: int, low_rank: int | None = None):
        super().__init__()
        self.table = nn.Embedding(tokens + 1, low_rank or dim)
        self.out1 = Linear(low_rank or dim, dim)
        self.out2 = Linear(low_rank or dim, dim)
        self._tokens = tokens

    def __call__(self, tokens: mx.array) -> mx.array:
        """Tokens [N] -> vectors [N, dim]."""
        tokens = tokens.astype(mx.int32)
        absent = tokens < 0
        first = mx.where(absent, self._tokens, tokens % self._tokens)
        second = mx.where(absent, 0, tokens // self._tokens) - 1
        return self.out1(self.table(first)) + self.out2(self.table(mx.where(second < 0, self._tokens, second)))


class Attention(nn.Module):
    """Multi-head attention with stacked projections (queries, keys, values) and no biases."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        heads = config.num_heads + 2 * config.num_kv_heads
        self.in_proj = Linear(config.dim, heads * config.head_dim)
        self.out_proj = Linear(config.dim, config.dim)

    def __call__(self, x: mx.array, attend: Attend) -> mx.array:
        """[N, dim] -> [N, dim]."""
        return self.out_proj(attend(self.in_proj(x)))


class CrossAttention(nn.Module):
    """Attention to the conditions, which have no positions and hide nothing.

    Their keys and values never change in a conversation: `remember` works them out once, and frames read them.
    """

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.q_proj = Linear(config.dim, config.dim)
        self.kv_proj = Linear(config.dim, 2 * config.dim)
        self.out_proj = Linear(config.dim, config.dim)
        self._heads = config.num_heads

    def remember(self, conditions: mx.array) -> Memory:
        """Conditions [B, T, dim] -> their keys and values."""
        batch, time, _ = conditions.shape
        heads = self.kv_proj(conditions).reshape(batch, time, 2 * self._heads, -1).swapaxes(1, 2)
        keys, values = mx.split(heads, 2, axis=1)
        return mx.contiguous(keys), mx.contiguous(values)

    def __call__(self, x: mx.array, memory: Memory) -> mx.array:
        """[B · T, dim] -> [B · T, dim]: every position sees all that its conversation remembers."""
        keys, values = memory
        q = self.q_proj(x).reshape(keys.shape[0], -1, self._heads, keys.shape[-1]).swapaxes(1, 2)
        return self.out_proj(attention(q, keys, values).swapaxes(1, 2).reshape(x.shape))


class GatedMLP(nn.Module):
    """silu(gate) · up, gate and up stacked in one projection."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.linear_in = Linear(config.dim, 2 * config.hidden_dim)
        self.linear_out = Linear(config.hidden_dim, config.dim)

    def __call__(self, x: mx.array) -> mx.array:
        """[N, dim] -> [N, dim]."""
        gate, up = mx.split(self.linear_in(x), 2, axis=-1)
        return self.linear_out(nn.silu(gate) * up)


class Block(nn.Module):
    """Pre-norm residual block: attention, cross-attention to the conditions where there is one, gated MLP."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.norm1 = nn.RMSNorm(config.dim, config.norm_eps)
        self.self_attn = Attention(config)
        self.norm2 = nn.RMSNorm(config.dim, config.norm_eps)
        self.gating = GatedMLP(config)
        if config.cross_attention:
            self.norm_cross = nn.LayerNorm(config.dim, LAYER_NORM_EPS)
            self.cross_attention = CrossAttention(config)

    def __call__(self, x: mx.array, attend: Attend, memory: Memory | None = None) -> mx.array:
        """[N, dim] -> [N, dim]."""
        x = x + self.self_attn(self.norm1(x), attend)
        if memory is not None:
            x = x + self.cross_attention(self.norm_cross(x), memory)
        return x + self.gating(self.norm2(x))
