"""The codec and the text tokenizer of a checkpoint: beside the weights, or where the Hub has what config.json names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..config import MOSHI_7B, LMConfig
from ..errors import CheckpointError
from .download import Fetching, RemoteFile, cached_snapshot, fetch, list_files
from .inspect import MIMI, TOKENIZER, read_config

COMPANIONS = "kyutai/moshiko-mlx-q4"
"""Where the codec and the 32,000-piece tokenizer come from when a checkpoint has none: they are the same in all."""
_HOMES = {
    "mimi-pytorch-e351c8d8@125.safetensors": (COMPANIONS, MIMI),  # the same bytes
    "mimi-dbaa9758@125.safetensors": ("kyutai/hibiki-1b-mlx-bf16", "mimi-dbaa9758@125.safetensors"),
    "tokenizer_en_fr_audio_8000.model": ("kyutai/stt-1b-en_fr-mlx", "tokenizer_en_fr_audio_8000.model"),
    "tokenizer_en_audio_4000.model": ("kyutai/stt-2.6b-en-mlx", "tokenizer_en_audio_4000.model"),
    "tokenizer_spm_8k_en_fr_audio.model": ("kyutai/tts-1.6b-en_fr", "tokenizer_spm_8k_en_fr_audio.model"),
    "tokenizer_spm_48k_multi6_2.model": ("kyutai/hibiki-1b-mlx-bf16", "tokenizer_spm_48k_multi6_2.model"),
}
"""The published codecs and tokenizers by the name that a config.json gives them."""
Role = tuple[str, str]
"""What config.json names a companion by, and its usual name."""
CODEC: Role = ("mimi_name", MIMI)
TEXT: Role = ("tokenizer_name", TOKENIZER)


def roles_of(config: LMConfig) -> list[Role]:
    """What a model needs beside its weights: one without codebooks needs no codec."""
    return [CODEC, TEXT] if config.n_q else [TEXT]


def companion(folder: Path, key: str, usual: str) -> Path:
    """The codec or the tokenizer of a checkpoint folder, without network: beside the weights, or where `locate` put it.

    Args:
        folder: as `locate` returned it.
        key: what config.json names it by, `mimi_name` or `tokenizer_name`.
        usual: its usual file name.

    Raises:
        CheckpointError: it is nowhere.
    """
    found = companion_here(folder, key, usual)
    if found is None:
        name = read_config(folder).raw.get(key) or usual
        raise CheckpointError(
            f"{folder} lacks {name}; run `moshi-mlx download {folder}`, which fetches what is missing"
        )
    return found


def companion_files(
    repo: str, config: LMConfig, files: dict[str, RemoteFile], roles: Sequence[Role], how: Fetching
) -> list[RemoteFile]:
    """The codec and tokenizer of a repository; from another one where it has none."""
    wanted: list[RemoteFile] = []
    for key, usual in roles:
        name = config.raw.get(key) or usual
        wanted.append(files[name] if name in files else _elsewhere(repo, config, key, usual, how))
    return wanted


def _elsewhere(where: str, config: LMConfig, key: str, usual: str, how: Fetching) -> RemoteFile:
    repo, name = _other_home(where, config, key, usual)
    how.notify(f"{where} has no {name} of its own; it is taken from {repo}")
    files = list_files(repo, "main")
    if name not in files:
        raise CheckpointError(f"{repo} has no file {name}, which {where} asks for")
    return files[name]


def _other_home(where: str, config: LMConfig, key: str, usual: str) -> tuple[str, str]:
    """Repository and name of a codec or tokenizer that is not beside the weights."""
    named = config.raw.get(key) or usual
    if isinstance(named, str) and named.startswith("hf://") and named.count("/") >= 4:
        org, repo, name = named.removeprefix("hf://").split("/", 2)
        return f"{org}/{repo}", name
    if named in _HOMES and _HOMES[named][0] != where:
        return _HOMES[named]
    foreign = key == "tokenizer_name" and config.text_card != MOSHI_7B["text_card"]
    if named != usual or foreign:
        raise CheckpointError(f"{where} lacks {named} ({key!r} in config.json); put it beside the weights")
    return COMPANIONS, usual


def companion_here(folder: Path, key: str, usual: str) -> Path | None:
    """The companion of a folder if it is on this machine; see `companion`."""
    config = read_config(folder)
    name = str(config.raw.get(key) or usual)
    for path in (folder / name, folder / name.rsplit("/", 1)[-1]):
        if path.is_file():
            return path
    try:
        repo, name = _other_home(str(folder), config, key, usual)
    except CheckpointError:
        return None
    snapshot = cached_snapshot(repo, "main")
    path = snapshot / name if snapshot else None
    return path if path and path.is_file() else None


def fetch_companion(folder: Path, key: str, usual: str, how: Fetching) -> Path:
    """The companion of a folder, downloaded if it is not on this machine."""
    found = companion_here(folder, key, usual)
    if found is not None:
        return found
    file = _elsewhere(str(folder), read_config(folder), key, usual, how)
    fetch([file], how.ask, how.progress)
    return companion(folder, key, usual)
