"""The depth transformer: writes the codebooks of one frame, one after the other (RQ-Transformer).

Moshi paper, section 3.4.1. Each step has weights of its own (or shares them by a schedule), reads the
temporal transformer's output and the token before it, and carries no positional embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy

import mlx.core as mx
import mlx.nn as nn

from ..config import LMConfig, TransformerConfig
from .kernels import attention
from .layers import LAYER_NORM_EPS, Attend, Block, Embedding, Linear, StackedLinear, TwoStreamEmbedding

Choose = Callable[[int, mx.array], mx.array]
"""(step, logits [N, card]) -> tokens [N]: samples them, or takes them from a teacher."""


class DepthWeights(nn.Module):
    """One set of weights: the blocks that one step, or several by the schedule, run through."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.layers = [Block(config) for _ in range(config.num_layers)]


class DepthTransformer(nn.Module):
    """`dep_q` steps within a frame; the text token enters the first, each codebook the next."""

    def __init__(self, config: LMConfig, input_groups: Sequence[int]):
        super().__init__()
        depth = config.depth
        if depth is None:
            raise ValueError("this configuration has no depth transformer")
        dim, steps = depth.transformer.dim, depth.steps
        self.linear_in = StackedLinear(config.transformer.dim, dim, input_groups)
        text = TwoStreamEmbedding if config.demux_second_stream else Embedding
        self.embs: list[Embedding | TwoStreamEmbedding] = [text(config.text_card + 1, dim, depth.low_rank)]
        self.embs += [Embedding(config.card + 1, dim, depth.low_rank) for _ in range(steps - 1)]
        self.weights = [DepthWeights(depth.transformer) for _ in range(depth.num_weights)]
        if depth.output_norm:
            self.norms = [nn.LayerNorm(dim, LAYER_NORM_EPS) for _ in range(steps)]
        self.linear_outs = [Linear(dim, config.card) for _ in range(steps)]
        self._config = depth

    def __call__(
        self, context: mx.array, text: mx.array, choose: Choose, steps: int | None = None
    ) -> tuple[mx.array, mx.array]:
        """Run the steps of N frames at once.

        Args:
            context: the temporal transformer's normed output, [N, temporal dim].
            text: the frames' text tokens, [N].
            choose: decides each codebook's token from its logits.
            steps: how many codebooks to write, `dep_q` unless told otherwise.

        Returns:
            tokens [N, steps] and logits [N, steps, card].
        """
        inputs = self.linear_in(context)
        frame = FrameCache(self._config.transformer, context.shape[0], context.dtype)
        token, tokens, logits = text, [], []
        for step, index in enumerate(self._config.schedule[:steps]):
            x = inputs[0 if self._config.shared_input else index] + self.embs[step](token)
            for i, block in enumerate(self.weights[index].layers):
                x = block(x, frame.attend(i, step))
            scores = self.linear_outs[step](self.norms[step](x) if self._config.output_norm else x)
            token = choose(step, scores)
            tokens.append(token)
            logits.append(scores)
        return mx.stack(tokens, axis=1), mx.stack(logits, axis=1)


class FrameCache:
    """Keys and values of the steps done so far in this frame, stacked per layer [N, 2 Hkv, dep_q, D]."""

    def __init__(self, config: TransformerConfig, batch: int, dtype: mx.Dtype):
        blank = mx.zeros((batch, 2 * config.num_kv_heads, config.context, config.head_dim), dtype)
        mx.eval(blank)
        self._layers = [copy(blank) for _ in range(config.num_layers)]  # a name each, for what is assigned to a slice
        self._config = config

    def attend(self, layer: int, step: int) -> Attend:
        """Attention of a step to itself and the steps before it."""
        config = self._config

        def attend(projected: mx.array) -> mx.array:
            heads = projected.reshape(-1, config.num_heads + 2 * config.num_kv_heads, 1, config.head_dim)
            q, kv = mx.split(heads, [config.num_heads], axis=1)
            seen = self._layers[layer]
            seen[:, :, step : step + 1] = kv
            if step == 0 and config.kv_repeat == 1:
                return projected[:, 2 * config.dim :]  # the only value there is takes all the weight
            keys, values = mx.split(seen[:, :, : step + 1], 2, axis=1)
            return attention(q, keys, values).reshape(-1, config.dim)

        return attend
