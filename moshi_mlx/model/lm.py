"""The language model: embeddings of all streams, Helium, the text head, the depth transformer.

`LM.hear` and the depth transformer are the two halves of a frame, which the generator compiles; calling the
model teacher-forces whole sequences. Both run the same blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from ..config import ZERO_TOKEN, LMConfig
from ..streams import delay_codes, undelay_logits
from .conditions import Attribute, Conditioner, Conditions, fuse
from .depth import DepthTransformer
from .kv_cache import LayerCache
from .layers import Linear, Memory, TwoStreamEmbedding
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
        tables = config.num_streams - config.demux_second_stream
        return Layout([tables] if tables else [], [inputs] if inputs else [])


@dataclass(frozen=True)
class Logits:
    """Scores aligned with the codes they predict; NaN where a delay leaves nothing to predict."""

    text: mx.array
    """[B, T, text vocabulary] (teacher-forced)."""
    audio: mx.array | None
    """[B, dep_q, T, card] (teacher-forced); None without a depth transformer."""


@dataclass(frozen=True)
class TemporalOutput:
    """What the temporal half of a frame computes, all of it still on the device."""

    hidden: mx.array
    """[B, dim], normed: what the depth transformer reads."""
    text_logits: mx.array
    """[B, text vocabulary]."""
    cache: list[LayerCache]


Told = tuple[mx.array | None, list[Memory] | None]
"""The conditions as frames read them: what is added, [B, dim], and each layer's keys and values."""


class StreamEmbedding(nn.Module):
    """The tables of all streams, text first, as few tables as possible: one gather and one sum a frame.

    Each table ends in a zero row, which the zero token (-1) reads. Text that carries a second stream stands apart.
    """

    def __init__(self, config: LMConfig, groups: Sequence[int]):
        super().__init__()
        dim, sizes = config.transformer.dim, [config.text_rows] + [config.card + 1] * config.n_q
        first = 0
        if config.demux_second_stream:
            self.text = TwoStreamEmbedding(config.text_rows, dim)
            first = 1
        self._slices: list[tuple[slice, mx.array, int]] = []
        self.parts: list[nn.Embedding] = []
        for count in groups:
            rows = sizes[first : first + count]
            starts = [sum(rows[:i]) for i in range(count)]
            self.parts.append(nn.Embedding(sum(rows) + 1, dim))
            self._slices.append((slice(first, first + count), mx.array(starts), sum(rows)))
            first += count

    def __call__(self, tokens: mx.array) -> mx.array:
        """Tokens [N, streams] -> the sum of their vectors [N, dim]."""
        total = self.text(tokens[:, 0]) if "text" in self else None
        for part, (streams, starts, zero_row) in zip(self.parts, self._slices, strict=True):
            chosen = tokens[:, streams]
            rows = mx.where(chosen == ZERO_TOKEN, zero_row, chosen + starts)
            x = part(rows).sum(axis=1)
            total = x if total is None else total + x
        assert total is not None
        return total


class LM(nn.Module):
    """The language model of Moshi and all its kin."""

    def __init__(self, config: LMConfig, layout: Layout | None = None):
        super().__init__()
        layout = layout or Layout.of(config)
        dim = config.transformer.dim
        self.embed = StreamEmbedding(config, layout.stream_groups)
        self.transformer = TemporalTransformer(config.transformer)
        self.out_norm = nn.RMSNorm(dim, config.transformer.norm_eps)
        self.text_linear = Linear(dim, config.text_card_out)
        if config.depth is not None:
            self.depformer = DepthTransformer(config, layout.input_groups)
        self.extra_heads = [Linear(dim, config.extra_heads_dim) for _ in range(config.extra_heads)]
        self.conditioners = {name: Conditioner(each, dim) for name, each in config.conditioners.items()}
        self._config = config

    @property
    def config(self) -> LMConfig:
        """The configuration that the network was built from."""
        return self._config

    @property
    def dtype(self) -> mx.Dtype:
        """Type of the activations, and of the keys and values."""
        return self.out_norm.weight.dtype

    def conditions(self, attributes: Sequence[Mapping[str, Attribute]]) -> Conditions:
        """What the model is told beside its tokens, from words and embeddings, once per conversation.

        Args:
            attributes: for each row of the batch, each conditioner's word, embedding, or None for nothing.

        Raises:
            MoshiError: a condition is unknown, missing, or of the wrong kind.
        """
        return fuse(self._config, self.conditioners, attributes)

    def told(self, conditions: Conditions | None) -> Told:
        """The conditions as frames read them: worked out here, once, and not in the frame."""
        if conditions is None:
            return None, None
        summed, cross = (None if x is None else x.astype(self.dtype) for x in (conditions.sum, conditions.cross))
        told = summed, self.transformer.remember(cross)
        mx.eval([x for x in told if x is not None])
        return told

    def hear(
        self, tokens: mx.array, position: mx.array, cache: list[LayerCache], full: bool, told: Told = (None, None)
    ) -> TemporalOutput:
        """The temporal half of a frame: read a column of tokens, score the next text token.

        Args:
            tokens: the column, [B, streams] int32.
            position: scalar int32.
            cache: Helium's rings, given up.
            full: whether the rings have wrapped.
            told: the conditions, as `told` gives them.
        """
        summed, memory = told
        x = self.embed(tokens)
        x, cache = self.transformer.step(x if summed is None else x + summed, position, cache, full, memory)
        x = self.out_norm(x)
        return TemporalOutput(x, self.text_linear(x), cache)

    def read(self, columns: mx.array, position: int, cache: list[LayerCache]) -> list[LayerCache]:
        """Take columns that are given, [B, T, streams], into the rings at once; see TemporalTransformer.read."""
        batch, time, streams = columns.shape
        x = self.embed(columns.reshape(-1, streams)).reshape(batch, time, -1)
        return self.transformer.read(x, position, cache)

    def extra(self, hidden: mx.array) -> list[mx.array]:
        """Each extra head's probabilities, [B, extra_heads_dim]."""
        return [mx.softmax(head(hidden), axis=-1, precise=True) for head in self.extra_heads]

    def __call__(self, codes: mx.array, conditions: Conditions | None = None) -> Logits:
        """Teacher-forced logits of whole sequences.

        Args:
            codes: undelayed tokens [B, streams, T] in the order text, generated, user; -1 is the zero token.
            conditions: for a model that takes some.

        Returns:
            Logits of which position t predicts `codes[..., t]`.
        """
        config = self._config
        batch, _, time = codes.shape
        columns = delay_codes(config, codes).swapaxes(1, 2)  # [B, T + 1, streams]
        read, written = (c.reshape(batch * time, -1) for c in (columns[:, :-1], columns[:, 1:]))
        summed, memory = self.told(conditions)
        x = self.embed(read) if summed is None else self.embed(read) + mx.repeat(summed, time, axis=0)
        x = self.out_norm(self.transformer(x, time, memory))
        text = self.text_linear(x).reshape(batch, 1, time, -1)
        text = undelay_logits(text, config.delays[:1])[:, 0]
        if config.depth is None:
            return Logits(text, None)
        _, audio = self.depformer(x, written[:, 0], lambda step, _: written[:, 1 + step])
        audio = audio.reshape(batch, time, config.dep_q, config.card).swapaxes(1, 2)
        return Logits(text, undelay_logits(audio, config.delays[1 : 1 + config.dep_q]))
