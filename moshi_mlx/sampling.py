"""How a token is drawn from logits, on the device: temperature, top-k, top-p, min-p.

Gumbel-max: argmax(logits / temp + noise) draws from the softmax, so that one draw of noise per frame,
from a key that only seed and step decide, makes a conversation repeatable.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import mlx.core as mx

from .errors import MoshiError


@dataclass(frozen=True)
class Sampling:
    """How to draw tokens.

    Args:
        temp: temperature; 0 is greedy.
        top_k: draw among the k most likely tokens (and those tied with the k-th); 0 is all.
        min_p: draw among tokens at least this fraction as likely as the most likely one; 0 is all.
        top_p: draw among the fewest tokens that together have this share of what top-k leaves (the nucleus, arXiv
            1904.09751; and those tied with the last of them); 1 is all.

    Raises:
        MoshiError: a value is out of its range.
    """

    temp: float = 0.8
    top_k: int = 0
    min_p: float = 0.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temp < float("inf"):
            raise MoshiError(f"temperature must be 0 or more, not {self.temp}")
        if self.top_k < 0:
            raise MoshiError(f"top-k must be 0 (all tokens) or more, not {self.top_k}")
        if not 0 <= self.min_p <= 1:
            raise MoshiError(f"min-p must lie between 0 and 1, not {self.min_p}")
        if not 0 < self.top_p <= 1:
            raise MoshiError(f"top-p must be above 0 and at most 1, not {self.top_p}")

    def noise(self, shape: tuple[int, ...], key: mx.array) -> mx.array | None:
        """What `draw` will need: Gumbel noise of the logits' shape, or None when greedy."""
        return mx.random.gumbel(shape, key=key) if self.temp > 0 else None

    def draw(self, logits: mx.array, noise: mx.array | None) -> mx.array:
        """Logits [..., V] -> tokens [...] uint32."""
        if noise is None:
            return mx.argmax(logits, axis=-1)
        scaled = logits.astype(mx.float32) / self.temp
        floor = None
        vocabulary = logits.shape[-1]
        if 0 < self.top_k < vocabulary:
            kth = vocabulary - self.top_k
            floor = mx.partition(scaled, kth, axis=-1)[..., kth : kth + 1]
        if self.top_p < 1:
            floor = _nucleus(scaled if floor is None else mx.where(scaled < floor, -mx.inf, scaled), self.top_p)
        if self.min_p > 0:
            least = mx.max(scaled, axis=-1, keepdims=True) + math.log(self.min_p)
            floor = least if floor is None else mx.maximum(floor, least)
        if floor is not None:
            scaled = mx.where(scaled < floor, -mx.inf, scaled)
        return mx.argmax(scaled + noise, axis=-1)


def _nucleus(scaled: mx.array, share: float) -> mx.array:
    """[..., V] -> the least of the fewest logits whose softmax adds up to `share`, [..., 1]."""
    falling = -mx.sort(-scaled, axis=-1)
    likely = mx.softmax(falling, axis=-1, precise=True)
    above = mx.cumsum(likely, axis=-1) - likely  # what those before have together
    return mx.min(mx.where(above < share, falling, mx.inf), axis=-1, keepdims=True)


TEXT_SAMPLING = Sampling(temp=0.7, top_k=25)
"""Moshi's defaults for text."""
AUDIO_SAMPLING = Sampling(temp=0.8, top_k=250)
"""Moshi's defaults for audio."""
