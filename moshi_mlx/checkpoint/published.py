"""The models that Kyutai has published, with their configurations and where each is known from.

Kept in assets/published.json, so that shapes, sizes and speed can be told without a download. What is not
confirmed anywhere in public is marked as not verified; `moshi-mlx info REPO --check` asks the Hub.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from ..config import LMConfig


@dataclass(frozen=True)
class Architecture:
    """A published configuration."""

    name: str
    about: str
    raw: dict[str, Any]
    """As config.json has it."""
    source: str
    """Where the configuration is known from."""
    verified: bool

    @property
    def config(self) -> LMConfig:
        """The configuration, read."""
        return LMConfig.from_dict(self.raw, self.name)


@dataclass(frozen=True)
class Release:
    """A published repository."""

    repo: str
    architecture: Architecture
    names: str
    """Whose names its tensors bear: MLX, PyTorch or Hugging Face."""
    bits: int
    nbytes: int | None
    """Size of its weights where that is known."""
    tensors: int | None


@cache
def architectures() -> dict[str, Architecture]:
    """Every published configuration by its name here."""
    return {
        name: Architecture(name, entry["about"], entry["config"], entry["source"], entry["verified"])
        for name, entry in _read()["configs"].items()
    }


@cache
def releases() -> list[Release]:
    """Every published repository that can be run."""
    known = architectures()
    return [
        Release(repo, known[entry["config"]], entry["names"], entry["bits"], entry.get("bytes"), entry.get("tensors"))
        for repo, entry in _read()["repositories"].items()
    ]


def _read() -> dict[str, Any]:
    return json.loads((files("moshi_mlx") / "assets" / "published.json").read_text(encoding="utf-8"))
