"""Which files of a folder or repository hold the weights: the one that config.json names, shards, or the usual ones."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from pathlib import Path

from ..config import LMConfig
from ..errors import CheckpointError
from .helium import HELIUM_WEIGHTS

INDEX = "model.safetensors.index.json"
WEIGHTS = ("model.safetensors", "model.q8.safetensors", "model.q4.safetensors")


def weight_files(folder: Path, config: LMConfig) -> tuple[Path, ...]:
    """The weight files of a local checkpoint; raises CheckpointError where one is missing, or there are too many."""
    named = config.raw.get("moshi_name")
    if named is not None and not isinstance(named, str):
        raise CheckpointError(f"{folder}/config.json: 'moshi_name' is {named!r}, and must name a file")
    if named:
        return _present([folder / named.rsplit("/", 1)[-1]])
    if (folder / INDEX).exists():
        return _present(folder / name for name in read_shards(folder / INDEX))
    found = [folder / name for name in usual_weights({file.name for file in folder.iterdir()})]
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise CheckpointError(
            f"{folder} holds several checkpoints ({names}); name one with 'moshi_name' in config.json"
        )
    if not found:
        raise CheckpointError(f"{folder} holds no weights: none of {', '.join(WEIGHTS)} or {INDEX} is there")
    return tuple(found)


def usual_weights(names: Collection[str]) -> list[str]:
    """Which of the weight files that are there by their usual names: one of Helium's, all of Moshi's."""
    helium = [name for name in HELIUM_WEIGHTS if name in names]
    return helium[:1] or [name for name in WEIGHTS if name in names]


def read_shards(index: Path) -> list[str]:
    """File names of the shards that an index lists; raises CheckpointError when it is none."""
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return sorted(str(name).rsplit("/", 1)[-1] for name in names)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{index} is not a safetensors index ({error}); download it again") from None


def _present(files: Iterable[Path]) -> tuple[Path, ...]:
    files = tuple(files)
    for file in files:
        if not file.is_file():
            raise CheckpointError(f"{file} is missing; download the checkpoint again")
    return files
