"""What a checkpoint on disk holds, read from its headers alone, and whether that is what its config asks for.

Bits and group sizes follow from the shapes in the file, never from a flag.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..config import LMConfig, check_runnable
from ..errors import CheckpointError
from .helium import HELIUM_WEIGHTS, preset
from .names import Shape, Source, published_shapes
from .sources import Sources, find_sources, vocabulary

UNFINISHED = ".partial"
"""Ends the name of a folder that is still being written."""
INDEX = "model.safetensors.index.json"
WEIGHTS = ("model.safetensors", "model.q8.safetensors", "model.q4.safetensors")
MIMI = "tokenizer-e351c8d8-checkpoint125.safetensors"
TOKENIZER = "tokenizer_spm_32k_3.model"

_DENSE = {"F32": 4, "F16": 2, "BF16": 2}
_ITEM_BYTES = {**_DENSE, "U32": 4, "U8": 1}
# Floating-point modes have no biases and are told apart by bits and group size.
_FLOAT_MODES = {(4, 32): "mxfp4", (4, 16): "nvfp4", (8, 32): "mxfp8"}


@dataclass(frozen=True)
class Format:
    """How a module's weight is quantized."""

    bits: int
    group_size: int
    mode: str = "affine"


@dataclass(frozen=True)
class Tensor:
    """One entry of a safetensors header."""

    file: Path
    dtype: str
    shape: Shape

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        size = _ITEM_BYTES[self.dtype]
        for n in self.shape:
            size *= n
        return size


@dataclass(frozen=True)
class Checkpoint:
    """A language model on disk: its configuration and the headers of its files."""

    folder: Path
    config: LMConfig
    files: tuple[Path, ...]
    tensors: Mapping[str, Tensor]

    @cached_property
    def vocabulary(self) -> str:
        """Whose names the tensors bear: MLX, PyTorch or Hugging Face."""
        return vocabulary(self.tensors)

    @cached_property
    def sources(self) -> Sources:
        """Where each published tensor is found."""
        return find_sources(self.config, self.tensors)

    @cached_property
    def formats(self) -> dict[str, Format | None]:
        """Format of every published module with a matrix; None where it is not quantized."""
        return {name: _format(self, name, shape[1]) for name, shape in _matrices(self.config)}

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def precision(self) -> str:
        """In a word: bf16, float32, q8, q4, mxfp4 …, or mixed."""
        found = set(self.formats.values())
        if len(found) > 1:
            return "mixed"
        form = found.pop() if found else None
        if form is None:
            dtype = self.tensors[self.sources["text_linear.weight"][0].name].dtype
            return {"BF16": "bf16", "F16": "float16", "F32": "float32"}[dtype]
        return f"q{form.bits}" if form.mode == "affine" else form.mode


def inspect(folder: str | Path) -> Checkpoint:
    """Read a folder's config.json and headers, and check that every tensor is there, whole, and shaped right.

    A folder without config.json is taken for what Kyutai published so: see `read_config`.

    Raises:
        ConfigError: config.json is not understood.
        CheckpointError: the files are not what the configuration asks for.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder; give one that holds config.json and model.safetensors")
    if folder.name.endswith(UNFINISHED):
        raise CheckpointError(f"{folder} is unfinished: repeat the command that was writing it, with --resume")
    config = read_config(folder)
    files = _weight_files(folder, config)
    checkpoint = Checkpoint(folder, config, files, _headers(files))
    _check(checkpoint)
    return checkpoint


def read_config(folder: Path) -> LMConfig:
    """A folder's config.json; without one it is Moshi 7B, or Helium 2B where the weights are called so.

    Raises:
        ConfigError: config.json is not understood.
    """
    path = folder / "config.json"
    if path.is_file():
        return LMConfig.from_file(path)
    return LMConfig.from_dict(preset({file.name for file in folder.iterdir()}))


def usual_weights(names: Collection[str]) -> list[str]:
    """Which of the weight files that are there by their usual names: one of Helium's, all of Moshi's."""
    helium = [name for name in HELIUM_WEIGHTS if name in names]
    return helium[:1] or [name for name in WEIGHTS if name in names]


def _weight_files(folder: Path, config: LMConfig) -> tuple[Path, ...]:
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


def _present(files: Iterable[Path]) -> tuple[Path, ...]:
    files = tuple(files)
    for file in files:
        if not file.is_file():
            raise CheckpointError(f"{file} is missing; download the checkpoint again")
    return files


def read_shards(index: Path) -> list[str]:
    """File names of the shards that an index lists; raises CheckpointError when it is none."""
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return sorted(str(name).rsplit("/", 1)[-1] for name in names)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{index} is not a safetensors index ({error}); download it again") from None


def _headers(files: Iterable[Path]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for file in files:
        for name, tensor in read_header(file).items():
            if name in tensors:
                raise CheckpointError(f"{name} is in both {tensors[name].file.name} and {file.name} of {file.parent}")
            tensors[name] = tensor
    return tensors


def read_header(file: Path) -> dict[str, Tensor]:
    """The header of one safetensors file.

    Raises:
        CheckpointError: the file is truncated or no safetensors file, or holds a type that no checkpoint has.
    """
    try:
        with safe_open(str(file), framework="numpy") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
            found = {n: Tensor(file, str(s.get_dtype()), tuple(s.get_shape())) for n, s in slices.items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{file} is truncated or not a safetensors file ({error}); download it again") from None
    for name, tensor in found.items():
        if tensor.dtype not in _ITEM_BYTES:
            raise CheckpointError(f"{file}: {name} is of type {tensor.dtype}, which no Moshi checkpoint has")
    return found


def _matrices(config: LMConfig) -> list[tuple[str, Shape]]:
    shapes = published_shapes(config)
    return [(name.removesuffix(".weight"), shape) for name, shape in shapes.items() if len(shape) == 2]


def _format(checkpoint: Checkpoint, module: str, width: int) -> Format | None:
    """The format of a published module, which all that it is put together from must share."""
    sources = checkpoint.sources[f"{module}.weight"]
    form, *others = (_stored_format(checkpoint.tensors, source, width) for source in sources)
    types = {tensor.dtype for source in sources if (tensor := checkpoint.tensors.get(source.name))}
    if any(other != form for other in others) or len(types) > 1:
        names = ", ".join(source.name for source in sources)
        raise CheckpointError(f"{checkpoint.folder}: {names} are not stored alike, and belong to one product")
    return form


def _stored_format(tensors: Mapping[str, Tensor], source: Source, width: int) -> Format | None:
    """The format that the shapes in the file imply: bits from the packed width, group from the scales'."""
    weight, scales = tensors.get(source.name), tensors.get(source.part_name("scales"))
    if weight is None or scales is None:
        return None
    module = source.name.removesuffix(".weight")
    bits, rest = divmod(32 * weight.shape[-1], width)
    group, odd = divmod(width, max(scales.shape[-1], 1))
    if weight.dtype != "U32" or rest or odd or not 2 <= bits <= 8:
        raise CheckpointError(
            f"{weight.file}: {module} is {list(weight.shape)} with scales {list(scales.shape)}, which is no "
            f"quantization of a matrix with rows of {width}"
        )
    if f"{module}.biases" in tensors:
        return Format(bits, group)
    mode = _FLOAT_MODES.get((bits, group)) if scales.dtype == "U8" else None
    if mode is None:
        raise CheckpointError(f"{weight.file}: {module}.biases is missing; the file is incomplete")
    return Format(bits, group, mode)


def expected_tensors(checkpoint: Checkpoint) -> dict[str, tuple[Shape, Collection[str]]]:
    """Shape and possible types of every tensor that the files must hold, by its name there."""
    expected: dict[str, tuple[Shape, Collection[str]]] = {}
    for name, published in published_shapes(checkpoint.config).items():
        form = checkpoint.formats.get(name.removesuffix(".weight"))
        for source in checkpoint.sources[name]:
            shape = source.shape(published)
            if form is None:
                expected[source.name] = shape, _DENSE
                continue
            expected[source.name] = (shape[0], shape[1] * form.bits // 32), ("U32",)
            groups = (shape[0], shape[1] // form.group_size)
            expected[source.part_name("scales")] = groups, _DENSE if form.mode == "affine" else ("U8",)
            if form.mode == "affine":
                expected[source.part_name("biases")] = groups, _DENSE
    return expected


def _check(checkpoint: Checkpoint) -> None:
    check_runnable(checkpoint.config)  # first: what it asks for would look like tensors left over
    where, tensors, expected = checkpoint.folder, checkpoint.tensors, expected_tensors(checkpoint)
    missing = [name for name in expected if name not in tensors]
    if missing:
        raise CheckpointError(f"{where}: {_some(missing)} missing; the file is incomplete or of another model")
    extra = [name for name in tensors if name not in expected]
    if extra:
        raise CheckpointError(f"{where}: {_some(extra)} not part of this model; config.json and weights do not match")
    for name, (shape, types) in expected.items():
        tensor = tensors[name]
        if tensor.shape != shape:
            raise CheckpointError(
                f"{tensor.file}: {name} has shape {list(tensor.shape)}, and config.json asks for {list(shape)}"
            )
        if tensor.dtype not in types:
            raise CheckpointError(f"{tensor.file}: {name} is of type {tensor.dtype}, which cannot be right")
    _check_declared(checkpoint)


def _some(names: list[str]) -> str:
    if len(names) == 1:
        return f"{names[0]} is"
    return f"{len(names)} tensors ({names[0]}, …) are"


def _check_declared(checkpoint: Checkpoint) -> None:
    """Hold config.json's `quantization` entry, where there is one, against the file."""
    declared = checkpoint.config.raw.get("quantization")
    if declared is None:
        return
    if not isinstance(declared, Mapping):
        raise CheckpointError(f"{checkpoint.folder}/config.json: 'quantization' must be an object")
    for module, form in checkpoint.formats.items():
        entry = declared.get(module, declared)
        if entry is not False and not isinstance(entry, Mapping):
            raise CheckpointError(f"{checkpoint.folder}/config.json: 'quantization' of {module} must be an object")
        told = None if entry is False else _declared_format(entry)
        if form != told and not (form is None and module not in declared and told is not None):
            raise CheckpointError(
                f"{checkpoint.folder}: config.json says that {module} is {_spell(told)}, and the file holds it "
                f"{_spell(form)}"
            )


def _declared_format(entry: Mapping[str, Any]) -> Format | str:
    bits, group, mode = entry.get("bits", 4), entry.get("group_size", 64), entry.get("mode", "affine")
    if isinstance(bits, int) and isinstance(group, int) and isinstance(mode, str):
        return Format(bits, group, mode)
    return f"{json.dumps(dict(entry))[:80]}"


def _spell(form: Format | str | None) -> str:
    if form is None:
        return "not quantized"
    if isinstance(form, str):
        return form
    mode = "" if form.mode == "affine" else f" {form.mode}"
    return f"{form.bits} bits in groups of {form.group_size}{mode}"
