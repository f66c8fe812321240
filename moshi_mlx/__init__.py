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
    from .economy import Economy
    from .errors import AudioError, CheckpointError, ConfigError, DeviceError, MoshiError
    from .generator import Frame, Generator
    from .guidance import Guidance
    from .model.conditions import Conditions, TensorCondition
    from .model.lm import LM
    from .moshi import Moshi, load
    from .sampling import Sampling

__version__ = "0.1.0"

__all__ = [
    "LM",
    "AudioError",
    "CheckpointError",
    "Conditions",
    "ConfigError",
    "DeviceError",
    "Economy",
    "Frame",
    "Generator",
    "Guidance",
    "Moshi",
    "MoshiError",
    "Sampling",
    "TensorCondition",
    "__version__",
    "load",
    "load_lm",
]

_HOMES = {
    "LM": "model.lm",
    "Conditions": "model.conditions",
    "Economy": "economy",
    "Frame": "generator",
    "Generator": "generator",
    "Guidance": "guidance",
    "Moshi": "moshi",
    "Sampling": "sampling",
    "TensorCondition": "model.conditions",
    "load": "moshi",
    "load_lm": "checkpoint.load",
}


def __getattr__(name: str) -> Any:
    # MLX is imported when it is first needed, so that the command line's --help answers at once.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES.get(name, 'errors')}", __name__), name)
