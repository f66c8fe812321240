"""What a checkpoint on disk holds, read from its headers alone, and whether that is what its config asks for.

Bits and group sizes follow from the shapes in the file, never from a flag.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..config import MOSHI_7B, LMConfig, check_runnable
from ..errors import CheckpointError
from .names import Shape, is_pytorch, published_shapes, pytorch_sources

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
    def is_pytorch(self) -> bool:
        """Whether the tensors bear PyTorch names."""
        return is_pytorch(self.tensors)

    @cached_property
    def formats(self) -> dict[str, Format | None]:
        """Format of every published module with a matrix; None where it is not quantized."""
        if self.is_pytorch:
            return {name: None for name, _ in _matrices(self.config)}
        return {name: _format(self, name, shape) for name, shape in _matrices(self.config)}

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
            dtype = self.tensors["out_norm.alpha" if self.is_pytorch else "text_linear.weight"].dtype
            return {"BF16": "bf16", "F16": "float16", "F32": "float32"}[dtype]
        return f"q{form.bits}" if form.mode == "affine" else form.mode


def inspect(folder: str | Path) -> Checkpoint:
    """Read a folder's config.json and headers, and check that every tensor is there, whole, and shaped right.

    A folder without config.json is taken for Moshi 7B, as Kyutai's first repositories were.

    Raises:
        ConfigError: config.json is not understood.
        CheckpointError: the files are not what the configuration asks for.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder; give one that holds config.json and model.safetensors")
    if folder.name.endswith(UNFINISHED):
        raise CheckpointError(f"{folder} is unfinished: repeat the command that was writing it, with --resume")
    path = folder / "config.json"
    config = LMConfig.from_file(path) if path.exists() else LMConfig.from_dict(MOSHI_7B)
    files = _weight_files(folder, config)
    checkpoint = Checkpoint(folder, config, files, _headers(files))
    _check(checkpoint)
    return checkpoint


def _weight_files(folder: Path, config: LMConfig) -> tuple[Path, ...]:
    named = config.raw.get("moshi_name")
    if named is not None and not isinstance(named, str):
        raise CheckpointError(f"{folder}/config.json: 'moshi_name' is {named!r}, and must name a file")
    if named:
        return _present([folder / named.rsplit("/", 1)[-1]])
    if (folder / INDEX).exists():
        return _present(folder / name for name in read_shards(folder / INDEX))
    found = [folder / name for name in WEIGHTS if (folder / name).exists()]
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


def _format(checkpoint: Checkpoint, module: str, shape: Shape) -> Format | None:
    """The format that the shapes in the file imply: bits from the packed width, group from the scales'."""
    tensors, width = checkpoint.tensors, shape[1]
    weight, scales = tensors.get(f"{module}.weight"), tensors.get(f"{module}.scales")
    if weight is None or scales is None:
        return None
    bits, rest = divmod(32 * weight.shape[-1], width)
    group, odd = divmod(width, max(scales.shape[-1], 1))
    if weight.dtype != "U32" or rest or odd or not 2 <= bits <= 8:
        raise CheckpointError(
            f"{weight.file}: {module} is {list(weight.shape)} with scales {list(scales.shape)}, which is no "
            f"quantization of a matrix {list(shape)}"
        )
    if f"{module}.biases" in tensors:
        return Format(bits, group)
    mode = _FLOAT_MODES.get((bits, group)) if scales.dtype == "U8" else None
    if mode is None:
        raise CheckpointError(f"{weight.file}: {module}.biases is missing; the file is incomplete")
    return Format(bits, group, mode)


def expected_tensors(checkpoint: Checkpoint) -> dict[str, Shape]:
    """Name and shape of every tensor that the files must hold, in their own vocabulary."""
    published = published_shapes(checkpoint.config)
    if checkpoint.is_pytorch:
        sources = pytorch_sources(checkpoint.config, checkpoint.tensors)
        return {source.name: source.shape(published[name]) for name, source in sources.items()}
    expected: dict[str, Shape] = {}
    for name, shape in published.items():
        module = name.removesuffix(".weight")
        form = checkpoint.formats.get(module)
        if form is None:
            expected[name] = shape
            continue
        expected[name] = (shape[0], shape[1] * form.bits // 32)
        groups = (shape[0], shape[1] // form.group_size)
        expected[f"{module}.scales"] = groups
        if form.mode == "affine":
            expected[f"{module}.biases"] = groups
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
    for name, shape in expected.items():
        tensor = tensors[name]
        if tensor.shape != shape:
            raise CheckpointError(
                f"{tensor.file}: {name} has shape {list(tensor.shape)}, and config.json asks for {list(shape)}"
            )
        if not _type_fits(checkpoint, name, tensor):
            raise CheckpointError(f"{tensor.file}: {name} is of type {tensor.dtype}, which cannot be right")
    _check_declared(checkpoint)


def _type_fits(checkpoint: Checkpoint, name: str, tensor: Tensor) -> bool:
    module, _, part = name.rpartition(".")
    form = None if checkpoint.is_pytorch else checkpoint.formats.get(module)
    if form is not None and part == "weight":
        return tensor.dtype == "U32"
    if form is not None and form.mode != "affine":
        return tensor.dtype == "U8"
    return tensor.dtype in _DENSE


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
