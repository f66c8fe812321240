"""Small checkpoints on disk for the tests of quantizing: every part of the network, columns that 128 divides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from golden_weights import mlx_names, per_step_names, tensors

from moshi_mlx.config import MOSHI_7B

SMALL: dict[str, Any] = {
    **MOSHI_7B,
    "dim": 128, "num_layers": 3, "num_heads": 4, "hidden_scale": 4.5, "context": 64, "text_card": 96, "card": 64,
    "n_q": 6, "dep_q": 3, "delays": [0, 0, 1, 1, 0, 1, 1],
    "depformer_dim": 128, "depformer_num_layers": 2, "depformer_num_heads": 4, "depformer_dim_feedforward": 576,
}  # fmt: skip
SHARED = {**SMALL, "n_q": 8, "dep_q": 4, "delays": [0, 0, 1, 1, 1, 0, 1, 1, 1]} | {
    "depformer_weights_per_step_schedule": [0, 1, 1, 2],
    "depformer_low_rank_embeddings": 128,
}
HELIUM = {**SMALL, "n_q": 0, "dep_q": 0, "delays": [0]}
MAKERS = {"mlx": mlx_names, "pytorch": lambda weights, config: weights, "per_step": per_step_names}


def write(
    folder: Path, config: dict[str, Any] = SMALL, seed: int = 0, names: str = "mlx", dtype: mx.Dtype = mx.bfloat16
) -> Path:
    """A checkpoint of random weights in one of the three vocabularies."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = MAKERS[names](tensors(config, seed), config)
    save(folder, config, {name: mx.array(value).astype(dtype) for name, value in weights.items()})
    return folder


def save(folder: Path, config: dict[str, Any], weights: dict[str, mx.array]) -> None:
    """config.json and model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(folder / "model.safetensors"), weights)


def load(folder: Path) -> dict[str, mx.array]:
    """All tensors of a checkpoint."""
    found: dict[str, mx.array] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found.update(mx.load(str(file)))  # pyright: ignore[reportArgumentType, reportCallIssue]
    return found


def same_bits(a: mx.array, b: mx.array) -> bool:
    """Equal in type, shape and every bit."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    kind = {1: mx.uint8, 2: mx.uint16, 4: mx.uint32}[a.itemsize]
    return bool(mx.array_equal(a.view(kind), b.view(kind)))


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file's bytes, to compare whole folders."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def random_codes(config: dict[str, Any], segments: int, frames: int, seed: int = 0) -> np.ndarray:
    """[segments, streams, frames]: tokens without meaning."""
    rng = np.random.default_rng(seed)
    text = rng.integers(0, config["text_card"], (segments, 1, frames))
    audio = rng.integers(0, config["card"], (segments, config["n_q"], frames))
    return np.concatenate([text, audio], axis=1).astype(np.int32)
