"""Make a checkpoint of random weights at any size, block by block, so that none of it has to fit in memory.

The full one has Moshi's 7.69 B parameters and its published names, in 15.4 GB:

    python scripts/make_checkpoint.py /tmp/moshi-random
    moshi-mlx quantize /tmp/moshi-random /tmp/moshi-random-q4 --recipe q4

Equal seeds give equal bytes, under MLX and PyTorch names alike. It makes noise.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from moshi_mlx.checkpoint.names import Shape, published_shapes, pytorch_sources
from moshi_mlx.config import MOSHI_7B, LMConfig
from moshi_mlx.quantize.writer import INDEX, Entry, FolderWriter, index_of, place

PRESETS: dict[str, dict[str, Any]] = {
    "moshi": MOSHI_7B,
    # Moshi's own depth made narrow, where overhead is all there is.
    "narrow": {
        **MOSHI_7B, "dim": 128, "num_heads": 4, "hidden_scale": 4.5, "text_card": 512, "depformer_dim": 64,
        "depformer_num_heads": 4, "depformer_dim_feedforward": 288,
    },
    # A three-hundredth of Moshi, 50 MB, with every part in it.
    "small": {
        **MOSHI_7B, "dim": 512, "num_layers": 4, "num_heads": 8, "hidden_scale": 4.5, "context": 256,
        "text_card": 2000, "depformer_dim": 256, "depformer_num_layers": 2, "depformer_num_heads": 4,
        "depformer_dim_feedforward": 1152,
    },
    # Helium: text alone.
    "helium": {
        **MOSHI_7B, "dim": 256, "num_layers": 4, "num_heads": 4, "hidden_scale": 4.5, "context": 256,
        "text_card": 1000, "n_q": 0, "dep_q": 0, "delays": [0],
    },
}  # fmt: skip

BLOCK = 2**22  # values drawn at a time


def write_checkpoint(
    folder: Path, raw: dict[str, Any], seed: int = 0, pytorch: bool = False, dtype: str = "BF16"
) -> Path:
    """Write `folder` with config.json and model.safetensors (one file, as Kyutai's).

    Args:
        folder: must not exist.
        raw: Kyutai's config.json.
        seed: chooses the values.
        pytorch: PyTorch's names, depth steps stacked, instead of MLX's.
        dtype: BF16 or F32.
    """
    config = LMConfig.from_dict(raw)
    shapes = published_shapes(config)
    stored = _pytorch_shapes(config, shapes) if pytorch else shapes
    files = place([Entry(name, dtype, shape) for name, shape in stored.items()], "model.safetensors")
    with FolderWriter(folder, files, {"seed": seed}) as writer:
        for published, (name, first_row, squeezed) in _places(config, shapes, pytorch).items():
            for row, data in _rows(seed, published, shapes[published], dtype):
                # A norm of shape [1, 1, dim] is one row.
                writer.write(name, 0 if squeezed else first_row + row, data)
        writer.checkpoint()
        texts = {"config.json": json.dumps(raw | {"moshi_name": "model.safetensors"}, indent=2) + "\n"}
        writer.finish(texts if len(files) == 1 else texts | {INDEX: json.dumps(index_of(files))})
    return folder


def _pytorch_shapes(config: LMConfig, shapes: dict[str, Shape]) -> dict[str, Shape]:
    sources = pytorch_sources(config, ())
    return {source.name: source.shape(shapes[name]) for name, source in sources.items()}


def _places(config: LMConfig, shapes: dict[str, Shape], pytorch: bool) -> dict[str, tuple[str, int, bool]]:
    """Published name -> stored name, first row, and whether it is a norm in PyTorch's shape.

    Steps that share weights by a schedule share one place, and the first step's values.
    """
    if not pytorch:
        return {name: (name, 0, False) for name in shapes}
    found: dict[str, tuple[str, int, bool]] = {}
    taken: set[tuple[str, int]] = set()
    for name, source in pytorch_sources(config, ()).items():
        first = source.part * shapes[name][0]
        if (source.name, first) not in taken:
            taken.add((source.name, first))
            found[name] = (source.name, first, source.squeeze)
    return found


def _rows(seed: int, name: str, shape: Shape, dtype: str) -> Iterator[tuple[int, np.ndarray]]:
    """A tensor's values: bell-shaped with the variance that keeps activations near 1; norms near 1.

    Drawn as 16 random bits each and looked up among the quantiles, which is as fast as the disk.
    """
    key = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=16).digest()
    rng = np.random.Generator(np.random.SFC64(int.from_bytes(key, "little")))
    columns = shape[1] if len(shape) == 2 else 1
    embedding = "_emb" in name or ".emb." in name
    deviation = 0.1 if len(shape) == 1 else 1.0 if embedding else 1 / math.sqrt(columns)
    values = _quantiles() * np.float32(deviation) + np.float32(len(shape) == 1)
    table = values if dtype == "F32" else _bfloat16(values)
    step = max(1, BLOCK // columns)
    for start in range(0, shape[0], step):
        size = (min(step, shape[0] - start), *shape[1:])
        yield start, table[rng.integers(0, 2**16, size, np.uint16)]


@cache
def _quantiles() -> np.ndarray:
    """2^16 values, equally likely, of mean 0 and deviation 1."""
    normal = NormalDist()
    return np.array([normal.inv_cdf((i + 0.5) / 2**16) for i in range(2**16)], np.float32)


def _bfloat16(values: np.ndarray) -> np.ndarray:
    """The nearest bfloat16, ties to even, as uint16."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--preset", choices=PRESETS, default="moshi")
    parser.add_argument("--config", type=Path, help="a config.json, instead of a preset")
    parser.add_argument("--pytorch", action="store_true", help="PyTorch's names instead of MLX's")
    parser.add_argument("--dtype", choices=("BF16", "F32"), default="BF16")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    raw = json.loads(args.config.read_text()) if args.config else PRESETS[args.preset]
    began = time.perf_counter()
    folder = write_checkpoint(args.folder.absolute(), raw, args.seed, args.pytorch, args.dtype)
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{folder}: {size / 1e9:.2f} GB in {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
