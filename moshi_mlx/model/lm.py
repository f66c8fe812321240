"""The language model: embeddings of all streams, Helium, the text head, the depth transformer.

`LM.step` is what the generator compiles, frame by frame; calling the model teacher-forces whole
sequences. Both run the same blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from ..config import ZERO_TOKEN, LMConfig, check_runnable
from ..streams import delay_codes, undelay_logits
from .depth import Choose, DepthTransformer
from .kv_cache import LayerCache
from .layers import Linear
from .temporal import TemporalTransformer


@dataclass(frozen=True)
class Layout:
    """How many streams share a table, and how many depth inputs a product: all, unless formats differ."""

    stream_groups: Sequence[int]
    input_groups: Sequence[int]

    @staticmethod
    def of(config: LMConfig) -> Layout:
        """Everything in one."""
        inputs = 0 if config.depth is None else 1 if config.depth.shared_input else config.depth.num_weights
        return Layout([config.num_streams], [inputs] if inputs else [])


@dataclass(frozen=True)
class Logits:
    """Scores aligned with the codes they predict; NaN where a delay leaves nothing to predict."""

    text: mx.array
    """[B, T, text vocabulary] (teacher-forced)."""
    audio: mx.array | None
    """[B, dep_q, T, card] (teacher-forced); None without a depth transformer."""


@dataclass
class Step:
    """What one frame's step computes, all of it still on the device."""

    text: mx.array
    """[B]: the text token."""
    audio: mx.array | None
    """[B, dep_q]: the column's audio tokens."""
    text_logits: mx.array
    audio_logits: mx.array | None
    extra: list[mx.array]
    """Each extra head's probabilities, [B, extra_heads_dim]."""
    cache: list[LayerCache]


class StreamEmbedding(nn.Module):
    """The tables of all streams, text first, as few tables as possible: one gather and one sum a frame.

    Each table ends in a zero row, which the zero token (-1) reads.
    """

    def __init__(self, sizes: Sequence[int], dim: int, groups: Sequence[int]):
        super().__init__()
        self._slices: list[tuple[slice, mx.array, int]] = []
        self.parts: list[nn.Embedding] = []
        first = 0
        for count in groups:
            rows = sizes[first : first + count]
            starts = [sum(rows[:i]) for i in range(count)]
            self.parts.append(nn.Embedding(sum(rows) + 1, dim))
            self._slices.append((slice(first, first + count), mx.array(starts), sum(rows)))
            first += count

    def __call__(self, tokens: mx.array) -> mx.array:
        """Tokens [N, streams] -> the sum of their vectors [N, dim]."""
        total = None
        for part, (streams, starts, zero_row) in zip(self.parts, self._slices, strict=True):
            chosen = tokens[:, streams]
            rows = mx.where(chosen == ZERO_TOKEN, zero_row, chosen + starts)
            x = part(rows).sum(axis=1)
            total = x if total is None else total + x
        assert total is not None
        return total


class LM(nn.Module):
    """Moshi's language model, and those of its kin that have the same streams."""

    def __init__(self, config: LMConfig, layout: Layout | None = None):
        super().__init__()
        check_runnable(config)
        layout = layout or Layout.of(config)
        dim = config.transformer.dim
        sizes = [config.text_rows] + [config.card + 1] * config.n_q
        self.embed = StreamEmbedding(sizes, dim, layout.stream_groups)
        self.transformer = TemporalTransformer(config.transformer)
        self.out_norm = nn.RMSNorm(dim, config.transformer.norm_eps)
        self.text_linear = Linear(dim, config.text_card_out)
        if config.depth is not None:
            self.depformer = DepthTransformer(config, layout.input_groups)
        self.extra_heads = [Linear(dim, config.extra_heads_dim) for _ in range(config.extra_heads)]
        self._config = config

    @property
    def config(self) -> LMConfig:
        """The configuration that the network was built from."""
        return self._config

    @property
    def dtype(self) -> mx.Dtype:
        """Type of the activations, and of the keys and values."""
        return self.out_norm.weight.dtype

    def step(
        self,
        tokens: mx.array,
        position: mx.array,
        cache: list[LayerCache],
        full: bool,
        choose_text: Callable[[mx.array], mx.array],
        choose_audio: Choose,
    ) -> Step:
        """One frame: read a column of tokens, write the next.

        Args:
            tokens: the column, [B, streams] int32.
            position: scalar int32.
            cache: Helium's rings, given up.
            full: whether the rings have wrapped.
            choose_text: text logits [B, V] -> token [B].
            choose_audio: see depth.Choose.
        """
        x, cache = self.transformer.step(self.embed(tokens), position, cache, full)
        x = self.out_norm(x)
        text_logits = self.text_linear(x)
        text = choose_text(text_logits)
        audio = audio_logits = None
        if self._config.depth is not None:
            audio, audio_logits = self.depformer(x, text, choose_audio)
        extra = [mx.softmax(head(x), axis=-1, precise=True) for head in self.extra_heads]
        return Step(text, audio, text_logits, audio_logits, extra, cache)

    def __call__(self, codes: mx.array) -> Logits:
        """Teacher-forced logits of whole sequences.

        Args:
            codes: undelayed tokens [B, streams, T] in the order text, generated, user; -1 is the zero token.

        Returns:
            Logits of which position t predicts `codes[..., t]`.
        """
        config = self._config
        batch, _, time = codes.shape
        columns = delay_codes(config, codes).swapaxes(1, 2)  # [B, T + 1, streams]
        read, written = (c.reshape(batch * time, -1) for c in (columns[:, :-1], columns[:, 1:]))
        x = self.out_norm(self.transformer(self.embed(read), time))
        text = self.text_linear(x).reshape(batch, 1, time, -1)
        text = undelay_logits(text, config.delays[:1])[:, 0]
        if config.depth is None:
            return Logits(text, None)
        _, audio = self.depformer(x, written[:, 0], lambda step, _: written[:, 1 + step])
        audio = audio.reshape(batch, time, config.dep_q, config.card).swapaxes(1, 2)
        return Logits(text, undelay_logits(audio, config.delays[1 : 1 + config.dep_q]))
