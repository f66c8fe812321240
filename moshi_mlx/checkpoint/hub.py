"""From what a user calls a model (a short name, built in, a folder, a Hub repository) to a folder that holds it whole.

Only the files that a checkpoint needs are fetched. What is already there is used without asking the network.
"""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from ..config import LMConfig
from ..economy import AS_IT_IS, Economy
from ..errors import CheckpointError, MoshiError
from .choice import PRECISIONS, choose_bits
from .companions import CODEC, COMPANIONS, companion, companion_files, companion_here, fetch_companion, roles_of
from .download import Ask, Fetching, Notify, RemoteFile, cached_snapshot, fetch, fetch_small, list_files
from .helium import preset
from .hub_errors import OfflineError
from .inspect import read_config
from .tiny import BUILT_IN, tiny_folder
from .weight_files import INDEX, read_shards, weight_files, weight_names

SHORT_NAMES = ("moshiko", "moshika")

_REPOSITORY = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
_PREFIXES = ("hf://", "https://huggingface.co/", "https://hf.co/")


def locate(
    model: str,
    bits: int | None = None,
    ask: Ask | None = None,
    progress: bool = False,
    notify: Notify | None = None,
    refresh: bool = False,
    companions: bool = True,
    economy: Economy = AS_IT_IS,
) -> Path:
    """A local folder that holds a checkpoint, downloaded if need be.

    Args:
        model: `tiny` or another of tiny.BUILT_IN; a folder; `moshiko` or `moshika`; or a Hub repository `org/name`,
            `org/name@revision`.
        bits: 4, 8 or 16, for a short name; the best for this machine when None.
        ask: is given what would be downloaded, and says whether to; everything is downloaded when None.
        progress: show huggingface_hub's progress bars (on stderr, on a terminal).
        notify: is told, in a sentence each, what was chosen and why.
        refresh: ask the Hub for a newer revision even if the model is here.
        companions: see to the codec and the text tokenizer too; `companion` finds them.
        economy: how it will be run, which is a part of what is the best for this machine.

    Raises:
        CheckpointError: there is no such model, or it cannot be had; the sentence says what to do.
    """
    how = Fetching(ask, progress, notify or _silence, refresh)
    if bits not in (None, *PRECISIONS):
        raise CheckpointError(f"there is no checkpoint of {bits} bits; choose 4, 8 or 16")
    if model in BUILT_IN:
        _check_bits(bits, model, None)
        return tiny_folder(model)
    if model in SHORT_NAMES:
        return _short(model, bits, how, companions, economy)
    if _is_path(model):
        folder = Path(model).expanduser()
        _check_folder(folder)
        weights = weight_files(folder, read_config(folder))
        _check_bits(bits, str(folder), _bits_named(folder.name, *(file.name for file in weights)))
        if companions:
            for role in roles_of(read_config(folder)):
                fetch_companion(folder, *role, how)
        return folder
    repo, revision = _repository(model)
    _check_bits(bits, repo, _bits_named(repo))
    return _checkpoint(repo, revision, how, companions)


@dataclass(frozen=True)
class Repository:
    """A revision of a model on the Hub."""

    name: str
    revision: str = "main"


def whereabouts(model: str, bits: int | None = None, notify: Notify | None = None) -> Path | Repository:
    """Where a model is, without fetching anything: its folder if the weights are here, else its repository.

    Args:
        model: as for `locate`.
        bits: as for `locate`.
        notify: is told, in a sentence, what was chosen and why.

    Raises:
        CheckpointError: there is no such model.
    """
    if model in SHORT_NAMES:
        if bits is None:
            choice = choose_bits()
            (notify or _silence)(f"{model}: {choice.reason}")
            bits = choice.bits
        repository = Repository(repository_of(model, bits))
    elif model in BUILT_IN or _is_path(model):
        return locate(model, bits, companions=False)
    else:
        repository = Repository(*_repository(model))
        _check_bits(bits, repository.name, _bits_named(repository.name))
    return _ready(repository.name, repository.revision, companions=False) or repository


def find_mimi(model: str, ask: Ask | None = None, progress: bool = False, notify: Notify | None = None) -> Path:
    """The codec's weights alone, as `model` (see `locate`; or a safetensors file) has them.

    Raises:
        CheckpointError: there is no such model, or its codec cannot be had.
    """
    how = Fetching(ask, progress, notify or _silence)
    if model in BUILT_IN:
        return companion(_sounding(model, tiny_folder(model)), *CODEC)
    if model in SHORT_NAMES:
        model = COMPANIONS
    if _is_path(model):
        path = Path(model).expanduser()
        if path.is_file():
            return path
        _check_folder(path)
        return fetch_companion(_sounding(model, path), *CODEC, how)
    repo, revision = _repository(model)
    snapshot = cached_snapshot(repo, revision)
    if snapshot is not None and (found := companion_here(_sounding(model, snapshot), *CODEC)) is not None:
        return found
    files = list_files(repo, revision)
    config = remote_config(files)
    _check_sound(model, config)
    wanted = companion_files(repo, config, files, [CODEC], how)
    fetch(wanted, how.ask, how.progress)
    return fetch_small(wanted[0])


def _sounding(model: str, folder: Path) -> Path:
    _check_sound(model, read_config(folder))
    return folder


def _check_sound(model: str, config: LMConfig) -> None:
    if config.n_q == 0:
        raise CheckpointError(f"{model} writes text and has no codec")


def cached_bits(name: str) -> list[int]:
    """Precisions of a short name that are downloaded whole, most bits first."""
    return [bits for bits in PRECISIONS if _ready(repository_of(name, bits), "main", companions=True)]


def repository_of(name: str, bits: int) -> str:
    """The published repository of a short name: ('moshiko', 4) -> 'kyutai/moshiko-mlx-q4'."""
    return f"kyutai/{name}-mlx-{PRECISIONS[bits]}"


def _short(name: str, bits: int | None, how: Fetching, companions: bool, economy: Economy) -> Path:
    """A published model: in the precision asked for, the one that suits, or offline one that is here."""
    if bits is not None:
        return _checkpoint(repository_of(name, bits), "main", how, companions)
    choice = choose_bits(economy=economy)
    how.notify(f"{name}: {choice.reason}")
    try:
        return _checkpoint(repository_of(name, choice.bits), "main", how, companions)
    except OfflineError:
        here = cached_bits(name)
        if not here:
            raise
        instead = choose_bits(here, economy=economy)
        how.notify(f"{PRECISIONS[choice.bits]} cannot be downloaded now, so {PRECISIONS[instead.bits]} is used")
        return _checkpoint(repository_of(name, instead.bits), "main", how, companions)


def _checkpoint(repo: str, revision: str, how: Fetching, companions: bool) -> Path:
    here = _ready(repo, revision, companions)
    if here is not None and not how.refresh:
        return here
    try:
        return _download(repo, revision, how, companions)
    except OfflineError as error:
        if here is None:
            raise
        how.notify(f"{error}; what was downloaded before is used")
        return here


def _download(repo: str, revision: str, how: Fetching, companions: bool) -> Path:
    files = list_files(repo, revision)
    config = remote_config(files)
    weights = remote_weights(repo, config, files)
    wanted = [files[name] for name in weights]
    if companions:
        wanted += companion_files(repo, config, files, roles_of(config), how)
    fetch(wanted, how.ask, how.progress)
    snapshot = _ready(repo, revision, companions)
    if snapshot is None:
        raise CheckpointError(f"{repo} changed while it was downloaded; run the same command again")
    return snapshot


def remote_weights(repo: str, config: LMConfig, files: dict[str, RemoteFile]) -> list[str]:
    """Names of a repository's weight files, and of their index where there is one."""
    return weight_names(repo, config, files, lambda: read_shards(fetch_small(files[INDEX])))


def _ready(repo: str, revision: str, companions: bool) -> Path | None:
    """The cached folder of a revision if nothing of it remains to be downloaded."""
    snapshot = cached_snapshot(repo, revision)
    if snapshot is None:
        return None
    try:
        config = read_config(snapshot)
        weight_files(snapshot, config)
    except MoshiError:
        return None
    if companions and any(companion_here(snapshot, *role) is None for role in roles_of(config)):
        return None
    return snapshot


def _check_folder(folder: Path) -> None:
    if not folder.exists():
        raise CheckpointError(f"{folder} does not exist; give a folder, a repository org/name or a short name")
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is a file; give the folder that holds it and its config.json")


def remote_config(files: dict[str, RemoteFile]) -> LMConfig:
    """Read before anything large is fetched, so that a model that cannot run is refused at once."""
    file = files.get("config.json")
    return LMConfig.from_file(fetch_small(file)) if file else LMConfig.from_dict(preset(files))


def _is_path(model: str) -> bool:
    return model.startswith((".", "/", "~")) or os.path.exists(model)  # Path.exists fails on names that are too long


def _repository(model: str) -> tuple[str, str]:
    name = model
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    match = _REPOSITORY.fullmatch(name.rstrip("/"))
    if match:
        return match[1], match[2] or "main"
    known = (*SHORT_NAMES, *BUILT_IN)
    close = difflib.get_close_matches(model.lower(), known, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise CheckpointError(
        f"there is no model {model!r}{hint}: give moshiko, moshika or tiny, a repository org/name, or a folder"
    )


def _check_bits(bits: int | None, where: str, found: int | None) -> None:
    if bits is not None and bits != found:
        raise CheckpointError(
            f"-q {bits} chooses among the published moshiko and moshika; {where} has the precision that it has: "
            "leave -q out"
        )


def _bits_named(*names: str) -> int | None:
    """The precision that a repository or file name tells: `moshika-mlx-q4`, `model.q8.safetensors`."""
    for bits, word in PRECISIONS.items():
        if any(re.search(rf"[.-]{word}(?=[.-]|$)", name) for name in names):
            return bits
    return None


def _silence(_: str) -> None:
    pass
