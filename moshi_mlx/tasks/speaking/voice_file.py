"""What a voice's file holds, as the model takes it: vectors for the cross-attention, or codes to begin with.

The vectors were computed by a network that its makers keep; a recording goes through the codec like any sound.
Knows files and the configuration; the language model never.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import mlx.core as mx
import numpy as np

from ...audio_file import AudioReader
from ...config import LMConfig
from ...errors import AudioError, CheckpointError, MoshiError
from ...mimi import Mimi
from ...model.conditions import Attribute, TensorCondition
from ...rates import FRAME_RATE
from ...sound import whole_frame
from .voices import SPEAKER

SLOTS = 5
"""Speakers that the cross-attention has room for, taken or not."""
LAST_FRAMES = 2
"""Codes at the end of a recording that are left out: they were made without the sound after them."""


def read_vectors(path: Path, config: LMConfig) -> np.ndarray:
    """A speaker's vectors [T, width] from a voice's file, which holds them as `speaker_wavs` [1, width, T].

    Raises:
        CheckpointError: the file is none of a voice, or of a voice for another model.
    """
    try:
        # MLX reads bfloat16, which numpy has not.
        vectors = cast("dict[str, mx.array]", mx.load(str(path)))[SPEAKER]
    except (RuntimeError, ValueError, KeyError, TypeError, IndexError):
        raise CheckpointError(f"{path} holds no voice: a safetensors file with {SPEAKER!r} in it is one") from None
    width = config.conditioners[SPEAKER].dim
    if vectors.ndim != 3 or vectors.shape[:2] != (1, width) or not vectors.size:
        raise CheckpointError(
            f"{path} is a voice for another model: its vectors are {list(vectors.shape)}, and this one reads "
            f"[1, {width}, T]"
        )
    return np.array(vectors[0].T.astype(mx.float32))


def speakers(voices: Sequence[np.ndarray]) -> TensorCondition:
    """Speakers side by side, in the order of their turns: [SLOTS · T, width], with what is taken masked in.

    Raises:
        MoshiError: too many of them, or of different lengths.
    """
    if len(voices) > SLOTS:
        raise MoshiError(f"{len(voices)} voices are more than the {SLOTS} that a model has room for")
    if len({voice.shape for voice in voices}) != 1:
        raise MoshiError("the voices do not go together: they have different lengths; choose two of one kind")
    length, width = voices[0].shape
    vectors, mask = np.zeros((SLOTS, length, width), np.float32), np.zeros((SLOTS, length), bool)
    vectors[: len(voices)], mask[: len(voices)] = voices, True
    return TensorCondition(vectors.reshape(-1, width), mask.reshape(-1))


def attributes(config: LMConfig, voices: Sequence[np.ndarray], guidance: float) -> dict[str, Attribute]:
    """What a model is told of a text: who speaks, that the recording is clean, and how much guidance it distilled.

    Args:
        config: the model's; every condition that it has gets a value, None where nothing is known.
        voices: vectors as `read_vectors` gives them, none for a voice of the model's own making.
        guidance: for a model with distilled guidance, see `distilled_guidance`.

    Raises:
        MoshiError: the model was not trained with that guidance.
    """
    given: dict[str, Attribute] = dict.fromkeys(config.conditioners)
    if SPEAKER in given and voices:
        given[SPEAKER] = speakers(voices)
    if "control" in given:
        given["control"] = "ok"
    if values := distilled_guidance(config):
        if guidance not in values:
            valid = ", ".join(f"{value:g}" for value in sorted(values))
            raise MoshiError(f"this model was trained with guidance of {valid}, not {guidance:g}")
        given["cfg"] = values[guidance]
    return given


def distilled_guidance(config: LMConfig) -> dict[float, str]:
    """Guidance that a model has learnt to give in one pass, with the word for each; empty where it has not."""
    conditioner = config.conditioners.get("cfg")
    return {float(word): word for word in (conditioner.values or ())} if conditioner else {}


def read_prefix(path: Path, codec: Mimi, config: LMConfig) -> np.ndarray:
    """A recording as codes [codebooks, T] to begin with: what follows goes on in its voice.

    Raises:
        AudioError: it is no sound, too short, or longer than the model remembers.
    """
    most, frames = config.transformer.context // 2, []
    with codec.encoder(config.dep_q) as encoder:
        for block in AudioReader(path):
            frames.append(encoder.encode(whole_frame(block)))
            if len(frames) > most + LAST_FRAMES:
                raise AudioError(
                    f"{path} is too long for a voice: {most / FRAME_RATE:.0f} seconds at most, 10 are good"
                )
    if len(frames) <= LAST_FRAMES:
        raise AudioError(f"{path} is too short for a voice: give some 10 seconds of speech")
    return np.stack(frames[:-LAST_FRAMES], axis=1)
