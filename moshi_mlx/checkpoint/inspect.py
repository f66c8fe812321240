"""What a checkpoint on disk holds, read from its headers alone, and whether that is what its config asks for.

Bits and group sizes follow from the shapes in the file, never from a flag.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ..config import LMConfig
from ..economy import Economy
from ..errors import CheckpointError
from .formats import FLOAT_MODES, Format, check_declared
from .helium import preset
from .names import Shape, Source, matrices, published_shapes
from .sources import Sources, find_sources, vocabulary
from .weight_files import weight_files

UNFINISHED = ".partial"
"""Ends the name of a folder that is still being written."""
MIMI = "tokenizer-e351c8d8-checkpoint125.safetensors"
TOKENIZER = "tokenizer_spm_32k_3.model"

_DENSE = {"F32": 4, "F16": 2, "BF16": 2}
ITEM_BYTES = {**_DENSE, "U32": 4, "U8": 1}


@dataclass(frozen=True)
class Tensor:
    """One entry of a safetensors header."""

    file: Path
    dtype: str
    shape: Shape

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        size = ITEM_BYTES[self.dtype]
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
    dtype: str | None = None
    """Type to run in: of the activations, and of the weights that are not quantized; None is the file's own."""

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
        return {name: _format(self, name, shape[1]) for name, shape in matrices(self.config).items()}

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def run_as(self, economy: Economy) -> Checkpoint:
        """The same files, to be run in less memory or in another type.

        Raises:
            ConfigError: its network cannot be run so.
        """
        return replace(self, config=economy.of(self.config), dtype=economy.dtype)

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
    checkpoint = read_folder(Path(folder).expanduser())
    verify(checkpoint)
    return checkpoint


def read_folder(folder: Path) -> Checkpoint:
    """What `inspect` reads, without comparing the two.

    Raises:
        ConfigError: config.json is not understood.
        CheckpointError: there is no such folder, or a file in it is broken.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder; give one that holds config.json and model.safetensors")
    if folder.name.endswith(UNFINISHED):
        raise CheckpointError(f"{folder} is unfinished: repeat the command that was writing it, with --resume")
    config = read_config(folder)
    files = weight_files(folder, config)
    return Checkpoint(folder, config, files, gather(map(read_header, files)))


def read_config(folder: Path) -> LMConfig:
    """A folder's config.json; without one it is Moshi 7B, or Helium 2B where the weights are called so.

    Raises:
        ConfigError: config.json is not understood.
    """
    path = folder / "config.json"
    if path.is_file():
        return LMConfig.from_file(path)
    return LMConfig.from_dict(preset({file.name for file in folder.iterdir()}))


def gather(headers: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of several files as one.

    Raises:
        CheckpointError: a tensor is in two of them, or of a type that no checkpoint has.
    """
    tensors: dict[str, Tensor] = {}
    for header in headers:
        for name, tensor in header.items():
            file = tensor.file
            if tensor.dtype not in ITEM_BYTES:
                raise CheckpointError(f"{file}: {name} is of type {tensor.dtype}, which no Moshi checkpoint has")
            if name in tensors:
                raise CheckpointError(f"{name} is in both {tensors[name].file.name} and {file.name} of {file.parent}")
            tensors[name] = tensor
    return tensors


def read_header(file: Path) -> dict[str, Tensor]:
    """The header of one safetensors file.

    Raises:
        CheckpointError: the file is truncated or no safetensors file.
    """
    try:
        with safe_open(str(file), framework="numpy") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
            return {n: Tensor(file, str(s.get_dtype()), tuple(s.get_shape())) for n, s in slices.items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{file} is truncated or not a safetensors file ({error}); download it again") from None


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
    mode = FLOAT_MODES.get((bits, group)) if scales.dtype == "U8" else None
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


@dataclass(frozen=True)
class Differences:
    """What a checkpoint's headers hold otherwise than its configuration asks for."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[str, ...]
    """A sentence each: the tensor, its shape, and the shape asked for."""
    mistyped: tuple[str, ...]

    def __bool__(self) -> bool:
        return any((self.missing, self.unexpected, self.misshapen, self.mistyped))


def differences(checkpoint: Checkpoint) -> Differences:
    """Compare names, shapes and types of all tensors with those that the configuration asks for.

    Raises:
        CheckpointError: a quantized tensor's shape makes no sense.
    """
    tensors, expected = checkpoint.tensors, expected_tensors(checkpoint)
    shared = [(name, tensors[name], *wanted) for name, wanted in expected.items() if name in tensors]
    return Differences(
        tuple(name for name in expected if name not in tensors),
        tuple(name for name in tensors if name not in expected),
        tuple(
            f"{tensor.file}: {name} has shape {list(tensor.shape)}, and config.json asks for {list(shape)}"
            for name, tensor, shape, _ in shared
            if tensor.shape != shape
        ),
        tuple(
            f"{tensor.file}: {name} is of type {tensor.dtype}, which cannot be right"
            for name, tensor, _, types in shared
            if tensor.dtype not in types
        ),
    )


def verify(checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint that this version cannot run, or whose files are not what its configuration asks for.

    Raises:
        ConfigError: what it asks for cannot be run.
        CheckpointError: the first difference.
    """
    where, found = checkpoint.folder, differences(checkpoint)
    if found.missing:
        raise CheckpointError(f"{where}: {_some(found.missing)} missing; the file is incomplete or of another model")
    if found.unexpected:
        raise CheckpointError(
            f"{where}: {_some(found.unexpected)} not part of this model; config.json and weights do not match"
        )
    for sentence in (*found.misshapen, *found.mistyped):
        raise CheckpointError(sentence)
    check_declared(where, checkpoint.config.raw.get("quantization"), checkpoint.formats)


def _some(names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"{names[0]} is"
    return f"{len(names)} tensors ({names[0]}, …) are"
