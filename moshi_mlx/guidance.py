"""Classifier-free guidance: every conversation runs twice, with its conditions and without, and is pushed apart.

Ho and Salimans, arXiv 2207.12598. The two runs are one batch: the conditioned rows first, then the null ones.
Knows columns of tokens and logits; the conditions themselves are the caller's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from .config import ZERO_TOKEN
from .errors import MoshiError


@dataclass(frozen=True)
class Guidance:
    """How much the conditions count, and what the null rows do not get to read.

    Args:
        coefficient: logits are null + (conditioned - null) · coefficient; 1 is no guidance, and no null rows.
        without_text: the null rows read no text; text is then drawn from the conditioned logits alone.
        masked_until: per conversation, the frame up to which the null rows read nothing (a voice's prefix).

    Raises:
        MoshiError: the coefficient is not a finite number.
    """

    coefficient: float = 1.0
    without_text: bool = False
    masked_until: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.coefficient):
            raise MoshiError(f"guidance must be a finite number, 1 for none, not {self.coefficient}")

    def __bool__(self) -> bool:
        """Whether there are null rows."""
        return self.coefficient != 1

    def check(self, batch_size: int, conditioned: bool) -> None:
        """Refuse what no conversation can be guided by.

        Raises:
            MoshiError: there is nothing by which the null rows could differ, or not an entry for each conversation.
        """
        masked = self.masked_until
        if self and not (conditioned or self.without_text or masked is not None):
            raise MoshiError("guidance needs a model with conditions; this one has none")
        if masked is not None and len(masked) != batch_size:
            raise MoshiError(f"masked_until has {len(masked)} entries, and there are {batch_size} conversations")

    def rows(self, batch_size: int) -> int:
        """Rows of the network for `batch_size` conversations."""
        return 2 * batch_size if self else batch_size

    def column(self, column: np.ndarray, step: int, delays: np.ndarray) -> np.ndarray:
        """What the network reads in a step: [B, streams] -> [rows, streams]."""
        if not self:
            return column
        begun = step > delays  # before that a stream reads its initial token, also in the null rows
        null = column.copy()
        if self.masked_until is not None:
            last = delays + np.array(self.masked_until)[:, None]
            null = np.where(begun & (step <= last), ZERO_TOKEN, null)
        if self.without_text and begun[0]:
            null[:, 0] = ZERO_TOKEN
        return np.concatenate([column, null])

    def text(self, scores: mx.array) -> mx.array:
        """Text logits [rows, V] -> [B, V]."""
        return scores[: scores.shape[0] // 2] if self and self.without_text else self.audio(scores)

    def audio(self, scores: mx.array) -> mx.array:
        """A codebook's logits [rows, card] -> [B, card]."""
        if not self:
            return scores
        conditioned, null = mx.split(scores, 2)
        return null + (conditioned - null) * self.coefficient

    def both(self, tokens: mx.array) -> mx.array:
        """Chosen tokens [B] -> what every row reads next, [rows]."""
        return mx.concatenate([tokens, tokens]) if self else tokens


NO_GUIDANCE = Guidance()
