"""From a checkpoint to one of another precision, block by block: read, quantize, write, forget.

Memory holds a few blocks of 32 MB, whatever the size of the model. Rows are quantized independently, so
blocks give the very bits that whole tensors would. The result is a complete folder, or none.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from moshi_mlx.checkpoint.companions import CODEC, TEXT, companion
from moshi_mlx.checkpoint.formats import Format
from moshi_mlx.checkpoint.inspect import Checkpoint, inspect
from moshi_mlx.checkpoint.names import is_condition, module_of, published_shapes, tensor_of
from moshi_mlx.checkpoint.weight_files import INDEX
from moshi_mlx.errors import CheckpointError, MoshiError
from moshi_mlx.memory import free_disk, human_bytes

from .card import config_of, model_card
from .recipes import BFLOAT16, Formats, Recipe, Size, size_of
from .source import Block, SourceReader
from .writer import SYNC_BYTES, Entry, FolderWriter, check_free, index_of, partial_of, place

Progress = Callable[[int, int], None]
"""Is told how many bytes of the source, counted as bfloat16, are done, and of how many."""

Override = Mapping[str, Mapping[str, np.ndarray]]
"""Modules that were quantized elsewhere: published name -> weight, scales and biases as they are stored."""

_DISK_RESERVE = 64 * 2**20


@dataclass(frozen=True)
class Conversion:
    """All that is decided before the first byte is written."""

    source: Checkpoint
    destination: Path
    recipe: Recipe
    formats: Formats
    files: Mapping[str, list[Entry]]
    companions: Mapping[str, Path]
    """config.json's key -> the file."""

    @property
    def size(self) -> Size:
        """What the result will weigh."""
        return size_of(self.source.config, self.formats)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What the written bytes depend on."""
        stats = {str(file.resolve()): file.stat() for file in self.source.files}
        return {
            "source": {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()},
            "formats": {module: form and astuple(form) for module, form in self.formats.items()},
            "mlx": f"{version('mlx')} {mx.default_device().type}",
        }  # fmt: skip


def plan(source: str | Path, destination: str | Path, recipe: Recipe, resume: bool = False) -> Conversion:
    """Decide and check everything; writes nothing.

    Args:
        source: a local checkpoint folder.
        destination: the folder to make.
        recipe: BFLOAT16 to undo quantization.
        resume: whether the remains of an earlier run are welcome.

    Raises:
        CheckpointError: the source is not whole, or has fewer bits than the recipe.
        MoshiError: a group size does not fit, the destination is taken, or the disk is too full.
    """
    destination = Path(destination).expanduser().absolute()
    check_free(destination, resume)
    checkpoint = inspect(source)
    formats = recipe.formats(checkpoint.config)
    _check_source(checkpoint, formats, recipe)
    entries = [
        entry for name, shape in published_shapes(checkpoint.config).items() for entry in _entries(name, shape, formats)
    ]
    conversion = Conversion(
        checkpoint, destination, recipe, formats, place(entries, recipe.file_name), _companions(checkpoint)
    )
    _check_disk(conversion)
    return conversion


def convert(
    conversion: Conversion,
    resume: bool = False,
    progress: Progress = lambda done, total: None,
    override: Override | None = None,
    base_model: str | None = None,
    notes: str = "",
    sync_bytes: int = SYNC_BYTES,
) -> Path:
    """Write what was planned.

    Args:
        conversion: what `plan` returned.
        resume: go on where an earlier run stopped; the result has the same bits.
        progress: called after every block.
        override: modules that calibration has quantized.
        base_model: the source's name on the Hub, for the model card.
        notes: a sentence for the model card on how the weights were quantized.
        sync_bytes: how much an interruption may cost.

    Returns:
        the destination.

    Raises:
        CheckpointError: the source cannot be read.
        MoshiError: the disk is full, or another run is at work there.
    """
    override = override or {}
    fingerprint = conversion.fingerprint | {"calibrated": _digest(override), "notes": notes}
    reader = SourceReader(conversion.source)
    try:
        with FolderWriter(conversion.destination, conversion.files, fingerprint, resume, sync_bytes) as writer:
            for block, rows in _read_ahead(reader, writer.done, progress):
                _write(writer, conversion, reader, block, rows, override.get(block.module))
            for file in conversion.companions.values():
                _link(file, writer.folder / file.name)
            writer.finish(_texts(conversion, base_model, notes))
    except OSError as error:
        raise MoshiError(
            f"{partial_of(conversion.destination)} cannot be written ({error.strerror or error}); "
            f"mend that and go on with --resume, or delete it"
        ) from None
    finally:
        reader.close()
        mx.clear_cache()
    return conversion.destination


def _read_ahead(reader: SourceReader, done: int, progress: Progress) -> Iterator[tuple[Block, dict[str, np.ndarray]]]:
    """The blocks from the `done`-th on, the next one being read while one is worked on."""
    blocks = reader.blocks()
    total, so_far = sum(block.nbytes for block in blocks), sum(block.nbytes for block in blocks[:done])
    progress(so_far, total)
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as thread:
        ahead = [thread.submit(reader.fetch, block) for block in blocks[done : done + 1]]
        for i, block in enumerate(blocks[done:], done + 1):
            rows = ahead.pop().result()
            ahead += [thread.submit(reader.fetch, block) for block in blocks[i : i + 1]]
            yield block, rows
            so_far += block.nbytes
            progress(so_far, total)


def _write(
    writer: FolderWriter,
    conversion: Conversion,
    reader: SourceReader,
    block: Block,
    rows: dict[str, np.ndarray],
    calibrated: Mapping[str, np.ndarray] | None,
) -> None:
    form = conversion.formats.get(block.module)
    if calibrated is not None:
        rows = {part: array[block.start : block.stop] for part, array in calibrated.items()}
    elif form is None or form != reader.format(block.module):
        rows = quantized(reader.dense(block, rows, mx.float32 if is_condition(block.module) else mx.bfloat16), form)
    for part, data in rows.items():
        writer.write(tensor_of(block.module) if part == "weight" else f"{block.module}.{part}", block.start, data)
    writer.block_done()


def quantized(dense: mx.array, form: Format | None) -> dict[str, np.ndarray]:
    """A bfloat16 matrix (or vector) as it is stored: weight, and scales and biases where they belong."""
    arrays = [dense] if form is None else mx.quantize(dense, form.group_size, form.bits, form.mode)
    mx.eval(arrays)
    return {part: stored(array) for part, array in zip(("weight", "scales", "biases"), arrays, strict=False)}


def stored(array: mx.array) -> np.ndarray:
    """An array's bytes for a file; bfloat16, which numpy has not, as uint16."""
    return np.array(array.view(mx.uint16) if array.dtype == mx.bfloat16 else array, copy=False)


def _digest(override: Override) -> str:
    """Of calibrated tensors in one word, so that two calibrations are not mixed."""
    digest = hashlib.blake2b(digest_size=16)
    for module in sorted(override):
        digest.update(module.encode())
        for part in sorted(override[module]):
            digest.update(np.ascontiguousarray(override[module][part]).data)
    return digest.hexdigest()


def _entries(name: str, shape: tuple[int, ...], formats: Formats) -> Iterator[Entry]:
    module = module_of(name)
    form = formats.get(module)
    if form is None:
        yield Entry(name, "F32" if is_condition(name) else "BF16", shape)
        return
    groups = (shape[0], shape[1] // form.group_size)
    yield Entry(name, "U32", (shape[0], shape[1] * form.bits // 32))
    if form.mode == "affine":
        yield Entry(f"{module}.scales", "BF16", groups)
        yield Entry(f"{module}.biases", "BF16", groups)
    else:
        yield Entry(f"{module}.scales", "U8", groups)


def _check_source(checkpoint: Checkpoint, formats: Formats, recipe: Recipe) -> None:
    """Refuse to add bits that the source does not have, or to change nothing."""
    stored_as = checkpoint.formats
    if recipe == BFLOAT16:
        if not any(stored_as.values()):
            raise CheckpointError(
                f"{checkpoint.folder} is not quantized ({checkpoint.precision}); there is nothing to undo"
            )
        return
    if stored_as == formats:
        raise CheckpointError(f"{checkpoint.folder} is {recipe.name} already; there is nothing to do")
    for module, form in stored_as.items():
        wanted = formats[module]
        if form is not None and wanted is not None and form.bits < wanted.bits:
            raise CheckpointError(
                f"{checkpoint.folder} holds {module} in {form.bits} bits, and {recipe.name} wants {wanted.bits}: "
                f"what is lost does not come back; start from the bf16 checkpoint"
            )


def _companions(checkpoint: Checkpoint) -> dict[str, Path]:
    """Codec and tokenizer, where the source has them: the language model is whole without."""
    found: dict[str, Path] = {}
    for key, usual in (CODEC, TEXT):
        try:
            found[key] = companion(checkpoint.folder, key, usual)
        except CheckpointError:
            continue
    return found


def _check_disk(conversion: Conversion) -> None:
    """What an earlier run has left occupies already; what it has not yet written is sparse."""
    partial = partial_of(conversion.destination)
    there = sum(512 * file.stat().st_blocks for file in partial.glob("*.safetensors")) if partial.exists() else 0
    copies = sum(file.stat().st_size for file in conversion.companions.values())
    need = conversion.size.nbytes + copies + _DISK_RESERVE
    free = free_disk(conversion.destination) + there
    if need > free:
        raise MoshiError(
            f"{conversion.destination} would take {human_bytes(need)} and {human_bytes(free)} are free there; "
            f"make room, or choose another disk"
        )


def _link(source: Path, target: Path) -> None:
    """A hard link where the disk allows it, else a copy; either outlives the source."""
    target.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def _texts(conversion: Conversion, base_model: str | None, notes: str) -> dict[str, str]:
    files, companions = conversion.files, conversion.companions
    single = next(iter(files)) if len(files) == 1 else None
    names = {key: file.name for key, file in companions.items()}
    config = config_of(conversion.source.config, conversion.formats, single, names)
    texts = {
        "README.md": model_card(conversion.source, conversion.recipe, conversion.formats, base_model, notes),
        "config.json": json.dumps(config, indent=2) + "\n",
    }
    return texts if single else texts | {INDEX: json.dumps(index_of(files), indent=2) + "\n"}
