"""The built-in model `tiny`: a small language model, a text tokenizer and a full-architecture Mimi.

Its weights are random, so it makes noise; it exists so that everything runs at once on any machine.
Made once, in seconds and without a network, in the user's cache folder.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from ..config import MOSHI_7B, LMConfig
from ..errors import CheckpointError
from .inspect import MIMI, TOKENIZER
from .names import published_shapes
from .tiny_mimi import write_tiny_mimi
from .tiny_text import write_tiny_tokenizer

VERSION = 2
"""Counts up whenever the files below change, so that an old cache is not taken for a new one."""

VOCABULARY = 512
CONFIG: dict[str, Any] = {
    **MOSHI_7B,
    "dim": 128, "num_layers": 4, "num_heads": 4, "hidden_scale": 4.5, "context": 256, "text_card": VOCABULARY,
    "depformer_dim": 64, "depformer_num_layers": 2, "depformer_num_heads": 4, "depformer_dim_feedforward": 288,
    "model_type": "moshi", "moshi_name": "model.safetensors", "mimi_name": MIMI, "tokenizer_name": TOKENIZER,
}  # fmt: skip


def cache_folder() -> Path:
    """Where this program keeps what it makes itself: XDG_CACHE_HOME, else ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "moshi-mac"


def tiny_folder() -> Path:
    """The folder of the built-in model, made now if it is not there yet.

    Raises:
        CheckpointError: the cache folder cannot be written (it takes 200 MB).
    """
    folder = cache_folder() / f"tiny-{VERSION}"
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=folder.parent))
        try:
            _write(draft)
            draft.rename(folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        if not folder.is_dir():  # else another process was faster, with the same files
            raise CheckpointError(f"cannot make the built-in model in {folder}: {error.strerror or error}") from None
    return folder


def _write(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n", encoding="utf-8")
    save_file(random_weights(LMConfig.from_dict(CONFIG)), folder / "model.safetensors", metadata={"format": "mlx"})
    write_tiny_tokenizer(folder / TOKENIZER, VOCABULARY)
    write_tiny_mimi(folder / MIMI)


def random_weights(config: LMConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Fixed random tensors of a configuration, float32, under their published names.

    Uniform with the variance that keeps activations near 1; norms are 1.
    """
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in published_shapes(config).items():
        if len(shape) == 1:
            weights[name] = np.ones(shape, np.float32)
            continue
        reach = np.sqrt(3.0 if ".emb." in name or "_emb" in name else 3.0 / shape[1])
        weights[name] = ((2 * rng.random(shape, np.float32) - 1) * reach).astype(np.float32)
    return weights
