"""The token streams in time: text, Moshi's codebooks, the user's codebooks, and their delays.

Column s of the grid holds each stream's token of frame s - delay; the model reads column s and writes
column s + 1 (Moshi paper, section 3.4.4). A stream that has no value yet reads its initial token.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from .config import ZERO_TOKEN, LMConfig
from .errors import MoshiError

KEEP = -2
"""In place of a code: the one that the model wrote."""


def initial_tokens(config: LMConfig) -> np.ndarray:
    """[streams] int32: what each stream reads before it has a value."""
    return np.array([config.text_initial] + [config.audio_initial] * config.n_q, dtype=np.int32)


class StreamGrid:
    """The last few columns of a conversation, as a ring on the host.

    Step s reads column s; `begin` puts the user's frame where its delays want it, `finish` puts what was
    generated in column s + 1. Of the generated codebooks only the first `codebooks` may be written: the others
    read the zero token.
    """

    def __init__(self, config: LMConfig, batch_size: int, codebooks: int | None = None):
        self._config = config
        self._codebooks = config.dep_q if codebooks is None else codebooks
        self._delays = np.array(config.delays)
        self._initial = initial_tokens(config)
        self._columns = config.max_delay + 2
        self._grid = np.full((batch_size, config.num_streams, self._columns), ZERO_TOKEN, np.int32)

    def begin(self, step: int, user: np.ndarray) -> np.ndarray:
        """Take the user's codes [B, user codebooks] of this step; return the column to read, [B, streams]."""
        users = np.arange(1 + self._config.dep_q, self._config.num_streams)
        self._grid[:, users, (step + self._delays[users]) % self._columns] = user
        column = self._grid[:, :, step % self._columns]
        return np.where(step <= self._delays, self._initial, column)

    def finish(self, step: int, generated: np.ndarray) -> np.ndarray | None:
        """Take the column that was written, [B, 1 + codebooks].

        Returns:
            the audio frame [B, codebooks] that is now complete, or None while there is none.
        """
        self._grid[:, : 1 + self._codebooks, (step + 1) % self._columns] = generated
        frame = step + 1 - self._config.max_delay
        if frame < 1 or self._codebooks == 0:
            return None
        streams = np.arange(1, 1 + self._codebooks)
        return self._grid[:, streams, (frame + self._delays[streams]) % self._columns]


def check_codes(codes: object, shape: tuple[int, int], card: int) -> np.ndarray:
    """The user's codes as int32 [B, user codebooks].

    Args:
        codes: whole numbers, [user codebooks] for a batch of one or [B, user codebooks]; None where there are no users.
        shape: the expected (B, user codebooks).
        card: codes run from 0 to card - 1; card (the initial token) and -1 (the zero token) pass too.

    Raises:
        MoshiError: wrong shape, not whole numbers, or out of range.
    """
    array = np.zeros(shape, np.int32) if codes is None and shape[1] == 0 else np.asarray(codes)
    if array.dtype.kind not in "iu":
        raise MoshiError(f"user codes must be whole numbers (numpy int32), not {array.dtype}")
    if array.shape not in (shape, shape[1:] if shape[0] == 1 else shape):
        raise MoshiError(f"user codes have shape {list(array.shape)}, and this generator takes {list(shape)}")
    if array.size and (array.min() < ZERO_TOKEN or array.max() > card):
        raise MoshiError(f"user codes must lie between 0 and {card - 1}; got {array.min()} to {array.max()}")
    return array.astype(np.int32).reshape(shape)


def check_text(text: object, batch_size: int, tokens: int) -> np.ndarray:
    """The host's text tokens as int32 [B].

    Args:
        text: one token for all, or [B]; -1 stands for none.
        batch_size: B.
        tokens: they run from 0 to tokens - 1.

    Raises:
        MoshiError: wrong shape, not whole numbers, or out of range.
    """
    array = np.asarray(text)
    if array.dtype.kind not in "iu" or array.shape not in ((), (batch_size,)):
        raise MoshiError(f"forced text must be one token, or one for each of {batch_size}")
    if array.min() < ZERO_TOKEN or array.max() >= tokens:
        raise MoshiError(f"forced text must lie between -1 (none) and {tokens - 1}, not {text}")
    return np.broadcast_to(array, batch_size).astype(np.int32)


def check_replacement(codes: object, shape: tuple[int, int], card: int) -> np.ndarray:
    """The host's codes as int32 [B, codebooks]; -2, of which None is full, keeps what the model wrote.

    Args:
        codes: whole numbers, [codebooks] for a batch of one or [B, codebooks]; None replaces nothing.
        shape: the expected (B, codebooks).
        card: codes run from -2 to card.

    Raises:
        MoshiError: wrong shape, not whole numbers, or out of range.
    """
    if codes is None:
        return np.full(shape, KEEP, np.int32)
    array = np.asarray(codes)
    if array.dtype.kind not in "iu" or array.shape not in (shape, shape[1:] if shape[0] == 1 else shape):
        raise MoshiError(f"codes in place of the model's are whole numbers of shape {list(shape)}")
    if array.size and (array.min() < KEEP or array.max() > card):
        raise MoshiError(f"codes in place of the model's lie between -2 (keep) and {card - 1}, not {codes}")
    return array.astype(np.int32).reshape(shape)


def delay_codes(config: LMConfig, codes: mx.array) -> mx.array:
    """Undelayed codes [B, streams, T] -> the columns 0 to T that a model reads and writes, [B, streams, T + 1]."""
    batch, streams, time = codes.shape
    if streams != config.num_streams:
        raise MoshiError(f"codes have {streams} streams, and this model has {config.num_streams}")
    rows = []
    for stream, (delay, initial) in enumerate(zip(config.delays, initial_tokens(config).tolist(), strict=True)):
        waiting = mx.full((batch, min(delay, time) + 1), initial, codes.dtype)
        rows.append(mx.concatenate([waiting, codes[:, stream, : max(time - delay, 0)]], axis=1))
    return mx.stack(rows, axis=1)


def undelay_logits(logits: mx.array, delays: Sequence[int]) -> mx.array:
    """Logits [B, K, T, card] of columns -> of codes; the last `delay` places of a stream become NaN."""
    batch, _, time, card = logits.shape
    rows = []
    for stream, delay in enumerate(delays):
        beyond = mx.full((batch, min(delay, time), card), float("nan"), logits.dtype)
        rows.append(mx.concatenate([logits[:, stream, min(delay, time) :], beyond], axis=1))
    return mx.stack(rows, axis=1)
