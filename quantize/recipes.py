"""Which layer gets which bits, and what that makes in bytes.

What a recipe weighs is a fact and computed here. What it costs in quality only a trained model can tell:
`moshi-mlx compare` measures it.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from moshi_mlx.checkpoint.formats import FLOAT_MODES, Format
from moshi_mlx.checkpoint.names import is_condition, matrices, module_of, published_shapes
from moshi_mlx.config import LMConfig
from moshi_mlx.errors import MoshiError

Formats = dict[str, Format | None]
"""Format of every published module with a matrix; None where it stays bfloat16."""

BITS = (2, 3, 4, 5, 6, 8)
GROUP_SIZES = (32, 64, 128)
_FLOATING = {mode: Format(bits, group, mode) for (bits, group), mode in FLOAT_MODES.items()}
MODES = ("affine", *_FLOATING)
PARTS = ("embeddings", "temporal", "edges", "heads", "depth")


@dataclass(frozen=True)
class Recipe:
    """Bits for the bulk of the network, and perhaps more of them for what is small or sensitive."""

    name: str
    bulk: Format | None
    """Format of the temporal transformer's inner layers; None leaves everything bfloat16."""
    careful: Format | None
    """Format of embeddings, heads, depth transformer, and the first and last temporal layers."""
    reason: str

    def formats(self, config: LMConfig) -> Formats:
        """What every module of a model gets.

        Raises:
            MoshiError: a group size does not divide a layer.
        """
        found: Formats = {}
        for module, shape in matrices(config).items():
            form = self.bulk if part_of(module, config) == "temporal" else self.careful
            if form is not None and shape[1] % form.group_size:
                raise MoshiError(
                    f"{module} has rows of {shape[1]}, which groups of {form.group_size} do not divide; "
                    f"{_advice(config)}"
                )
            found[module] = form
        return found

    @property
    def file_name(self) -> str | None:
        """The one file that Kyutai's program looks for, if it knows the recipe."""
        return KYUTAI_NAMES.get(self.bulk) if self.bulk == self.careful else None


KYUTAI_NAMES: dict[Format | None, str] = {Format(8, 64): "model.q8.safetensors", Format(4, 32): "model.q4.safetensors"}

BFLOAT16 = Recipe("bf16", None, None, "not quantized")

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("q8", Format(8, 64), Format(8, 64), "Kyutai's larger one: half of bf16"),
        Recipe("q4", Format(4, 32), Format(4, 32), "Kyutai's smaller one: for 8 GB of memory, with --kv-bits 8"),
        Recipe(
            "mixed_4_8",
            Format(4, 64),
            Format(8, 64),
            "a tenth more than q4, for twice the bits where an error spreads: the depth transformer feeds each "
            "codebook's to the next, the first layers theirs to all; embeddings cost size but no time",
        ),
        Recipe(
            "mixed_4_6",
            Format(4, 64),
            Format(6, 64),
            "the size of q4, with the bits that its small groups cost given to embeddings, heads, depth and "
            "edge layers",
        ),
        Recipe(
            "mixed_3_6",
            Format(3, 64),
            Format(6, 64),
            "smaller and faster than q4: for 8 GB shared with other programs, or slow memory",
        ),
    )
}


def choose(
    name: str | None = None, bits: int | None = None, group_size: int | None = None, mode: str = "affine"
) -> Recipe:
    """A recipe by its name, or from flags; q4 when nothing is said.

    Raises:
        MoshiError: unknown name, or flags that contradict each other.
    """
    if name is not None:
        if bits is not None or group_size is not None or mode != "affine":
            raise MoshiError("--recipe says all bits and groups; give it alone, without --q-bits and its like")
        if name not in RECIPES:
            raise MoshiError(f"there is no recipe {name!r}; choose one of {', '.join(RECIPES)}")
        return RECIPES[name]
    form = _float_format(mode, bits, group_size) if mode != "affine" else _affine_format(bits, group_size)
    for recipe in RECIPES.values():
        if recipe.bulk == recipe.careful == form:
            return recipe
    label = f"q{form.bits}_g{form.group_size}" if mode == "affine" else mode
    return Recipe(label, form, form, "chosen by flags")


def _affine_format(bits: int | None, group_size: int | None) -> Format:
    bits = 4 if bits is None else bits
    group_size = group_size or (32 if bits == 4 else 64)
    if bits not in BITS or group_size not in GROUP_SIZES:
        raise MoshiError(
            f"MLX has no {bits} bits in groups of {group_size}; bits are {_list(BITS)}, groups {_list(GROUP_SIZES)}"
        )
    return Format(bits, group_size)


def _float_format(mode: str, bits: int | None, group_size: int | None) -> Format:
    form = _FLOATING.get(mode)
    if form is None:
        raise MoshiError(f"there is no quantization mode {mode!r}; choose one of {', '.join(MODES)}")
    if bits not in (None, form.bits) or group_size not in (None, form.group_size):
        raise MoshiError(f"{mode} has {form.bits} bits in groups of {form.group_size}, and no others")
    return form


def _list(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))


def _advice(config: LMConfig) -> str:
    fitting = [size for size in GROUP_SIZES if all(shape[1] % size == 0 for shape in matrices(config).values())]
    if not fitting:
        return "no group size divides every layer of this model"
    return f"groups of {' or '.join(map(str, fitting))} do"


def part_of(module: str, config: LMConfig) -> str:
    """Where a published module belongs: one of PARTS."""
    if module.startswith(("text_emb", "audio_embs.")):
        return "embeddings"
    if module.startswith("depformer."):
        rest = module.split(".", 3)[3]
        return "embeddings" if rest.startswith("emb") else "heads" if rest == "linear_out" else "depth"
    if module.startswith("transformer.layers."):
        layer, last = int(module.split(".")[2]), config.transformer.num_layers - 1
        return "edges" if min(layer, last - layer) < edge_layers(config) else "temporal"
    return "heads"


def edge_layers(config: LMConfig) -> int:
    """How many temporal layers at each end count as edges: one in sixteen, two of Moshi's 32."""
    return max(1, config.transformer.num_layers // 16)


@dataclass(frozen=True)
class Size:
    """What a model weighs."""

    parameters: int
    nbytes: int
    """Bytes of all tensors."""
    frame_bytes: int
    """Bytes of weights that one frame reads: each depth step its set, of an embedding one row, no conditioner."""
    parts: dict[str, int]
    """Bytes by part of the network; norms count with their layer."""

    @property
    def bits_per_weight(self) -> float:
        """Scales and biases included."""
        return 8 * self.nbytes / self.parameters


def size_of(config: LMConfig, formats: Formats) -> Size:
    """The size of a model in given formats, everything else bfloat16, conditioners float32."""
    parts: Counter[str] = Counter(dict.fromkeys(PARTS, 0))
    parameters = frame = 0
    for name, shape in published_shapes(config).items():
        module = module_of(name)
        columns = math.prod(shape[1:])
        row = 4 * columns if is_condition(module) else row_bytes(columns, formats.get(module))
        part = part_of(module, config)
        parts[part] += shape[0] * row
        parameters += shape[0] * columns
        frame += row * _rows_read(module, part, shape[0])
    return Size(parameters, sum(parts.values()), frame, dict(parts))


def _rows_read(module: str, part: str, rows: int) -> int:
    """How many of its rows a frame reads."""
    if is_condition(module):  # once a conversation
        return 0
    if module.endswith(".cross_attention.in_proj"):  # the queries'; what they meet is worked out once as well
        return rows // 3
    looked_up = part == "embeddings" and not module.endswith((".low_rank", ".out1", ".out2"))
    return 1 if looked_up else rows


def row_bytes(columns: int, form: Format | None) -> int:
    """Bytes of one row: packed values, and two bfloat16 per group, or one byte in the floating-point modes."""
    if form is None:
        return 2 * columns
    groups = columns // form.group_size
    return columns * form.bits // 8 + groups * (4 if form.mode == "affine" else 1)
