"""Goldens of whole tasks, from sound to tokens, and the models they were made with; read by tests and by scripts.

Pure numpy but for `built`, which needs this project.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from golden_weights import Weights, digest, tensors

if TYPE_CHECKING:
    from moshi_mlx.moshi import Moshi

FOLDER = Path(__file__).parent / "goldens" / "tasks"
FRAME, RATE = 1920, 24_000


def weights_of(config: dict[str, Any], seed: int, swap: list[int] | None = None) -> Weights:
    """Generated weights; two text tokens may be swapped in what is written, so that a certain one is written at all."""
    weights = tensors(config, seed)
    if swap:
        head = weights["text_linear.weight"]
        head[swap] = head[swap[::-1]]
    return weights


def read(name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A golden's metadata and arrays."""
    from safetensors import safe_open

    with safe_open(FOLDER / f"{name}.safetensors", framework="numpy") as file:
        arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return json.loads(file.metadata()["golden"]), arrays


def write(name: str, metadata: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """A golden, and a line about it."""
    from safetensors.numpy import save_file

    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{name}.safetensors"
    save_file(
        {key: np.ascontiguousarray(array) for key, array in arrays.items()}, path, {"golden": json.dumps(metadata)}
    )
    print(f"{path}: seed {metadata['seed']}, margin {metadata['margin']:.2e}, {path.stat().st_size:,} bytes")


def built(metadata: dict[str, Any], folder: Path) -> Moshi:
    """A golden's model, with the codec and the tokenizer of the built-in ones."""
    from safetensors.numpy import save_file

    import moshi_mlx
    from moshi_mlx.checkpoint.tiny import tiny_folder

    weights = weights_of(metadata["config"], metadata["seed"], metadata.get("swap"))
    assert digest(weights) == metadata["weights"]
    for file in tiny_folder().glob("tokenizer*"):
        (folder / file.name).symlink_to(file)
    (folder / "config.json").write_text(json.dumps(metadata["config"]))
    save_file({name: np.ascontiguousarray(array) for name, array in weights.items()}, folder / "model.safetensors")
    return moshi_mlx.load(folder)


def recording(seconds: float, voice: np.ndarray) -> list[np.ndarray]:
    """A voice over and over, in blocks; the last one is what is left."""
    sound = np.resize(voice, round(seconds * RATE))
    return [sound[start : start + FRAME] for start in range(0, len(sound), FRAME)]
