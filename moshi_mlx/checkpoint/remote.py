"""What a model is and holds, from its config.json and the headers of its weights: kilobytes, wherever it lies.

Nothing here is checked against the network, so that differences can be told: see inspect.differences.
"""

from __future__ import annotations

from pathlib import Path

from ..config import MOSHI_7B, LMConfig
from ..errors import CheckpointError, first_line
from .download import Notify, RemoteFile, list_files
from .hub import SHORT_NAMES, Repository, remote_config, remote_weights, whereabouts
from .hub_errors import hub_sentences
from .inspect import Checkpoint, Tensor, gather, read_config, read_folder
from .weight_files import INDEX


def look(model: str, bits: int | None = None, notify: Notify | None = None) -> Checkpoint:
    """A model's configuration and headers; of one that is not here, nothing but these is fetched.

    Args:
        model: as for `hub.locate`.
        bits: as for `hub.locate`.
        notify: is told, in a sentence, what was chosen and why.

    Raises:
        ConfigError: config.json is not understood.
        CheckpointError: there is no such model, or its headers cannot be read.
    """
    place = whereabouts(model, bits, notify)
    return read_folder(place) if isinstance(place, Path) else _read(place)


def config_of(model: str, bits: int | None = None) -> LMConfig:
    """A model's configuration alone, wherever it lies; raises as `look` does."""
    if model in SHORT_NAMES:
        return LMConfig.from_dict(MOSHI_7B)
    place = whereabouts(model, bits)
    return read_config(place) if isinstance(place, Path) else remote_config(list_files(place.name, place.revision))


def _read(repository: Repository) -> Checkpoint:
    files = list_files(repository.name, repository.revision)
    config = remote_config(files)
    weights = [files[name] for name in remote_weights(repository.name, config, files) if name != INDEX]
    tensors = gather(map(_header, weights))
    return Checkpoint(Path(repository.name), config, tuple(Path(file.repo, file.name) for file in weights), tensors)


def _header(file: RemoteFile) -> dict[str, Tensor]:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import SafetensorsParsingError

    with hub_sentences(file.repo, file.revision, file.name):
        try:
            metadata = HfApi().parse_safetensors_file_metadata(file.repo, file.name, revision=file.revision)
        except SafetensorsParsingError as error:
            raise CheckpointError(
                f"{file.name} of {file.repo} is not a safetensors file ({first_line(error)})"
            ) from None
    path = Path(file.repo, file.name)
    return {name: Tensor(path, info.dtype, tuple(info.shape)) for name, info in metadata.tensors.items()}
