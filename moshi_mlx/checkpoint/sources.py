"""In whose words a checkpoint names its tensors, and where each published tensor is then found.

The published MLX names are the common ground: under them, a tensor is itself.
"""

from __future__ import annotations

from collections.abc import Collection

from ..config import LMConfig
from .helium import huggingface_sources, is_huggingface
from .names import Source, is_pytorch, published_shapes, pytorch_sources

Sources = dict[str, tuple[Source, ...]]
"""By published tensor, what is read for it, one below the other."""


def vocabulary(names: Collection[str]) -> str:
    """Whose names these are: MLX, PyTorch (Kyutai's) or Hugging Face."""
    if is_huggingface(names):
        return "Hugging Face"
    return "PyTorch" if is_pytorch(names) else "MLX"


def find_sources(config: LMConfig, names: Collection[str]) -> Sources:
    """Where each published tensor of a model is found among a checkpoint's `names`."""
    spoken = vocabulary(names)
    if spoken == "Hugging Face":
        return huggingface_sources(config, names)
    if spoken == "PyTorch":
        return {name: (source,) for name, source in pytorch_sources(config, names).items()}
    return {name: (Source(name),) for name in published_shapes(config)}
