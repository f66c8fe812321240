"""Talk to Moshi, Kyutai's full-duplex speech model, on Apple Silicon with MLX.

>>> import moshi_mlx
>>> moshi = moshi_mlx.load("tiny")
>>> generator = moshi_mlx.Generator(moshi.lm, seed=0)
>>> frame = generator.step(moshi.codec.encoder().encode(samples))
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checkpoint.load import load_lm
    from .errors import AudioError, CheckpointError, ConfigError, DeviceError, MoshiError
    from .generator import Frame, Generator
    from .model.lm import LM
    from .moshi import Moshi, load
    from .sampling import Sampling

__version__ = "0.1.0"

_HOMES = {
    "LM": "model.lm",
    "Frame": "generator",
    "Generator": "generator",
    "Moshi": "moshi",
    "Sampling": "sampling",
    "AudioError": "errors",
    "CheckpointError": "errors",
    "ConfigError": "errors",
    "DeviceError": "errors",
    "MoshiError": "errors",
    "load": "moshi",
    "load_lm": "checkpoint.load",
}
__all__ = [*_HOMES, "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    # MLX is imported when it is first needed, so that the command line's --help answers at once.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
