"""What a model is told beside its tokens: words and embeddings, made into vectors once per conversation.

A conditioner looks a word up, or projects an embedding; the fuser adds the result to every frame's input (`sum`)
or lays it out for the cross-attention of every layer (`cross`). All of it in float32, as Kyutai keeps it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..config import ConditionerConfig, LMConfig
from ..errors import MoshiError


@dataclass(frozen=True)
class TensorCondition:
    """A sequence of vectors, such as a speaker's embedding.

    Args:
        tensor: [T, width], or [1, T, width].
        mask: which of the T places hold something; the others get the learnt padding. None: all do.
    """

    tensor: np.ndarray | mx.array
    mask: np.ndarray | None = None


Attribute = str | TensorCondition | None
"""What one conditioner is given for one conversation; None is nothing, which the model has learnt too."""


@dataclass(frozen=True)
class Conditions:
    """Vectors for a batch of conversations; with guidance the conditioned ones first, then the null ones."""

    sum: mx.array | None = None
    """[B, dim]: added to the embeddings of every frame."""
    cross: mx.array | None = None
    """[B, T, dim]: what every layer's cross-attention reads."""

    @property
    def rows(self) -> int | None:
        """The batch size; None when there is nothing in it."""
        return next((x.shape[0] for x in (self.sum, self.cross) if x is not None), None)


class Weight(nn.Module):
    """A matrix that quantizing leaves alone: conditioners are small, and run once."""

    def __init__(self, rows: int, columns: int):
        super().__init__()
        self.weight = mx.zeros((rows, columns))


class Conditioner(nn.Module):
    """A lookup table or nothing, then a projection; what is masked becomes the learnt padding."""

    def __init__(self, config: ConditionerConfig, output_dim: int):
        super().__init__()
        if config.bins is not None:
            self.embed = Weight(config.bins + 1, config.dim)  # the last row is for no word: read by training alone
        self.output_proj = Weight(output_dim, config.dim)
        if config.learnt_padding:
            self.learnt_padding = mx.zeros((1, 1, output_dim))
        self._config = config

    def __call__(self, name: str, batch: Sequence[Attribute]) -> mx.array:
        """What each conversation gives -> [B, T, dim] float32, T being the longest.

        Raises:
            MoshiError: of the wrong kind, an unknown word, or the wrong width.
        """
        rows = [self._row(name, given) for given in batch]
        longest = max(1, *(len(vectors) for vectors, _ in rows))
        inputs = np.zeros((len(rows), longest, self._config.dim), np.float32)
        mask = np.zeros((len(rows), longest, 1), np.float32)
        for i, (vectors, filled) in enumerate(rows):
            inputs[i, : len(vectors)], mask[i, : len(filled), 0] = vectors, filled
        projected = mx.array(inputs) @ self.output_proj.weight.astype(mx.float32).T
        padding = self.learnt_padding.astype(mx.float32) if "learnt_padding" in self else 0.0
        return projected * mx.array(mask) + padding * mx.array(1 - mask)

    def _row(self, name: str, given: Attribute) -> tuple[np.ndarray, np.ndarray]:
        """Vectors [T, width] before the projection, and their mask [T]."""
        if given is None:
            return np.zeros((0, self._config.dim), np.float32), np.zeros(0, np.float32)
        if isinstance(given, str):
            index = self._index(name, given)
            return np.array(self.embed.weight[index : index + 1].astype(mx.float32)), np.ones(1, np.float32)
        if self._config.bins is not None:
            raise MoshiError(f"the condition {name!r} is a word, not an embedding")
        vectors = np.array(mx.array(given.tensor).astype(mx.float32))  # by MLX: numpy has no bfloat16
        vectors = vectors[0] if vectors.ndim == 3 and len(vectors) == 1 else vectors
        if vectors.ndim != 2 or vectors.shape[1] != self._config.dim:
            raise MoshiError(
                f"the condition {name!r} must be [T, {self._config.dim}], and is {list(np.shape(given.tensor))}"
            )
        mask = np.ones(len(vectors)) if given.mask is None else np.asarray(given.mask).reshape(-1)
        if len(mask) != len(vectors):
            raise MoshiError(f"the condition {name!r} has {len(vectors)} vectors, and a mask for {len(mask)}")
        return vectors, mask.astype(np.float32)

    def _index(self, name: str, word: str) -> int:
        config = self._config
        if config.bins is None:
            raise MoshiError(f"the condition {name!r} is an embedding, not the word {word!r}")
        if config.values is None:  # any word: Kyutai spreads them by their hash
            return int(hashlib.sha256(word.encode()).hexdigest(), 16) % config.bins
        if word not in config.values:
            raise MoshiError(f"the condition {name!r} is one of {', '.join(config.values)}, not {word!r}")
        return config.values.index(word)


def fuse(
    config: LMConfig, conditioners: Mapping[str, Conditioner], batch: Sequence[Mapping[str, Attribute]]
) -> Conditions:
    """The conditions of a batch of conversations, float32.

    Raises:
        MoshiError: a name that the model does not have, one that is missing, or what `Conditioner` refuses.
    """
    for given in batch:
        for name in given.keys() ^ conditioners.keys():
            knows = ", ".join(conditioners) or "none"
            problem = "is not one of this model's" if name in given else "is missing (None leaves it out)"
            raise MoshiError(f"the condition {name!r} {problem}; its conditions: {knows}")
    made = {name: conditioners[name](name, [given[name] for given in batch]) for name in conditioners}
    summed = sum((made[name] for name in config.fuser.sum), mx.zeros(())) if config.fuser.sum else None
    cross = mx.concatenate([made[name] for name in config.fuser.cross], axis=1) if config.fuser.cross else None
    if cross is not None and config.fuser.positions:
        cross = cross + config.fuser.positions * sinusoids(*cross.shape[1:])
    return Conditions(None if summed is None else _only(summed), cross)


def _only(summed: mx.array) -> mx.array:
    if summed.shape[1] != 1:
        raise MoshiError(f"a condition that is added to every frame is one vector, not {summed.shape[1]}")
    return summed[:, 0]


def sinusoids(time: int, dim: int) -> mx.array:
    """Positions 0 to T - 1 as cosines, then sines, of periods from 1 to 10,000: [T, dim]."""
    rates = 10_000.0 ** (-mx.arange(dim // 2) / (dim // 2 - 1))
    phases = mx.arange(time)[:, None] * rates
    return mx.concatenate([mx.cos(phases), mx.sin(phases)], axis=1)
