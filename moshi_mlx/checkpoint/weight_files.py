"""Which files of a folder or repository hold the weights: the one that config.json names, shards, or the usual ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path

from ..config import LMConfig
from ..errors import CheckpointError
from .helium import HELIUM_WEIGHTS

INDEX = "model.safetensors.index.json"
WEIGHTS = ("model.safetensors", "model.q8.safetensors", "model.q4.safetensors")


def weight_files(folder: Path, config: LMConfig) -> tuple[Path, ...]:
    """The weight files of a local checkpoint; raises CheckpointError where one is missing, or there are too many."""
    names = {file.name for file in folder.iterdir() if file.is_file()}
    found = weight_names(str(folder), config, names, lambda: read_shards(folder / INDEX))
    return tuple(folder / name for name in found if name != INDEX)


def weight_names(where: str, config: LMConfig, names: Collection[str], shards: Callable[[], list[str]]) -> list[str]:
    """The weight files among `names`, all of one precision; the same rule for a folder and for a repository.

    Args:
        where: the folder or repository, for sentences.
        config: its config.json, which may name them.
        names: all that is there.
        shards: reads the index, where there is one; it is returned, too.

    Raises:
        CheckpointError: one is missing, there are several to choose from, or none.
    """
    named = config.raw.get("moshi_name")
    if named is not None and not isinstance(named, str):
        raise CheckpointError(f"{where}: 'moshi_name' in config.json is {named!r}, and must name a file")
    if named:
        found = [named if named in names else named.rsplit("/", 1)[-1]]
    elif INDEX in names:
        found = [*shards(), INDEX]
    else:
        found = usual_weights(names)
    if len(found) > 1 and INDEX not in found:
        raise CheckpointError(
            f"{where} holds several checkpoints ({', '.join(found)}); name one with 'moshi_name' in config.json"
        )
    missing = [name for name in found if name not in names]
    if missing:
        raise CheckpointError(f"{where} lacks {missing[0]}, which it names as weights; download it again")
    if not found:
        raise CheckpointError(f"{where} holds no Moshi weights: none of {', '.join(WEIGHTS)} or {INDEX} is there")
    return found


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
