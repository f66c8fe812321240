"""What quantized models are judged and calibrated on: people's speech, and what the reference answers to it.

The user's streams are encoded sound, Moshi's own streams and its text are the reference's samples: the
states that a model is in while it talks. All models then read the same tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from moshi_mlx.audio_file import AudioReader
from moshi_mlx.config import TEXT_PADDING
from moshi_mlx.errors import AudioError, CheckpointError
from moshi_mlx.generator import Generator
from moshi_mlx.mimi import Mimi
from moshi_mlx.model.conditions import Conditions
from moshi_mlx.model.lm import LM
from moshi_mlx.rates import FRAME_RATE
from moshi_mlx.sound import whole_frame

SEGMENT_FRAMES = 250
"""20 s: each segment is a conversation of its own."""
MIN_FRAMES = 12
BATCH = 8


def encode(codec: Mimi, files: Iterable[str | Path], codebooks: int) -> np.ndarray:
    """Sound files, one after the other, as codes [codebooks, frames] int32.

    Raises:
        AudioError: a file cannot be read, or all together are shorter than a second.
    """
    if codebooks == 0:
        raise CheckpointError("this model does not listen, so audio tells nothing about it; leave the files out")
    encoder, columns = codec.encoder(), []
    for file in files:
        for block in AudioReader(file):
            columns.append(encoder.encode(whole_frame(block)))
    if len(columns) < MIN_FRAMES:
        raise AudioError(
            f"{len(columns) / FRAME_RATE:.2f} s of sound are too short to tell anything; give a second or more"
        )
    return np.stack(columns, axis=1)[:codebooks]


def converse(lm: LM, user: np.ndarray, seed: int = 0) -> np.ndarray:
    """Let a model answer.

    Args:
        lm: the reference.
        user: codes [user codebooks, frames].
        seed: of the samples.

    Returns:
        undelayed codes [segments, streams, frames] int32, as `LM.__call__` takes them. The text of frame 0 is
        made up (padding): what the model thinks before it hears anything is not told.
    """
    lead = max(0, lm.config.max_delay - 1)  # steps before the first frame of audio is complete
    length = min(SEGMENT_FRAMES + lead, user.shape[1])
    count = user.shape[1] // length
    segments = user[:, : count * length].reshape(user.shape[0], count, length).swapaxes(0, 1)
    answered = [_answer(lm, segments[i : i + BATCH], seed + i) for i in range(0, count, BATCH)]
    return np.concatenate(answered)


def told_nothing(lm: LM, batch: int = 1) -> Conditions | None:
    """What a model with conditions is given where nobody says any: that there are none, which it has learnt too."""
    return lm.conditions([dict.fromkeys(lm.conditioners)] * batch) if lm.conditioners else None


def _answer(lm: LM, user: np.ndarray, seed: int) -> np.ndarray:
    """User codes [B, user codebooks, steps] -> codes [B, streams, frames]."""
    batch, _, steps = user.shape
    generator = Generator(lm, seed=seed, batch_size=batch, conditions=told_nothing(lm, batch))
    frames = [generator.step(user[:, :, step]) for step in range(steps)]
    text = np.stack([np.reshape(frame.text, batch) for frame in frames], axis=1)
    text = np.concatenate([np.full((batch, 1), TEXT_PADDING), text], axis=1)[:, None]
    audio = [np.reshape(frame.audio, (batch, -1)) for frame in frames if frame.audio is not None]
    length = len(audio) or steps
    parts = [text[..., :length], *([np.stack(audio, axis=2)] if audio else []), user[..., :length]]
    return np.concatenate(parts, axis=1).astype(np.int32)
