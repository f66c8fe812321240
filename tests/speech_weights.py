"""Weights of the goldens of speech, and what is said in them, for scripts and tests. No MLX, no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from golden_weights import normal

SCRIPT = [
    "Hello there, how are you doing on this fine morning?",
    'I am well (thank you): it’s<break time="0.4s"/>a pleasure to be asked, and yourself?',
    "Never better.",
    "Then let us go down to the river and look at the boats before the rain comes.",
]
"""Turns of two speakers, who begin in order."""


def weights(shapes: Mapping[str, tuple[int, ...]], seed: int, n_q: int) -> dict[str, np.ndarray]:
    """Tensors of these names and shapes, float32, the same on every machine."""
    return {name: _tensor(seed, name, tuple(shape), n_q) for name, shape in shapes.items()}


def _tensor(seed: int, name: str, shape: tuple[int, ...], n_q: int) -> np.ndarray:
    values = normal(seed, name, shape)
    if name.endswith((".alpha", "norm_cross.weight")):
        return np.float32(1.0) + np.float32(0.1) * values
    if name.endswith((".bias", "learnt_padding")):
        return np.float32(0.2) * values
    if name.startswith(("emb.", "text_emb.weight")):
        return values * np.float32(1 / math.sqrt(n_q + 1))
    if name.startswith("depformer_") and "emb" in name and "low_rank" not in name and "out" not in name:
        return values
    gain = {"text_linear": 4.0, "linears": 1.5}.get(name.split(".")[0], 1.0)
    return values * np.float32(gain * (1.5 if "in_proj" in name else 1.0) / math.sqrt(shape[-1]))


def voice(seed: int, width: int, length: int) -> np.ndarray:
    """A speaker's vectors as a voice's file holds them, [1, width, length]."""
    return normal(seed, "voice", (1, width, length))


def config(base: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """A model that speaks, of eight codebooks, after one that converses."""
    return {
        **base, "n_q": 8, "dep_q": 8, "delays": [0, 0, *[2] * 7], "text_card": 512, "text_card_out": 5,
        "model_type": "tts", **changes,
    }  # fmt: skip
